// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/weight_gradient.cuh"

namespace fastconv::depthwise_conv {

template cudaError_t launch_gradient<double>(const GradientPlan&, cudaStream_t);
template cudaError_t add_splits<double>(const Splits&, cudaStream_t);

}  // namespace fastconv::depthwise_conv
