// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/walk_backward.cuh"
#include "ops/depthwise_conv/walk_planes.cuh"

namespace fastconv::depthwise_conv {

template cudaError_t launch_walk_backward<gpu::half>(const WalkBackwardPlan&, cudaStream_t);
template cudaError_t launch_walk_planes<gpu::half>(const WalkPlan&, cudaStream_t);

}  // namespace fastconv::depthwise_conv
