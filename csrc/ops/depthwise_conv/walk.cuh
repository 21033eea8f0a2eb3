// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Forward and the gradient of the input for square filters of 3, 5 and 7 taps at strides 1 and 2.
//
// A thread owns a strip of P outputs along W (times V channels) and walks down the rows.  The whole
// filter and one accumulator per output and filter row stay in registers, so that every input is
// loaded once, widened once and multiplied with all the taps that meet it:
//
//   iteration i loads input row(s) i; the outputs of age a began a iterations ago:
//     sum[a] = sum[a - 1] + filter row a * input,   and what reaches the last age is stored.
//
// The sums change places while they are added to, at no cost.  `kDown` is the stride of a forward
// pass (input rows per iteration), `kUp` that of a gradient (output rows per iteration): with a
// stride of 2 the two parities of the outputs have their own taps, known to the compiler.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/walk_launch.cuh"
#include "ops/depthwise_conv/walk_row.cuh"

namespace fastconv::depthwise_conv {

// The filters of a block's channels, [channel][tap] as in memory, neighbouring threads taking
// neighbouring taps.
template <class T, int V, int kTaps>
__device__ __forceinline__ void stage_filters(const Walk& g, int first_fast, int first_slot,
                                              T* staged) {
  const T* weight = static_cast<const T*>(g.weight);
  const int threads = g.block_fast * g.block_slots;
  const int rows = g.channels_last ? g.block_fast * V : g.block_slots;
  for (int i = threadIdx.x; i < rows * kTaps; i += threads) {
    const int row = i / kTaps;
    int channel = first_fast * V + row;
    if (!g.channels_last) {  // slots behind the last one go round
      const int slot = first_slot + row;
      channel = slot - g.by_inner.divide(slot) * g.by_inner.value;
    }
    if (channel < g.channels) {
      staged[i] = weight[int64_t{channel} * kTaps + (i - row * kTaps)];
    }
  }
}

// Blocks that must fit on a multiprocessor: what bounds the registers.
template <class T, int V, int K, int kDown, int kUp, int P, bool kRuns>
constexpr int walk_blocks() {
  if (K == 7) return V * sizeof(Accum<T>) > 4 ? 2 : 3;
  if (V == 8) return 2;
  if (V > 1) return sizeof(T) == 8 || (kDown * kUp == 1 && sizeof(T) * K > 6) ? 3 : 4;
  if (K == 5) return sizeof(T) == 8 ? 3 : 4;
  if (sizeof(T) == 8) return 5;
  // Rows as vectors have few bytes under way and need the warps: without a bound, the temporaries
  // of an activation would take up to eight registers more than all else.
  if (kRuns && kUp == 1) return P == 8 ? 8 : sizeof(T) * kDown == 2 ? 10 : 9;
  return 6;
}

// kRuns: the tensors' rows are contiguous and aligned, and the padding along them is (K - 1) / 2.
template <class T, int V, int K, int kDown, int kUp, int P, bool kRuns>
__global__ void __launch_bounds__(kWalkThreads, (walk_blocks<T, V, K, kDown, kUp, P, kRuns>()))
    walk_kernel(const Walk g) {
  using A = Accum<T>;
  using Taps = WalkTaps<K, kDown, kUp, P, kRuns ? (K - 1) / 2 : 0>;
  using Rows = WalkTaps<K, kDown, kUp, 1, 0>;
  using Row = WalkRow<T, V, Taps, P * kDown, kRuns>;
  constexpr int kAges = Rows::kAges;
  constexpr int kOutputs = P * kUp;
  // Where arithmetic is the limit, filter rows without an output or an input are left out.
  constexpr bool kSkips = K > 3;
  FASTCONV_DYNAMIC_SMEM(T, staged);

  const int block = blockIdx.x;
  const int block_rest = g.by_segments.divide(block);
  const int segment = block - block_rest * g.by_segments.value;
  const int slot_block = g.by_chunks.divide(block_rest);
  const int first_fast = (block_rest - slot_block * g.by_chunks.value) * g.block_fast;
  const int first_slot = slot_block * g.block_slots;
  stage_filters<T, V, K * K>(g, first_fast, first_slot, staged);
  __syncthreads();

  const int thread_slot = g.by_block_fast.divide(threadIdx.x);
  const int thread_fast = threadIdx.x - thread_slot * g.block_fast;
  const int fast = first_fast + thread_fast, slot = first_slot + thread_slot;
  if (fast >= g.fast || slot >= g.slots) return;
  const int image_plane = g.by_inner.divide(slot), inner = slot - image_plane * g.by_inner.value;
  const int n = g.by_depth.divide(image_plane), plane = image_plane - n * g.by_depth.value;
  const int channel = g.channels_last ? fast * V : inner;
  const int strip = (g.channels_last ? inner : fast) * P;  // its first group

  A weight[K][K][V], bias[V];
  {
    const T* own = staged + (g.channels_last ? thread_fast * V : thread_slot) * (K * K);
    const int step = g.flip ? -1 : 1;
    if (g.flip) own += K * K - 1;
#pragma unroll
    for (int v = 0; v < V; ++v) {
#pragma unroll
      for (int t = 0; t < K * K; ++t)
        weight[t / K][t % K][v] = gpu::widen(own[t * step + v * K * K]);
      const T* b = static_cast<const T*>(g.bias);
      bias[v] = b != nullptr ? gpu::widen(b[channel + v]) : A(0);
    }
  }

  // Groups [begin, end) of rows; iteration i stores group i - (kAges - 1).
  const int begin = segment * g.segment_rows, end = min(begin + g.segment_rows, g.rows.groups);
  const int first_column = strip * kDown + g.columns.in_shift;
  const uint32_t columns = Row::mask(first_column, g.columns.in);
  int row = begin * kDown + g.rows.in_shift;
  const int last_row = min(g.rows.in, (end - 1) * kDown + g.rows.in_shift + (kUp == 1 ? K : kAges));
  const T* from = static_cast<const T*>(g.in) + n * g.in_n + channel * g.in_c + plane * g.in_plane +
                  row * g.in_row + int64_t{first_column} * g.in_column;
  const int first_out = strip * kUp - g.columns.out_shift;
  uint32_t stores = 0;
#pragma unroll
  for (int p = 0; p < kOutputs; ++p) {
    if (first_out + p >= 0 && first_out + p < g.columns.out) stores |= 1u << p;
  }
  int out_row = begin * kUp - g.rows.out_shift;
  T* to = static_cast<T*>(g.out) + n * g.out_n + channel * g.out_c + plane * g.out_plane +
          out_row * g.out_row + int64_t{first_out} * g.out_column;

  Row next;
  const int in_column = g.in_column * static_cast<int>(sizeof(T));  // in bytes
  [[maybe_unused]] const int out_column = g.out_column * static_cast<int>(sizeof(T));
  next.load(from, in_column, row >= 0 && row < last_row ? columns : 0);
  A sum[kAges][kUp][kOutputs][V];
#pragma unroll
  for (int a = 0; a < kAges; ++a) {
#pragma unroll
    for (int e = 0; e < kUp; ++e) {
#pragma unroll
      for (int p = 0; p < kOutputs; ++p) {
#pragma unroll
        for (int v = 0; v < V; ++v) sum[a][e][p][v] = 0;
      }
    }
  }

#pragma unroll 1
  for (int i = begin; i < end + kAges - 1; ++i) {
#pragma unroll
    for (int sub = 0; sub < kDown; ++sub) {
      A x[Taps::kColumns][V];
#pragma unroll
      for (int c = 0; c < Taps::kColumns; ++c) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          x[c][v] = next.widened(c, v);
          if (kSkips) gpu::pin(x[c][v]);
        }
      }
      // Bit a: whether outputs of age a belong to the segment, and meet this row.
      uint32_t alive = ~0u;
      if (kSkips) {
        alive = (2u << min(i - begin, kAges - 1)) - (1u << max(i - end + 1, 0));
        if (row < 0 || row >= last_row) alive = 0;
      }
      ++row;
      from += g.in_row;
      const int in_column = g.in_column * static_cast<int>(sizeof(T));  // in bytes
      [[maybe_unused]] const int out_column = g.out_column * static_cast<int>(sizeof(T));
      next.load(from, in_column, row >= 0 && row < last_row ? columns : 0);

#pragma unroll
      for (int a = kAges - 1; a >= 0; --a) {
        if (sub == 0) {
#pragma unroll
          for (int e = 0; e < kUp; ++e) {
#pragma unroll
            for (int p = 0; p < kOutputs; ++p) {
#pragma unroll
              for (int v = 0; v < V; ++v) sum[a][e][p][v] = a > 0 ? sum[a - 1][e][p][v] : bias[v];
            }
          }
        }
        if (kSkips && (alive & (1u << a)) == 0) continue;
#pragma unroll
        for (int e = 0; e < kUp; ++e) {
          const int tap = Rows::row_tap(a, sub, e);
          if (tap >= K) continue;
#pragma unroll
          for (int k = 0; k < K; ++k) {
#pragma unroll
            for (int p = 0; p < kOutputs; ++p) {
              const int c = Taps::column(p / kUp, p % kUp, k);
              if (c < 0) continue;
#pragma unroll
              for (int v = 0; v < V; ++v) sum[a][e][p][v] += weight[tap][k][v] * x[c][v];
            }
          }
        }
      }
    }
    if (i < begin + kAges - 1) continue;
#pragma unroll
    for (int e = 0; e < kUp; ++e, ++out_row, to += g.out_row) {
      if (kUp > 1 && (out_row < 0 || out_row >= g.rows.out)) continue;
      // None follows a gradient, and only gradients have an upward stride.
      const Activation activation = kUp == 1 ? g.activation : Activation::kNone;
      store_row<T, V, kOutputs, kRuns>(to, out_column, stores, activation, sum[kAges - 1][e]);
    }
  }
}

template <class T, WalkKind kKind, int K, int kDown, int kUp>
cudaError_t run_walk(const WalkPlan& plan, cudaStream_t stream) {
  constexpr int V = walk_lanes(kKind, sizeof(T), K);
  constexpr int P = walk_outputs(kKind, kDown, kUp);
  if constexpr (V > 0 && P > 0) {
    auto kernel = walk_kernel<T, V, K, kDown, kUp, P, in_columns(kKind)>;
    return FASTCONV_LAUNCH(kernel, dim3(static_cast<unsigned>(plan.grid)),
                           dim3(plan.walk.block_fast * plan.walk.block_slots),
                           static_cast<size_t>(plan.smem), stream, plan.walk);
  } else {
    return cudaErrorInvalidValue;
  }
}

template <class T, WalkKind kKind, int K>
cudaError_t run_walk(const WalkPlan& plan, cudaStream_t stream) {
  if (plan.up == 2) return run_walk<T, kKind, K, 1, 2>(plan, stream);
  if (plan.down == 2) return run_walk<T, kKind, K, 2, 1>(plan, stream);
  return run_walk<T, kKind, K, 1, 1>(plan, stream);
}

template <class T>
cudaError_t launch_walk(const WalkPlan& plan, cudaStream_t stream) {
#define FASTCONV_WALK(kind)                                                    \
  if (kTiles[plan.tile].walk == WalkKind::kind) {                              \
    if (plan.kernel == 3) return run_walk<T, WalkKind::kind, 3>(plan, stream); \
    if (plan.kernel == 5) return run_walk<T, WalkKind::kind, 5>(plan, stream); \
    if (plan.kernel == 7) return run_walk<T, WalkKind::kind, 7>(plan, stream); \
  }
  FASTCONV_WALK(kScalar)
  FASTCONV_WALK(kChannels)
  FASTCONV_WALK(kChannels16)
  FASTCONV_WALK(kColumns4)
  FASTCONV_WALK(kColumns8)
#undef FASTCONV_WALK
  return cudaErrorInvalidValue;
}

}  // namespace fastconv::depthwise_conv
