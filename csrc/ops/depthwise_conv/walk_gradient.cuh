// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The gradient of the weight for the filters that walk.cuh serves.
//
// A thread owns a strip of P outputs along W (times V channels) and one sum for every tap, and
// walks down segments of rows: each row of x meets the rows of dy that are up to K - 1 rows older,
// which wait in registers.  So x and dy are read once, not once for every filter row.
//
//   iteration i loads dy row i and the rows of x that begin there:
//     sum[tap row of age a and that row of x] += dy[a] * x
//
// Of 3x3x3, each block takes one of the three filter planes: x and dy are read three times, by
// neighbouring blocks, so twice from the second-level cache.
//
// Blocks write partial sums, [split][tap][channel] with the bias as the last tap, which
// add_splits() adds in order.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/walk_launch.cuh"
#include "ops/depthwise_conv/walk_row.cuh"

namespace fastconv::depthwise_conv {

// Blocks that must fit on a multiprocessor.  A third one would make 3x3 and 5x5 in NHWC spill.
constexpr int kWalkGradientBlocks = 2;

// The rows of x and dy that one thread has, and its sums.
template <class T, int V, int K, int kDown, int P, bool kRuns>
struct GradientWalk {
  using A = Accum<T>;
  using Taps = WalkTaps<K, kDown, 1, P, kRuns ? (K - 1) / 2 : 0>;
  using Rows = WalkTaps<K, kDown, 1, 1, 0>;
  using XRow = WalkRow<T, V, Taps, P * kDown, kRuns>;
  using DyRow = WalkRow<T, V, WalkTaps<1, 1, 1, P, 0>, P, kRuns>;
  static constexpr int kAges = Rows::kAges, kColumns = Taps::kColumns;

  A sum[K][K][V], bias[V];
  A dy[kAges][P][V], x[kColumns][V];
  uint32_t columns, outputs;  // bits of what exists of x and dy

  // Row `sub` of an iteration with the ages in `alive`.  kAbsent: a column or an output is missing,
  // and there are infinities: only products of two elements that exist count.
  template <bool kAbsent>
  __device__ __forceinline__ void accumulate(int sub, uint32_t alive) {
#pragma unroll
    for (int a = 0; a < kAges; ++a) {
      const int tap = Rows::row_tap(a, sub, 0);
      if (tap >= K || (alive & (1u << a)) == 0) continue;
#pragma unroll
      for (int k = 0; k < K; ++k) {
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const int c = Taps::column(p, 0, k);
          if (kAbsent && ((columns >> c) & (outputs >> p) & 1) == 0) continue;
#pragma unroll
          for (int v = 0; v < V; ++v) sum[tap][k][v] += dy[a][p][v] * x[c][v];
        }
      }
    }
  }
};

// Sums kValues values per thread over the threads of a block that share channels, and writes those
// of tap `first` on; `staged` holds kValues of every thread or, if the channels are contiguous, of
// every warp_slots of them.
template <class A, int V, int kValues>
__device__ __forceinline__ void write_sums(const WalkSums& g, A (&values)[kValues][V], A* staged,
                                           int thread_fast, int thread_slot, int first_channel,
                                           A* target) {
  int rows = g.block_slots, row = thread_slot;
  bool writes = true;
  if (!g.channels_last) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        const A other = __shfl_down_sync(~0u, values[i][0], lanes);
        if (lanes < g.warp_slots) values[i][0] += other;
      }
    }
    rows = g.block_slots / g.warp_slots;
    row = thread_slot / g.warp_slots;
    writes = thread_slot % g.warp_slots == 0;
  }
  const int width = g.block_fast * V;
  if (writes) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        staged[(row * kValues + i) * width + thread_fast * V + v] = values[i][v];
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kValues * width; i += g.block_fast * g.block_slots) {
    const int value = i / width, channel = first_channel + (i - value * width);
    A sum = staged[i];
    for (int r = 1; r < rows; ++r) sum += staged[r * kValues * width + i];
    if (channel < g.channels) target[int64_t{value} * g.channels + channel] = sum;
  }
  __syncthreads();
}

template <class T, int V, int K, int kDown, int P, bool kRuns>
__global__ void __launch_bounds__(kWalkThreads, kWalkGradientBlocks)
    walk_gradient_kernel(const WalkGradient g) {
  using A = Accum<T>;
  using Thread = GradientWalk<T, V, K, kDown, P, kRuns>;
  constexpr int kAges = Thread::kAges, kColumns = Thread::kColumns;
  constexpr uint32_t kAllColumns = (1u << kColumns) - 1, kAllOutputs = (1u << P) - 1;
  FASTCONV_DYNAMIC_SMEM(A, staged);

  const int block = g.by_planes.divide(blockIdx.x);
  const int meeting = blockIdx.x - block * g.by_planes.value;
  const int plane_shift = meeting - g.by_planes.value / 2;
  const bool with_bias = g.with_bias && plane_shift == 0;
  const int split = g.by_chunks.divide(block);
  const int first_fast = (block - split * g.by_chunks.value) * g.block_fast;
  const int major = g.by_minor.divide(threadIdx.x);
  const int minor = threadIdx.x - major * g.by_minor.value;
  const int thread_fast = g.channels_last ? minor : major;
  const int thread_slot = g.channels_last ? major : minor;
  const int channel = (first_fast + thread_fast) * V;

  Thread t;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    t.bias[v] = 0;
#pragma unroll
    for (int k = 0; k < K * K; ++k) t.sum[k / K][k % K][v] = 0;
  }

#pragma unroll 1
  for (int unit = split; unit < g.units; unit += g.splits) {
    const int slot_block = g.by_segments.divide(unit);
    const int segment = unit - slot_block * g.by_segments.value;
    const int slot = slot_block * g.block_slots + thread_slot;
    if (channel >= g.channels || slot >= g.slots) continue;
    const int image_plane = g.by_strips.divide(slot);
    const int strip = (slot - image_plane * g.by_strips.value) * P;
    const int n = g.by_depth.divide(image_plane), plane = image_plane - n * g.by_depth.value;
    const int x_plane = plane + plane_shift;
    if (x_plane < 0 || x_plane >= g.by_depth.value) continue;

    const int begin = segment * g.segment_rows, end = min(begin + g.segment_rows, g.rows.out);
    const int first_column = strip * kDown + g.columns.in_shift;
    const uint32_t x_mask = Thread::XRow::mask(first_column, g.columns.in);
    const uint32_t dy_mask = Thread::DyRow::mask(strip, g.columns.out);
    t.columns = t.outputs = 0;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int at = first_column + c + (kRuns ? Thread::Taps::kFirst : 0);
      if (at >= 0 && at < g.columns.in) t.columns |= 1u << c;
    }
#pragma unroll
    for (int p = 0; p < P; ++p) {
      if (strip + p < g.columns.out) t.outputs |= 1u << p;
    }
    const bool whole = t.columns == kAllColumns && t.outputs == kAllOutputs;
    bool infinities = false;  // where not whole

    int row = begin * kDown + g.rows.in_shift;
    const int last_row = min(g.rows.in, (end - 1) * kDown + g.rows.in_shift + K);
    const int x_column = g.x_column * static_cast<int>(sizeof(T));  // in bytes
    const int dy_column = g.dy_column * static_cast<int>(sizeof(T));
    const T* x = static_cast<const T*>(g.x) + n * g.x_n + channel * g.x_c + x_plane * g.x_plane +
                 row * g.x_row + int64_t{first_column} * g.x_column;
    const T* dy = static_cast<const T*>(g.dy) + n * g.dy_n + channel * g.dy_c + plane * g.dy_plane +
                  begin * g.dy_row + int64_t{strip} * g.dy_column;
    typename Thread::XRow next_x;
    typename Thread::DyRow next_dy;
    next_x.load(x, x_column, row >= 0 && row < last_row ? x_mask : 0);
    next_dy.load(dy, dy_column, dy_mask);
#pragma unroll
    for (int a = 0; a < kAges; ++a) {
#pragma unroll
      for (int p = 0; p < P; ++p) {
#pragma unroll
        for (int v = 0; v < V; ++v) t.dy[a][p][v] = 0;
      }
    }

#pragma unroll 1
    for (int i = begin; i < end + kAges - 1; ++i) {
      A finite = 0;  // NaN if anything is not
#pragma unroll
      for (int p = 0; p < P; ++p) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
          for (int a = kAges - 1; a > 0; --a) t.dy[a][p][v] = t.dy[a - 1][p][v];
          t.dy[0][p][v] = next_dy.widened(p, v);
          if (with_bias) t.bias[v] += t.dy[0][p][v];
          if (!whole) finite += 0 * t.dy[0][p][v];
        }
      }
      dy += g.dy_row;
      next_dy.load(dy, dy_column, i + 1 < end ? dy_mask : 0);
      const uint32_t ages = (2u << min(i - begin, kAges - 1)) - (1u << max(i - end + 1, 0));
#pragma unroll
      for (int sub = 0; sub < kDown; ++sub) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            t.x[c][v] = next_x.widened(c, v);
            gpu::pin(t.x[c][v]);
            if (!whole) finite += 0 * t.x[c][v];
          }
        }
        const uint32_t alive = row >= 0 && row < last_row ? ages : 0;
        ++row;
        x += g.x_row;
        next_x.load(x, x_column, row >= 0 && row < last_row ? x_mask : 0);
        infinities = infinities || !(finite == 0);
        if (infinities) {
          t.template accumulate<true>(sub, alive);
        } else {
          t.template accumulate<false>(sub, alive);
        }
      }
    }
  }

  A* target = static_cast<A*>(g.partial) +
              (static_cast<int64_t>(split) * (g.by_planes.value * K * K + 1) + meeting * K * K) *
                  g.channels;
#pragma unroll
  for (int k = 0; k < K; ++k, target += int64_t{K} * g.channels) {
    write_sums<A, V, K>(g, t.sum[k], staged, thread_fast, thread_slot, first_fast * V, target);
  }
  if (plane_shift != 0) return;
  target += static_cast<int64_t>(g.by_planes.value - 1 - meeting) * K * K * g.channels;
  A bias[1][V];
#pragma unroll
  for (int v = 0; v < V; ++v) bias[0][v] = t.bias[v];
  write_sums<A, V, 1>(g, bias, staged, thread_fast, thread_slot, first_fast * V, target);
}

template <class T, WalkKind kKind, int K, int kDown>
cudaError_t run_walk_gradient(const WalkGradientPlan& plan, cudaStream_t stream) {
  constexpr int V = walk_lanes(kKind, sizeof(T), K);
  constexpr int P = walk_outputs(kKind, kDown, 1);
  if constexpr (V > 0 && P > 0 && walks_for_weight(sizeof(T), K)) {
    auto kernel = walk_gradient_kernel<T, V, K, kDown, P, in_columns(kKind)>;
    return FASTCONV_LAUNCH(kernel, dim3(static_cast<unsigned>(plan.grid)),
                           dim3(plan.walk.block_fast * plan.walk.block_slots),
                           static_cast<size_t>(plan.smem), stream, plan.walk);
  } else {
    return cudaErrorInvalidValue;
  }
}

template <class T, WalkKind kKind, int K>
cudaError_t run_walk_gradient(const WalkGradientPlan& plan, cudaStream_t stream) {
  return plan.down == 2 ? run_walk_gradient<T, kKind, K, 2>(plan, stream)
                        : run_walk_gradient<T, kKind, K, 1>(plan, stream);
}

template <class T>
cudaError_t launch_walk_gradient(const WalkGradientPlan& plan, cudaStream_t stream) {
#define FASTCONV_WALK(kind)                                                             \
  if (kTiles[plan.tile].walk == WalkKind::kind) {                                       \
    if (plan.kernel == 3) return run_walk_gradient<T, WalkKind::kind, 3>(plan, stream); \
    if (plan.kernel == 5) return run_walk_gradient<T, WalkKind::kind, 5>(plan, stream); \
    if (plan.kernel == 7) return run_walk_gradient<T, WalkKind::kind, 7>(plan, stream); \
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
