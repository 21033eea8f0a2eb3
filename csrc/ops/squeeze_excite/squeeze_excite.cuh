// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CUDA kernels of squeeze and excitation.  Every sum has one owner and a fixed order: no result
// depends on how blocks are scheduled.
#pragma once

#include "common/gpu.h"
#include "ops/squeeze_excite/tiles.h"

namespace fastconv::squeeze_excite {

using gpu::Accum;

// Constants, as device code cannot call what they come from.
template <Pass kPass>
constexpr bool kHasSums = has_sums(kPass);
template <Pass kPass>
constexpr bool kHasGate = has_gate(kPass);

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }

// 1 / (1 + e^-x), or its derivative; neither loses digits by cancellation.
template <class A>
__device__ __forceinline__ A logistic(A x) {
  const A e = exp_of(x < 0 ? x : -x), part = 1 / (1 + e);
  return x < 0 ? e * part : part;
}
template <class A>
__device__ __forceinline__ A logistic_slope(A x) {
  const A e = exp_of(x < 0 ? x : -x), part = 1 / (1 + e);
  return e * part * part;
}

// What a pass multiplies channel `plane` by, or fills it with.
template <class T, Pass kPass>
__device__ __forceinline__ Accum<T> factor_of(const Params& p, int64_t plane) {
  if constexpr (kPass == Pass::kMean) return 0;
  const Accum<T> v = gpu::widen(static_cast<const T*>(p.per_channel)[plane]);
  return kHasGate<kPass> ? logistic(v) : v / static_cast<Accum<T>>(p.pixels);
}

template <class T, Pass kPass>
__device__ __forceinline__ void finish(const Params& p, int64_t plane, Accum<T> sum) {
  if constexpr (kPass == Pass::kMean) {
    sum /= static_cast<Accum<T>>(p.pixels);
  } else {
    sum *= logistic_slope<Accum<T>>(gpu::widen(static_cast<const T*>(p.per_channel)[plane]));
  }
  static_cast<T*>(p.sums)[plane] = gpu::narrow<T>(sum);
}

// Where a channel of an image begins in the tensors that a pass has.
template <class T>
struct Pointers {
  const T *x, *dy;
  T* y;

  __device__ __forceinline__ Pointers(const Params& p, int64_t n, int64_t c)
      : x(static_cast<const T*>(p.x) + n * p.x_strides.n + c * p.x_strides.c),
        dy(static_cast<const T*>(p.dy) + n * p.dy_strides.n + c * p.dy_strides.c),
        y(static_cast<T*>(p.y) + n * p.y_strides.n + c * p.y_strides.c) {}
};

// One element; returns what it adds to the sum.
template <class T, Pass kPass>
__device__ __forceinline__ Accum<T> visit(const Params& p, const Pointers<T>& at, Accum<T> factor,
                                          int64_t pixel) {
  if constexpr (kPass == Pass::kMean) {
    return gpu::widen(at.x[pixel * p.x_strides.p]);
  } else if constexpr (kPass == Pass::kMeanGradient) {
    at.y[pixel * p.y_strides.p] = gpu::narrow<T>(factor);
    return 0;
  } else if constexpr (kPass == Pass::kGate) {
    at.y[pixel * p.y_strides.p] = gpu::narrow<T>(gpu::widen(at.x[pixel * p.x_strides.p]) * factor);
    return 0;
  } else {
    const Accum<T> d = gpu::widen(at.dy[pixel * p.dy_strides.p]);
    at.y[pixel * p.y_strides.p] = gpu::narrow<T>(d * factor);
    return d * gpu::widen(at.x[pixel * p.x_strides.p]);
  }
}

// Planes: kWidth threads (a warp, or the block) take a plane.
template <class T, Pass kPass, int kWidth>
__global__ void __launch_bounds__(kThreads) planes_kernel(const Params p) {
  using A = Accum<T>;
  constexpr int kWarps = kThreads / 32;
  const int lane = threadIdx.x % kWidth, own = threadIdx.x / kWidth;
  const int64_t plane = static_cast<int64_t>(blockIdx.x) * (kThreads / kWidth) + own;
  const bool active = plane < p.batch * p.channels;
  A sum = 0;
  if (active) {
    const int64_t n = plane / p.channels, c = plane - n * p.channels;
    const Pointers<T> at(p, n, c);
    const A factor = factor_of<T, kPass>(p, plane);
#pragma unroll 4
    for (int64_t i = lane; i < p.pixels; i += kWidth) sum += visit<T, kPass>(p, at, factor, i);
  }
  if constexpr (kHasSums<kPass>) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
    if constexpr (kWidth > 32) {
      FASTCONV_STATIC_SMEM(A, sums, kWarps);
      if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
      __syncthreads();
      for (int w = 1; lane == 0 && w < kWarps; ++w) sum += sums[w];
    }
    if (active && lane == 0) finish<T, kPass>(p, plane, sum);
  }
}

// Channels-last: a block is kColumns channels by kRows pixels, and walks over a chunk.
template <class T, Pass kPass>
__global__ void __launch_bounds__(kColumns* kRows) channels_kernel(const Params p) {
  using A = Accum<T>;
  const int column = threadIdx.x % kColumns, row = threadIdx.x / kColumns;
  const int64_t tiles = (p.channels + kColumns - 1) / kColumns;
  const int64_t piece = blockIdx.x / tiles;  // of n * chunks + chunk
  const int64_t c = (blockIdx.x - piece * tiles) * kColumns + column;
  const int64_t n = piece / p.chunks, chunk = piece - n * p.chunks;
  const bool active = c < p.channels;
  A sum = 0;
  if (active) {
    const Pointers<T> at(p, n, c);
    const A factor = factor_of<T, kPass>(p, n * p.channels + c);
    const int64_t begin = chunk * p.per_task;
    const int64_t end = begin + p.per_task < p.pixels ? begin + p.per_task : p.pixels;
#pragma unroll 4
    for (int64_t i = begin + row; i < end; i += kRows) sum += visit<T, kPass>(p, at, factor, i);
  }
  if constexpr (kHasSums<kPass>) {
    FASTCONV_STATIC_SMEM(A, sums, kColumns * kRows);
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (!active || row > 0) return;
    for (int r = 1; r < kRows; ++r) sum += sums[r * kColumns + column];
    if (p.chunks > 1) {
      static_cast<A*>(p.partial)[piece * p.channels + c] = sum;
    } else {
      finish<T, kPass>(p, n * p.channels + c, sum);
    }
  }
}

// Adds the chunks of an image in order: a thread for each of its channels.
template <class T, Pass kPass>
__global__ void __launch_bounds__(kThreads) combine_kernel(const Params p) {
  using A = Accum<T>;
  const int64_t plane = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (plane >= p.batch * p.channels) return;
  const int64_t n = plane / p.channels, c = plane - n * p.channels;
  const A* from = static_cast<const A*>(p.partial) + n * p.chunks * p.channels + c;
  A sum = 0;
#pragma unroll 4
  for (int64_t chunk = 0; chunk < p.chunks; ++chunk) sum += from[chunk * p.channels];
  finish<T, kPass>(p, plane, sum);
}

template <class T, Pass kPass>
cudaError_t launch_pass(const Params& p, cudaStream_t stream) {
  const auto grid = [](int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); };
  const dim3 block(kThreads);
  if (!p.channels_last) {
    if (p.pixels > kLargePlane) {
      return FASTCONV_LAUNCH((planes_kernel<T, kPass, kThreads>), grid(p.planes()), block, 0,
                             stream, p);
    }
    return FASTCONV_LAUNCH((planes_kernel<T, kPass, 32>), grid(ceil_div(p.planes(), kThreads / 32)),
                           block, 0, stream, p);
  }
  const cudaError_t error = FASTCONV_LAUNCH(
      (channels_kernel<T, kPass>), grid(p.batch * p.chunks * ceil_div(p.channels, kColumns)),
      dim3(kColumns * kRows), 0, stream, p);
  if constexpr (kHasSums<kPass>) {
    if (error == cudaSuccess && p.needs_partial()) {
      return FASTCONV_LAUNCH((combine_kernel<T, kPass>), grid(ceil_div(p.planes(), kThreads)),
                             block, 0, stream, p);
    }
  }
  return error;
}

template <class T>
cudaError_t launch_typed(const Params& p, cudaStream_t stream) {
  switch (p.pass) {
    case Pass::kMean:
      return launch_pass<T, Pass::kMean>(p, stream);
    case Pass::kMeanGradient:
      return launch_pass<T, Pass::kMeanGradient>(p, stream);
    case Pass::kGate:
      return launch_pass<T, Pass::kGate>(p, stream);
    default:
      return launch_pass<T, Pass::kGateGradient>(p, stream);
  }
}

}  // namespace fastconv::squeeze_excite
