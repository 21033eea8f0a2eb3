// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CUDA launchers of depthwise convolution.  `tile` < 0 lets pick_tile() decide.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/depthwise_conv/depthwise_conv.h"

namespace fastconv::depthwise_conv {

cudaError_t forward_cuda(const Forward& p, int tile, cudaStream_t stream);
cudaError_t backward_data_cuda(const BackwardData& p, int tile, cudaStream_t stream);
cudaError_t backward_weight_cuda(const BackwardWeight& p, int tile, cudaStream_t stream);
// For a tile that backward_tile_cuda() names.
cudaError_t backward_cuda(const Backward& p, int tile, cudaStream_t stream);

}  // namespace fastconv::depthwise_conv
