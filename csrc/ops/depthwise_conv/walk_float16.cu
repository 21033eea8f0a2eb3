// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/walk.cuh"
#include "ops/depthwise_conv/walk_gradient.cuh"

namespace fastconv::depthwise_conv {

template cudaError_t launch_walk<gpu::half>(const WalkPlan&, cudaStream_t);
template cudaError_t launch_walk_gradient<gpu::half>(const WalkGradientPlan&, cudaStream_t);

}  // namespace fastconv::depthwise_conv
