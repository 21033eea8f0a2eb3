// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/line_run.cuh"

namespace fastconv::depthwise_conv {

template cudaError_t launch_line<double>(const LinePlan&, cudaStream_t);
template cudaError_t launch_line_gradient<double>(const LinePlan&, cudaStream_t);

}  // namespace fastconv::depthwise_conv
