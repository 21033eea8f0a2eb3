// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CUDA launcher of squeeze and excitation.  Params are as cut_for_cuda() leaves them.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/squeeze_excite/squeeze_excite.h"

namespace fastconv::squeeze_excite {

cudaError_t run_cuda(const Params& p, cudaStream_t stream);

}  // namespace fastconv::squeeze_excite
