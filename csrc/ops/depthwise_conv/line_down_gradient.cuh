// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The gradient of the weight of what line_down.cuh serves, alone or with that of the input: steps
// of P rows of x meet a window of rows of dy, which serve both gradients.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/line_down.cuh"

namespace fastconv::depthwise_conv {

// Taps [kFirst, kFirst + P) of the filter, kBorder: a row of x or dy is missing, and only products
// of two that exist count.
template <bool kBorder, int kFirst, class A, int V>
__device__ __forceinline__ void meet_rows(int taps, uint32_t x_there, uint32_t dy_there,
                                          const A (&x)[kLineRows][V], const A (&low)[kLineRows][V],
                                          const A (&high)[kLineRows][V],
                                          A (&sum)[kLineDownTaps + 1][V]) {
  constexpr int P = kLineRows;
#pragma unroll
  for (int k = 0; k < P; ++k) {
    if (kFirst + k >= taps) continue;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      if (kBorder && ((x_there >> p) & (dy_there >> (k + p)) & 1) == 0) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum[kFirst + k][v] += x[p][v] * (k + p < P ? low[(k + p) % P][v] : high[(k + p) % P][v]);
      }
    }
  }
}

// The same taps in the gradient of the input.
template <int kFirst, class A, int V>
__device__ __forceinline__ void add_rows(int taps, const A* staged, int column, int columns,
                                         const A (&low)[kLineRows][V],
                                         const A (&high)[kLineRows][V], A (&dx)[kLineRows][V]) {
  constexpr int P = kLineRows;
#pragma unroll
  for (int k = 0; k < P; ++k) {
    if (kFirst + k >= taps) continue;
    A w[V];
    LineWeights<A, V>::load(staged, kFirst + k, column, columns, w);
#pragma unroll
    for (int p = 0; p < P; ++p) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        dx[p][v] += w[v] * (k + p < P ? low[(k + p) % P][v] : high[(k + p) % P][v]);
      }
    }
  }
}

// Adds `values` of a block's threads and writes them to the workspace.  Threads of one column of
// channels are block_slots; where lanes share a channel it is all of them.
template <class A, int V, int kValues>
__device__ __forceinline__ void write_line_sums(const LineDownGradient& g, A (&values)[kValues][V],
                                                A* staged, int thread_fast, int thread_slot,
                                                int first_channel, int first_tap, int taps,
                                                bool with_bias, A* partial) {
  int rows = g.block_slots, row = thread_slot, width = g.block_fast * V;
  if (!g.channel_lanes) {
    width = 1;
    rows = static_cast<int>(blockDim.x) / 32;
    row = threadIdx.x / 32;
  }
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    if (g.channel_lanes) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        staged[(row * kValues + i) * width + thread_fast * V + v] = values[i][v];
      }
    } else {
      A sum = values[i][0];
#pragma unroll
      for (int v = 1; v < V; ++v) sum += values[i][v];
      sum = sum_warp(sum);
      if (threadIdx.x % 32 == 0) staged[row * kValues + i] = sum;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kValues * width; i += blockDim.x) {
    const int value = i / width, channel = first_channel + (i - value * width);
    A sum = staged[i];
    for (int r = 1; r < rows; ++r) sum += staged[r * kValues * width + i];
    const bool bias = value == kValues - 1;
    if (channel >= g.channels || (bias ? !with_bias : value >= taps)) continue;
    const int tap = bias ? g.filter.taps : stored_tap(g.filter, first_tap + value);
    partial[int64_t{tap} * g.channels + channel] = sum;
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kLineThreads, V > 1            ? 3
                                                : sizeof(T) == 8 ? 4
                                                                 : 5)
    line_down_gradient_kernel(const LineDownGradient g) {
  using A = Accum<T>;
  using Weights = LineWeights<A, V>;
  constexpr int P = kLineRows, kTaps = kLineDownTaps;
  static_assert(kTaps == 2 * P);
  FASTCONV_DYNAMIC_SMEM(A, staged);  // the filters, then the sums
  const int dilation = g.filter.dilation.value;

  // block -> split, column of channels, group of taps
  const int block_rest = g.by_groups.divide(blockIdx.x);
  const int group = blockIdx.x - block_rest * g.groups;
  const int split = g.by_columns.divide(block_rest);
  const int block_column = block_rest - split * g.by_columns.value;
  const int thread_slot = g.by_block_fast.divide(threadIdx.x);
  const int thread_fast = threadIdx.x - thread_slot * g.block_fast;
  const int first_channel = g.channel_lanes ? block_column * g.block_fast * V : block_column;
  const int first_tap = group * kTaps, taps = min(g.filter.taps - first_tap, kTaps);
  const int columns = g.channel_lanes ? g.block_fast : 1;
  const int column = g.channel_lanes ? thread_fast : 0;
  if (g.with_input) {
    for (int i = threadIdx.x; i < taps * columns * V; i += blockDim.x) {
      const int lane = i / taps, tap = i - lane * taps;
      const int c = g.channel_lanes ? first_channel + lane : first_channel;
      if (c < g.channels) {
        const T* own = static_cast<const T*>(g.weight) + int64_t{c} * g.filter.taps;
        staged[Weights::index(tap, lane / V, columns, lane % V)] =
            gpu::widen(own[stored_tap(g.filter, tap)]);
      }
    }
    __syncthreads();
  }

  A sum[kTaps + 1][V];  // the last: of the bias
#pragma unroll
  for (int k = 0; k <= kTaps; ++k) {
#pragma unroll
    for (int v = 0; v < V; ++v) sum[k][v] = 0;
  }
  const bool with_bias = g.with_bias && group == 0;
  const int block_units = g.channel_lanes ? g.block_slots : static_cast<int>(blockDim.x);
  const int own_unit = g.channel_lanes ? thread_slot : static_cast<int>(threadIdx.x);
  const bool active = !g.channel_lanes || first_channel + thread_fast * V < g.channels;

#pragma unroll 1
  for (int u = split * block_units + own_unit; active && u < g.units; u += g.splits * block_units) {
    const int packs_rest = g.by_packs.divide(u), pack = u - packs_rest * g.by_packs.value;
    const int segments_rest = g.by_segments.divide(packs_rest);
    const int segment = packs_rest - segments_rest * g.by_segments.value;
    const int phase_rest = g.filter.dilation.divide(segments_rest);
    const int phase = segments_rest - phase_rest * dilation;
    const int n = g.by_outer.divide(phase_rest), m = phase_rest - n * g.by_outer.value;
    const int64_t lane = g.channel_lanes ? first_channel + thread_fast * V : pack * V;
    const int c = g.channel_lanes ? 0 : block_column;

    const int first_dy = phase - g.filter.pad + first_tap * dilation;
    const int64_t x_step = g.x_strides.l * dilation, dy_step = g.dy_strides.l * dilation;
    const int64_t dx_step = g.dx_strides.l * dilation;
    const T* x = static_cast<const T*>(g.x) + n * g.x_strides.n + c * g.x_strides.c +
                 m * g.x_strides.m + phase * g.x_strides.l + lane * g.x_strides.lane;
    const T* dy = static_cast<const T*>(g.dy) + n * g.dy_strides.n + c * g.dy_strides.c +
                  m * g.dy_strides.m + first_dy * g.dy_strides.l + lane * g.dy_strides.lane;
    T* dx = static_cast<T*>(g.dx) + n * g.dx_strides.n + c * g.dx_strides.c + m * g.dx_strides.m +
            phase * g.dx_strides.l + lane * g.dx_strides.lane;

    const int begin = g.first_row + segment * g.segment_rows;
    const int end = min(begin + g.segment_rows, g.end_row), last_dy = end + taps - 1;
    LineBlock<T, V> block;
    A low[P][V], high[P][V];
    uint32_t low_there = 0;
    uint32_t high_there = block.load(dy, begin, last_dy, first_dy, dilation, g.out_size, dy_step);
    block.widen(high);
#pragma unroll 1
    for (int q = begin; q < end; q += P) {
      LineBlock<T, V> own;
      const uint32_t x_there = own.load(x, q, end, phase, dilation, g.in_size, x_step);
      if (taps > P && q > begin) {
        high_there = block.load(dy, q, last_dy, first_dy, dilation, g.out_size, dy_step);
        block.widen(high);
      }
      copy_rows(low, high);
      low_there = high_there;
      high_there = block.load(dy, q + P, last_dy, first_dy, dilation, g.out_size, dy_step);
      block.widen(high);
      A in[P][V], sums[P][V];
      own.widen(in);
#pragma unroll
      for (int p = 0; p < P; ++p) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          sums[p][v] = 0;
          if (with_bias && q + p < end) sum[kTaps][v] += low[p][v];
        }
      }
      uint32_t there = low_there | high_there << P;
      if (x_there == (1u << P) - 1 && there == (1u << 2 * P) - 1) {
        meet_rows<false, 0>(taps, x_there, there, in, low, high, sum);
      } else {
        meet_rows<true, 0>(taps, x_there, there, in, low, high, sum);
      }
      if (g.with_input) add_rows<0>(taps, staged, column, columns, low, high, sums);
      if (taps > P) {
        copy_rows(low, high);
        low_there = high_there;
        high_there = block.load(dy, q + 2 * P, last_dy, first_dy, dilation, g.out_size, dy_step);
        block.widen(high);
        there = low_there | high_there << P;
        if (x_there == (1u << P) - 1 && there == (1u << 2 * P) - 1) {
          meet_rows<false, P>(taps, x_there, there, in, low, high, sum);
        } else {
          meet_rows<true, P>(taps, x_there, there, in, low, high, sum);
        }
        if (g.with_input) add_rows<P>(taps, staged, column, columns, low, high, sums);
      }
      if (!g.with_input) continue;
#pragma unroll
      for (int p = 0; p < P; ++p) {
        if ((x_there >> p & 1) != 0) store_lanes<T, V>(dx + (q + p) * dx_step, sums[p]);
      }
    }
  }

  if (g.with_input) __syncthreads();  // the sums take the filters' place
  A* partial =
      static_cast<A*>(g.partial) + static_cast<int64_t>(split) * (g.filter.taps + 1) * g.channels;
  write_line_sums<A, V, kTaps + 1>(g, sum, staged, thread_fast, thread_slot, first_channel,
                                   first_tap, taps, with_bias, partial);
}

}  // namespace fastconv::depthwise_conv
