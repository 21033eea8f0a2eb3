// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CUDA launcher of the rearrangements.  `tile` < 0 lets pick_tile() decide; a tile that does
// not fit the problem is cudaErrorInvalidValue.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/rearrange/rearrange.h"

namespace fastconv::rearrange {

cudaError_t copy_cuda(const Copy& copy, int tile, cudaStream_t stream);

}  // namespace fastconv::rearrange
