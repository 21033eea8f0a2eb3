// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// From a dtype to the launchers of its element type.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/launch.cuh"

namespace fastconv::depthwise_conv {

// Calls `run` with a zero of the element type.
template <class Run>
cudaError_t for_dtype(Dtype dtype, const Run& run) {
  switch (dtype) {
    case Dtype::kFloat32:
      return run(float{});
    case Dtype::kFloat64:
      return run(double{});
    case Dtype::kFloat16:
      return run(gpu::half{});
    case Dtype::kBFloat16:
      return run(gpu::bfloat16{});
  }
  return cudaErrorInvalidValue;
}

// Both stages of a gradient of the weight: `first`, called as above, and the sum of the splits.
template <class First>
cudaError_t run_both_stages(Dtype dtype, const Splits& splits, cudaStream_t stream,
                            const First& first) {
  return for_dtype(dtype, [&](auto zero) {
    const cudaError_t error = first(zero);
    return error != cudaSuccess ? error : add_splits<decltype(zero)>(splits, stream);
  });
}

}  // namespace fastconv::depthwise_conv
