// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/line_run.cuh"

namespace fastconv::depthwise_conv {

template cudaError_t launch_line<float>(const LinePlan&, cudaStream_t);
template cudaError_t launch_line_gradient<float>(const LinePlan&, cudaStream_t);

}  // namespace fastconv::depthwise_conv
