// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CUDA launchers of depth max pooling.  `tile` < 0 lets pick_tile() decide.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/depth_max_pool/depth_max_pool.h"

namespace fastconv::depth_max_pool {

cudaError_t forward_cuda(const Forward& p, int tile, cudaStream_t stream);
cudaError_t backward_cuda(const Backward& p, int tile, cudaStream_t stream);

}  // namespace fastconv::depth_max_pool
