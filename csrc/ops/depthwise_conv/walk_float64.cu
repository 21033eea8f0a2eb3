// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/walk.cuh"

namespace fastconv::depthwise_conv {

template cudaError_t launch_walk<double>(const WalkPlan&, cudaStream_t);

}  // namespace fastconv::depthwise_conv
