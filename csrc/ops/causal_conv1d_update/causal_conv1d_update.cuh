// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CUDA kernel: a thread for each channel of each sequence.  The tensors of a step are small,
// the launch is most of the time.
#pragma once

#include "common/activation.cuh"
#include "common/gpu.h"
#include "ops/causal_conv1d_update/causal_conv1d_update.h"

namespace fastconv::causal_conv1d_update {

using gpu::Accum;

constexpr int kThreads = 128;

inline __host__ __device__ unsigned blocks_per_sample(const Params& p) {
  return static_cast<unsigned>(ceil_div(p.channels, kThreads));
}

template <class T>
__global__ void __launch_bounds__(kThreads) update_kernel(const Params p) {
  using A = Accum<T>;
  // Whole blocks for each sample: a division of 32 bits, and no call, which would spill.
  const unsigned blocks = blocks_per_sample(p);
  const int64_t b = blockIdx.x / blocks;
  const int64_t c = static_cast<int64_t>(blockIdx.x % blocks) * kThreads + threadIdx.x;
  if (c >= p.channels) return;
  const auto place = [&](const Strides& s) { return b * s.batch + c * s.channel; };
  const T* x = static_cast<const T*>(p.x) + place(p.x_strides);
  T* state = static_cast<T*>(p.state) + place(p.state_strides);
  T* y = static_cast<T*>(p.y) + place(p.y_strides);
  const T* w = static_cast<const T*>(p.weight) + c * p.weight_channel;
  const A bias = p.bias == nullptr ? A(0) : A(gpu::widen(static_cast<const T*>(p.bias)[c]));
  // Element `at` of the state followed by the new ones.
  const auto element = [&](int64_t at) {
    return at < p.state_length ? state[at * p.state_strides.time]
                               : x[(at - p.state_length) * p.x_strides.time];
  };
  for (int64_t t = 0; t < p.length; ++t) {
    A sum[1] = {bias};
    int64_t from = p.state_length + t - (p.taps - 1) * p.dilation;
    for (int64_t j = 0; j < p.taps; ++j, from += p.dilation) {
      sum[0] += gpu::widen(w[j * p.weight_tap]) * gpu::widen(element(from));
    }
    activate(p.activation, sum);
    y[t * p.y_strides.time] = gpu::narrow<T>(sum[0]);
  }
  // Every element comes from a later place, so that this order overwrites none too early.
  for (int64_t k = 0; k < p.state_length; ++k) {
    state[k * p.state_strides.time] = element(p.length + k);
  }
}

template <class T>
cudaError_t launch_typed(const Params& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.batch) * blocks_per_sample(p));
  return FASTCONV_LAUNCH(update_kernel<T>, grid, dim3(kThreads), 0, stream, p);
}

}  // namespace fastconv::causal_conv1d_update
