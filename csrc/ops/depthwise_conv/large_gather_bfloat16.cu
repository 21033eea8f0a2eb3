// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/large_gather.cuh"

namespace fastconv::depthwise_conv {

template cudaError_t launch_large_gather<gpu::bfloat16>(const LargeGather&, cudaStream_t);

}  // namespace fastconv::depthwise_conv
