// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/large_weight_bands.cuh"

namespace fastconv::depthwise_conv {

template cudaError_t launch_large_weight_bands<gpu::half>(const LargeWeight&, cudaStream_t);

}  // namespace fastconv::depthwise_conv
