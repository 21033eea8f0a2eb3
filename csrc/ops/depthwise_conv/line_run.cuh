// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The launch of the line kernels.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/line_down_gradient.cuh"
#include "ops/depthwise_conv/line_rows.cuh"

namespace fastconv::depthwise_conv {

template <class Kernel, class Params>
cudaError_t run_line(Kernel kernel, const LinePlan& plan, const Params& params,
                     cudaStream_t stream) {
  return FASTCONV_LAUNCH(kernel, dim3(static_cast<unsigned>(plan.grid)), dim3(plan.threads),
                         static_cast<size_t>(plan.smem), stream, params);
}

template <class T>
cudaError_t launch_line(const LinePlan& plan, cudaStream_t stream) {
  constexpr int V = line_lanes(LineKind::kDown, sizeof(T));
  switch (kTiles[plan.tile].line) {
    case LineKind::kRows:
      return run_line(line_rows_kernel<T>, plan, plan.rows, stream);
    case LineKind::kDown:
      return run_line(line_down_kernel<T, V>, plan, plan.down, stream);
    default:
      return run_line(line_down_kernel<T, 1>, plan, plan.down, stream);
  }
}

template <class T>
cudaError_t launch_line_gradient(const LinePlan& plan, cudaStream_t stream) {
  constexpr int V = line_gradient_lanes(LineKind::kDown, sizeof(T));
  switch (kTiles[plan.tile].line) {
    case LineKind::kRows:
      return run_line(line_rows_gradient_kernel<T>, plan, plan.rows_gradient, stream);
    case LineKind::kDown:
      return run_line(line_down_gradient_kernel<T, V>, plan, plan.down_gradient, stream);
    default:
      return run_line(line_down_gradient_kernel<T, 1>, plan, plan.down_gradient, stream);
  }
}

}  // namespace fastconv::depthwise_conv
