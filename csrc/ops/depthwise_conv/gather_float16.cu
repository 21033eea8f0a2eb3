// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/gather.cuh"

namespace fastconv::depthwise_conv {

template cudaError_t launch_gather<gpu::half>(const GatherPlan&, cudaStream_t);

}  // namespace fastconv::depthwise_conv
