// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Forward and the gradient of the input for filters of 3x3x3 at stride 1: a walk down the rows of
// three planes at once.
//
// As in walk.cuh a thread owns a strip of P outputs along W (times V channels) and keeps the filter
// and a sum for each output and filter row in registers; in each round a row of each of the three
// planes meets the sums:
//
//   iteration i:  sum[age] = sum[age - 1] + filter row (0, age) * row of plane z - 1
//                                         + filter row (1, age) * row of plane z + ...
//
// The 27 taps leave room for two channels.  An input is loaded 3 (P + 2) / P times, of which two
// thirds hit the second-level cache.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/walk.cuh"

namespace fastconv::depthwise_conv {

template <class T, int V, int P, bool kRuns>
__global__ void __launch_bounds__(kWalkThreads, V > 1 || sizeof(T) == 8 ? 3 : 4)
    walk_planes_kernel(const Walk g) {
  using A = Accum<T>;
  constexpr int K = 3, kTaps = K * K * K;
  using Taps = WalkTaps<K, 1, 1, P, kRuns ? 1 : 0>;
  using Row = WalkRow<T, V, Taps, P, kRuns>;
  FASTCONV_DYNAMIC_SMEM(T, staged);

  const int block = blockIdx.x;
  const int block_rest = g.by_segments.divide(block);
  const int segment = block - block_rest * g.by_segments.value;
  const int slot_block = g.by_chunks.divide(block_rest);
  const int first_fast = (block_rest - slot_block * g.by_chunks.value) * g.block_fast;
  const int first_slot = slot_block * g.block_slots;
  stage_filters<T, V, kTaps>(g, first_fast, first_slot, staged);
  __syncthreads();

  const int thread_slot = g.by_block_fast.divide(threadIdx.x);
  const int thread_fast = threadIdx.x - thread_slot * g.block_fast;
  const int fast = first_fast + thread_fast, slot = first_slot + thread_slot;
  if (fast >= g.fast || slot >= g.slots) return;
  const int image_plane = g.by_inner.divide(slot), inner = slot - image_plane * g.by_inner.value;
  const int n = g.by_depth.divide(image_plane), plane = image_plane - n * g.by_depth.value;
  const int channel = g.channels_last ? fast * V : inner;
  const int strip = (g.channels_last ? inner : fast) * P;

  A weight[K][K][K][V], bias[V];
  {
    const T* own = staged + (g.channels_last ? thread_fast * V : thread_slot) * kTaps;
    const int step = g.flip ? -1 : 1;
    if (g.flip) own += kTaps - 1;
#pragma unroll
    for (int v = 0; v < V; ++v) {
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        weight[t / 9][t / 3 % 3][t % 3][v] = gpu::widen(own[t * step + v * kTaps]);
      }
      const T* b = static_cast<const T*>(g.bias);
      bias[v] = b != nullptr ? gpu::widen(b[channel + v]) : A(0);
    }
  }

  const int begin = segment * g.segment_rows, end = min(begin + g.segment_rows, g.rows.groups);
  const int first_column = strip + g.columns.in_shift;
  const uint32_t columns = Row::mask(first_column, g.columns.in);
  int row = begin + g.rows.in_shift;
  const int last_row = min(g.rows.in, end - 1 + g.rows.in_shift + K);
  const T* from[K];
  uint32_t masks[K];  // of columns, where there is such a plane
#pragma unroll
  for (int z = 0; z < K; ++z) {
    masks[z] = plane + z >= 1 && plane + z <= g.by_depth.value ? columns : 0;
    from[z] = static_cast<const T*>(g.in) + n * g.in_n + channel * g.in_c +
              (plane + z - 1) * g.in_plane + row * g.in_row + int64_t{first_column} * g.in_column;
  }
  uint32_t stores = 0;
#pragma unroll
  for (int p = 0; p < P; ++p) {
    if (strip + p < g.columns.out) stores |= 1u << p;
  }
  T* to = static_cast<T*>(g.out) + n * g.out_n + channel * g.out_c + plane * g.out_plane +
          begin * g.out_row + int64_t{strip} * g.out_column;

  const int in_column = g.in_column * static_cast<int>(sizeof(T));  // in bytes
  [[maybe_unused]] const int out_column = g.out_column * static_cast<int>(sizeof(T));
  Row next[K];
#pragma unroll
  for (int z = 0; z < K; ++z) {
    next[z].load(from[z], in_column, row >= 0 && row < last_row ? masks[z] : 0);
  }
  A sum[K][P][V];
#pragma unroll
  for (int i = 0; i < K * P * V; ++i) sum[i / (P * V)][i / V % P][i % V] = 0;

#pragma unroll 1
  for (int i = begin; i < end + K - 1; ++i) {
    ++row;
#pragma unroll
    for (int z = 0; z < K; ++z) {
      A x[Taps::kColumns][V];
#pragma unroll
      for (int c = 0; c < Taps::kColumns; ++c) {
#pragma unroll
        for (int v = 0; v < V; ++v) x[c][v] = next[z].widened(c, v);
      }
      from[z] += g.in_row;
      next[z].load(from[z], in_column, row >= 0 && row < last_row ? masks[z] : 0);
#pragma unroll
      for (int a = K - 1; a >= 0; --a) {
#pragma unroll
        for (int p = 0; p < P; ++p) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            if (z == 0) sum[a][p][v] = a > 0 ? sum[a - 1][p][v] : bias[v];
#pragma unroll
            for (int k = 0; k < K; ++k) {
              sum[a][p][v] += weight[z][a][k][v] * x[Taps::column(p, 0, k)][v];
            }
          }
        }
      }
    }
    if (i < begin + K - 1) continue;
    store_row<T, V, P, kRuns>(to, out_column, stores, g.activation, sum[K - 1]);
    to += g.out_row;
  }
}

template <class T, WalkKind kKind>
cudaError_t run_walk_planes(const WalkPlan& plan, cudaStream_t stream) {
  constexpr int V = walk_planes_lanes(kKind, sizeof(T));
  if constexpr (V > 0) {
    auto kernel = walk_planes_kernel<T, V, walk_outputs(kKind, 1, 1), in_columns(kKind)>;
    return FASTCONV_LAUNCH(kernel, dim3(static_cast<unsigned>(plan.grid)),
                           dim3(plan.walk.block_fast * plan.walk.block_slots),
                           static_cast<size_t>(plan.smem), stream, plan.walk);
  } else {
    return cudaErrorInvalidValue;
  }
}

template <class T>
cudaError_t launch_walk_planes(const WalkPlan& plan, cudaStream_t stream) {
  switch (kTiles[plan.tile].walk) {
    case WalkKind::kScalar:
      return run_walk_planes<T, WalkKind::kScalar>(plan, stream);
    case WalkKind::kChannels:
      return run_walk_planes<T, WalkKind::kChannels>(plan, stream);
    case WalkKind::kColumns4:
      return run_walk_planes<T, WalkKind::kColumns4>(plan, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fastconv::depthwise_conv
