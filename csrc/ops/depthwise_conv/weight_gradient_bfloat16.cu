// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/weight_gradient.cuh"

namespace fastconv::depthwise_conv {

template cudaError_t launch_gradient<gpu::bfloat16>(const GradientPlan&, cudaStream_t);

}  // namespace fastconv::depthwise_conv
