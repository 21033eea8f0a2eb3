// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Filters along contiguous lines, (N, C, L): forward and the gradient of the input in one kernel,
// the gradient of the weight, alone or with that of the input, in another.
//
// A thread owns 16 bytes of outputs, V of them, at an aligned address, and takes its inputs as
// aligned vectors too, whatever the padding: taps have *positions* relative to the aligned address
// of the first input, and meet the vectors of inputs in chunks of V positions.
//
//   chunk j, tap at position V * j + k:   sum[p] += w * x[k + p]   with x: vectors j and j + 1
//
// Neighbours' inputs come by loads, not by shuffles: a vector is one instruction, and the warp has
// just loaded those bytes; in shuffles it would be four, and a load for the first lane all the
// same.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/line.cuh"

namespace fastconv::depthwise_conv {

// The taps of one chunk.  kAll: there is one at every position.
template <bool kAll, class A, int V>
__device__ __forceinline__ void add_chunk(uint32_t taps, const A* filter, const A (&x)[2 * V],
                                          A (&sum)[V]) {
  constexpr int kGroup = 16 / sizeof(A) < V ? 16 / sizeof(A) : V;
#pragma unroll
  for (int first = 0; first < V; first += kGroup) {
    const Pack<A, kGroup> w = gpu::load_pack<A, kGroup>(filter + first);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      if (!kAll && (taps >> (first + k) & 1) == 0) continue;
#pragma unroll
      for (int p = 0; p < V; ++p) sum[p] += w.v[k] * x[first + k + p];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kLineThreads, sizeof(T) == 8 ? 6 : 8)
    line_rows_kernel(const LineRows g) {
  using A = Accum<T>;
  constexpr int V = kPackBytes / sizeof(T);
  constexpr uint32_t kAll = (1u << V) - 1;
  FASTCONV_DYNAMIC_SMEM(A, staged);  // [slot][position], then a mask for every chunk
  const int positions = g.chunks * V;
  uint32_t* const masks = reinterpret_cast<uint32_t*>(staged + g.block_slots * positions);

  const int block_rest = g.by_segments.divide(blockIdx.x);
  const int segment = blockIdx.x - block_rest * g.by_segments.value;
  const int first_row = block_rest * g.block_slots;
  const int threads = g.block_fast * g.block_slots;
  const T* weight = static_cast<const T*>(g.weight);
  for (int i = threadIdx.x; i < g.block_slots * positions; i += threads) {
    const int slot = g.by_positions.divide(i), row = min(first_row + slot, g.rows - 1);
    const int line = g.by_outer.divide(row);
    const int c = line - g.by_channels.divide(line) * g.by_channels.value;
    const int tap = tap_at(g.filter, i - slot * positions, g.first);
    A w = 0;
    if (tap >= 0) w = gpu::widen(weight[int64_t{c} * g.filter.taps + stored_tap(g.filter, tap)]);
    staged[i] = w;
  }
  for (int j = threadIdx.x; j < g.chunks; j += threads) {
    uint32_t mask = 0;
    for (int k = 0; k < V; ++k) {
      if (tap_at(g.filter, j * V + k, g.first) >= 0) mask |= 1u << k;
    }
    masks[j] = mask;
  }
  __syncthreads();

  const int slot = g.by_block_fast.divide(threadIdx.x);
  const int thread_fast = threadIdx.x - slot * g.block_fast;
  const int row = first_row + slot;
  if (row >= g.rows) return;
  const int line = g.by_outer.divide(row), m = row - line * g.by_outer.value;
  const int n = g.by_channels.divide(line), c = line - n * g.by_channels.value;
  const A* filter = staged + slot * positions;
  const T* in =
      static_cast<const T*>(g.in) + n * g.in_strides.n + c * g.in_strides.c + m * g.in_strides.m;
  T* out = static_cast<T*>(g.out) + n * g.out_strides.n + c * g.out_strides.c + m * g.out_strides.m;
  const int head = misalignment<T, V>(out);
  const A bias = g.bias != nullptr ? gpu::widen(static_cast<const T*>(g.bias)[c]) : A(0);

  const int begin = segment * g.segment_vectors;
  const int end = min(begin + g.segment_vectors, g.row_vectors);
#pragma unroll 1
  for (int t = begin + thread_fast; t < end; t += g.block_fast) {
    const int o = t * V - head;
    A sum[V], x[2 * V];
#pragma unroll
    for (int p = 0; p < V; ++p) {
      sum[p] = bias;
      x[p] = x[V + p] = 0;
    }
    bool follows = false;  // x begins with the chunk's first vector
    int at = o - g.shift;
#pragma unroll 1
    for (int j = 0; j < g.chunks; ++j, at += V) {
      const uint32_t mask = masks[j];
      if (mask == 0) {
        follows = false;
        continue;
      }
      Raw<T, V> low, high;
      if (!follows) low = load_run<T, V>(in, at, g.in_size, g.in_strides.l, g.vectors);
      if (mask > 1) high = load_run<T, V>(in, at + V, g.in_size, g.in_strides.l, g.vectors);
      if (!follows) {
#pragma unroll
        for (int p = 0; p < V; ++p) x[p] = low[p];
      }
      if (mask > 1) {
#pragma unroll
        for (int p = 0; p < V; ++p) x[V + p] = high[p];
      }
      if (mask == kAll) {
        add_chunk<true>(mask, filter + j * V, x, sum);
      } else {
        add_chunk<false>(mask, filter + j * V, x, sum);
      }
      follows = mask > 1;
#pragma unroll
      for (int p = 0; p < V; ++p) x[p] = x[V + p];
    }
    store_run<T, V>(out, o, g.out_size, g.activation, sum);
  }
}

// One vector of x, the window of dy that meets it, and the sums.
template <class T>
struct LineMeeting {
  using A = Accum<T>;
  static constexpr int V = kPackBytes / sizeof(T);
  static constexpr int kChunks = line_chunks(sizeof(T));
  static constexpr int kPositions = kChunks * V;

  A sum[kPositions];
  A x[V], dy[kPositions + V];

  // kBorder: an element of x or dy is missing, and only products of two that exist count.
  template <bool kBorder>
  __device__ __forceinline__ void add(uint32_t taps, uint32_t x_there, uint32_t dy_there,
                                      const A* filter, bool with_input, A (&dx)[V]) {
#pragma unroll
    for (int k = 0; k < kPositions; ++k) {
      if ((taps >> k & 1) == 0) continue;
#pragma unroll
      for (int p = 0; p < V; ++p) {
        if (kBorder && ((x_there >> p) & (dy_there >> (k + p)) & 1) == 0) continue;
        sum[k] += x[p] * dy[k + p];
      }
      if (with_input) {
        const A w = filter[k];
#pragma unroll
        for (int p = 0; p < V; ++p) dx[p] += w * dy[k + p];
      }
    }
  }
};

// Bits of the elements [at, at + kCount) that lie in [0, size).
template <int kCount>
__device__ __forceinline__ uint32_t inside(int at, int size) {
  static_assert(kCount < 32);
  const int begin = min(max(-at, 0), kCount), end = min(max(size - at, 0), kCount);
  return ((1u << end) - 1) & ~((1u << begin) - 1);
}

template <class T>
__global__ void __launch_bounds__(kLineThreads, 4)
    line_rows_gradient_kernel(const LineRowsGradient g) {
  using A = Accum<T>;
  using Meeting = LineMeeting<T>;
  constexpr int V = Meeting::V, kPositions = Meeting::kPositions;
  FASTCONV_STATIC_SMEM(A, filter, kPositions);
  FASTCONV_STATIC_SMEM(A, warp_sums, kLineThreads / 32 * (kPositions + 1));

  const int rest = g.by_groups.divide(blockIdx.x);
  const int group = blockIdx.x - rest * g.groups;
  const int split = g.by_channels.divide(rest), c = rest - split * g.channels;
  const int first = g.first - group * kPositions;
  uint32_t taps = 0;
#pragma unroll 1
  for (int k = 0; k < kPositions; ++k) {
    const int tap = tap_at(g.filter, k, first);
    if (tap >= 0) taps |= 1u << k;
    if (g.with_input && tap >= 0 && threadIdx.x == 0) {
      const int64_t at = int64_t{c} * g.filter.taps + stored_tap(g.filter, tap);
      filter[k] = gpu::widen(static_cast<const T*>(g.weight)[at]);
    }
  }
  __syncthreads();

  Meeting t;
  A bias = 0;
#pragma unroll
  for (int k = 0; k < kPositions; ++k) t.sum[k] = 0;
  const T* const x = static_cast<const T*>(g.x) + c * g.x_strides.c;
  const T* const dy = static_cast<const T*>(g.dy) + c * g.dy_strides.c;
  T* const dx = static_cast<T*>(g.dx) + c * g.dx_strides.c;
  const bool with_bias = g.with_bias && group == 0;

#pragma unroll 1
  for (int u = split * blockDim.x + threadIdx.x; u < g.units; u += g.splits * blockDim.x) {
    const int row = g.by_vectors.divide(u);
    const int vector = g.first_vector + (u - row * g.by_vectors.value);
    const int n = g.by_outer.divide(row), m = row - n * g.by_outer.value;
    const T* x_row = x + n * g.x_strides.n + m * g.x_strides.m;
    const T* dy_row = dy + n * g.dy_strides.n + m * g.dy_strides.m;
    T* dx_row = dx + n * g.dx_strides.n + m * g.dx_strides.m;
    const int at = vector * V - misalignment<T, V>(g.with_input ? dx_row : x_row);
    const int from = at - g.shift + group * kPositions;

    const Raw<T, V> own = load_run<T, V>(x_row, at, g.in_size, g.x_strides.l, g.x_vectors);
    Raw<T, V> window[Meeting::kChunks + 1];
#pragma unroll
    for (int j = 0; j <= Meeting::kChunks; ++j) {
      // A vector is met by the taps of its own chunk and, but for the first, of the one before.
      const uint32_t meets = (taps << V >> (j * V)) & ((2u << (2 * V - 1)) - 2);
      const bool wanted = meets != 0 || (j == 0 && with_bias);
      window[j] = load_run<T, V>(dy_row, wanted ? from + j * V : g.out_size, g.out_size,
                                 g.dy_strides.l, g.dy_vectors);
    }
#pragma unroll
    for (int p = 0; p < V; ++p) t.x[p] = own[p];
#pragma unroll
    for (int j = 0; j < kPositions + V; ++j) t.dy[j] = window[j / V][j % V];
    if (with_bias) {
#pragma unroll
      for (int p = 0; p < V; ++p) bias += t.dy[p];
    }
    A sum[V];
#pragma unroll
    for (int p = 0; p < V; ++p) sum[p] = 0;
    const uint32_t x_there = inside<V>(at, g.in_size);
    const uint32_t dy_there = inside<kPositions + V>(from, g.out_size);
    if (x_there == (1u << V) - 1 && dy_there == (2u << (kPositions + V - 1)) - 1) {
      t.template add<false>(taps, x_there, dy_there, filter, g.with_input, sum);
    } else {
      t.template add<true>(taps, x_there, dy_there, filter, g.with_input, sum);
    }
    if (g.with_input) store_run<T, V>(dx_row, at, g.in_size, Activation::kNone, sum);
  }

  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int k = 0; k <= kPositions; ++k) {
    const A sum = sum_warp(k < kPositions ? t.sum[k] : bias);
    if (threadIdx.x % 32 == 0) warp_sums[warp * (kPositions + 1) + k] = sum;
  }
  __syncthreads();
  const int k = threadIdx.x;
  if (k > kPositions) return;
  A sum = warp_sums[k];
  for (int w = 1; w < static_cast<int>(blockDim.x) / 32; ++w) {
    sum += warp_sums[w * (kPositions + 1) + k];
  }
  A* target = static_cast<A*>(g.partial) +
              static_cast<int64_t>(split) * (g.filter.taps + 1) * g.channels + c;
  if (k == kPositions) {
    if (group == 0) target[int64_t{g.filter.taps} * g.channels] = sum;
  } else if ((taps >> k & 1) != 0) {
    target[int64_t{stored_tap(g.filter, tap_at(g.filter, k, first))} * g.channels] = sum;
  }
}

}  // namespace fastconv::depthwise_conv
