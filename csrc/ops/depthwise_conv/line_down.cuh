// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Filters along lines whose neighbours are contiguous: (N, L, C) in memory, and the first axes of
// 2-D and 3-D tensors.  Forward and the gradient of the input.
//
// A thread owns V neighbouring lanes, 16 bytes of them, and walks down the lines P rows at a time.
// Taps meet rows in chunks of P, as positions do in line_rows.cuh:
//
//   chunk j, tap P * j + k:   sum[p] += w * x[k + p]   with x: the P rows of chunk j and the next P
//
// With one chunk (up to P taps) the later rows of a step are the earlier ones of the next, so that
// each row is loaded once.  A dilation of d makes d lines of each, d rows apart.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/line.cuh"

namespace fastconv::depthwise_conv {

// The filters of a block: [tap][half of V][column][what one access holds], so that neighbouring
// columns meet no bank twice.  A column is a pack of channels, or a channel.
template <class A, int V>
struct LineWeights {
  static constexpr int kAccess = 16 / sizeof(A) < V ? 16 / sizeof(A) : V;
  static_assert(V % kAccess == 0);

  static __device__ __forceinline__ int index(int tap, int column, int columns, int v) {
    return (tap * (V / kAccess) + v / kAccess) * columns * kAccess + column * kAccess + v % kAccess;
  }
  static __device__ __forceinline__ void load(const A* staged, int tap, int column, int columns,
                                              A (&w)[V]) {
#pragma unroll
    for (int v = 0; v < V; v += kAccess) {
      const Pack<A, kAccess> pack =
          gpu::load_pack<A, kAccess>(staged + index(tap, column, columns, v));
#pragma unroll
      for (int q = 0; q < kAccess; ++q) w[v + q] = pack.v[q];
    }
  }
};

// kLineRows rows of V lanes.
template <class T, int V>
struct LineBlock {
  Raw<T, V> rows[kLineRows];

  // Rows [row, row + kLineRows), `step` elements apart, of which those before `end` are wanted; row
  // 0 is input `first`, and neighbours are `dilation` inputs apart.  Returns which of them exist.
  __device__ __forceinline__ uint32_t load(const T* lanes, int row, int end, int first,
                                           int dilation, int size, int64_t step) {
    uint32_t there = 0;
#pragma unroll
    for (int p = 0; p < kLineRows; ++p) {
      const int at = first + (row + p) * dilation;
      const bool exists = row + p < end && at >= 0 && at < size;
      if (exists) there |= 1u << p;
      rows[p].load(exists, lanes + (row + p) * step, 0);
    }
    return there;
  }
  __device__ __forceinline__ void widen(Accum<T> (&x)[kLineRows][V]) const {
#pragma unroll
    for (int p = 0; p < kLineRows; ++p) {
#pragma unroll
      for (int v = 0; v < V; ++v) x[p][v] = rows[p][v];
    }
  }
};

template <class T, int V>
__device__ __forceinline__ void store_lanes(T* to, const Accum<T> (&sum)[V]) {
  Pack<T, V> y;
#pragma unroll
  for (int v = 0; v < V; ++v) y.v[v] = gpu::narrow<T>(sum[v]);
  gpu::store_whole<T, V>(to, y);
}

template <class A, int V>
__device__ __forceinline__ void copy_rows(A (&to)[kLineRows][V], const A (&from)[kLineRows][V]) {
#pragma unroll
  for (int p = 0; p < kLineRows; ++p) {
#pragma unroll
    for (int v = 0; v < V; ++v) to[p][v] = from[p][v];
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kLineThreads, V == 1 ? 6 : 3) line_down_kernel(const LineDown g) {
  using A = Accum<T>;
  using Weights = LineWeights<A, V>;
  constexpr int P = kLineRows;
  FASTCONV_DYNAMIC_SMEM(A, staged);
  const int taps = g.filter.taps, dilation = g.filter.dilation.value;

  const int block_rest = g.by_segments.divide(blockIdx.x);
  const int segment = blockIdx.x - block_rest * g.by_segments.value;
  const int slot_block = g.by_chunks.divide(block_rest);
  const int first_fast = (block_rest - slot_block * g.by_chunks.value) * g.block_fast;
  const int first_slot = slot_block * g.block_slots;
  const int threads = g.block_fast * g.block_slots;
  // slot -> ((n, c), line), phase
  const auto channel_of = [&](int slot) {
    const int line = g.by_outer.divide(g.filter.dilation.divide(slot));
    return line - g.by_channels.divide(line) * g.by_channels.value;
  };
  const int columns = g.channel_lanes ? g.block_fast : g.block_slots;
  for (int i = threadIdx.x; i < taps * columns * V; i += threads) {
    const int lane = g.filter.by_taps.divide(i), tap = i - lane * taps, column = lane / V,
              v = lane - column * V;
    int c = first_fast * V + lane;
    if (!g.channel_lanes) c = channel_of(min(first_slot + column, g.slots - 1));
    if (c < g.channels) {
      const T* own = static_cast<const T*>(g.weight) + int64_t{c} * taps;
      staged[Weights::index(tap, column, columns, v)] = gpu::widen(own[stored_tap(g.filter, tap)]);
    }
  }
  __syncthreads();

  const int thread_slot = g.by_block_fast.divide(threadIdx.x);
  const int thread_fast = threadIdx.x - thread_slot * g.block_fast;
  const int fast = first_fast + thread_fast, slot = first_slot + thread_slot;
  if (fast >= g.fast || slot >= g.slots) return;
  const int phase_rest = g.filter.dilation.divide(slot), phase = slot - phase_rest * dilation;
  const int line = g.by_outer.divide(phase_rest), m = phase_rest - line * g.by_outer.value;
  const int n = g.by_channels.divide(line), c = line - n * g.by_channels.value;
  const int column = g.channel_lanes ? thread_fast : thread_slot;

  const int first_in = phase - g.filter.pad;  // of output 0 of the phase
  const int64_t in_step = g.in_strides.l * dilation, out_step = g.out_strides.l * dilation;
  const T* in = static_cast<const T*>(g.in) + n * g.in_strides.n + c * g.in_strides.c +
                m * g.in_strides.m + first_in * g.in_strides.l +
                int64_t{fast} * V * g.in_strides.lane;
  T* out = static_cast<T*>(g.out) + n * g.out_strides.n + c * g.out_strides.c +
           m * g.out_strides.m + phase * g.out_strides.l + int64_t{fast} * V * g.out_strides.lane;
  A bias[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const T* b = static_cast<const T*>(g.bias);
    bias[v] = b != nullptr ? gpu::widen(b[g.channel_lanes ? fast * V + v : c]) : A(0);
  }

  const int rows = g.filter.dilation.divide(max(g.out_size - phase + dilation - 1, 0));
  const int begin = segment * g.segment_rows, end = min(begin + g.segment_rows, rows);
  const int last_in = end + taps - 1;
  LineBlock<T, V> block;
  A low[P][V], high[P][V];
  block.load(in, begin, last_in, first_in, dilation, g.in_size, in_step);
  block.widen(high);
#pragma unroll 1
  for (int q = begin; q < end; q += P) {
    A sum[P][V];
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int v = 0; v < V; ++v) sum[p][v] = bias[v];
    }
    if (taps > P && q > begin) {
      block.load(in, q, last_in, first_in, dilation, g.in_size, in_step);
      block.widen(high);
    }
#pragma unroll 1
    for (int first = 0; first < taps; first += P) {
      copy_rows(low, high);
      block.load(in, q + first + P, last_in, first_in, dilation, g.in_size, in_step);
      block.widen(high);
#pragma unroll
      for (int k = 0; k < P; ++k) {
        if (first + k >= taps) continue;
        A w[V];
        Weights::load(staged, first + k, column, columns, w);
#pragma unroll
        for (int p = 0; p < P; ++p) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            sum[p][v] += w[v] * (k + p < P ? low[(k + p) % P][v] : high[(k + p) % P][v]);
          }
        }
      }
    }
    activate<P * V>(g.activation, [&](int i) -> A& { return sum[i / V][i % V]; });
#pragma unroll
    for (int p = 0; p < P; ++p) {
      if (q + p < end) store_lanes<T, V>(out + (q + p) * out_step, sum[p]);
    }
  }
}

}  // namespace fastconv::depthwise_conv
