// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Both gradients of a walk at stride 1 in one pass, which reads x and dy once and writes dx: three
// passes over memory instead of four.
//
// The rows of dy walk through as inputs do in walk.cuh.  Each meets the sums of the K rows of dx
// that it belongs to, and the K rows of x of the same ages, which wait in registers:
//
//   iteration i loads row i - (K - 1) / 2 of dy and row i of x; for every age a:
//     dx sum[a] = sum[a - 1] + turned filter row a * dy,   dw of that row += x[a] * dy
//
// That takes 2 K^2 + 2 K P + K - 1 + 2 P values for each lane: 52 of them for 3x3 with P = 4, so
// two lanes fit; 102 for 5x5, one lane; 7x7 would leave no room for addresses.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/walk_gradient.cuh"
#include "ops/depthwise_conv/walk_launch.cuh"
#include "ops/depthwise_conv/walk_row.cuh"

namespace fastconv::depthwise_conv {

template <class T, int V, int K, int P, bool kRuns>
struct BackwardWalk {
  using A = Accum<T>;
  static constexpr int kHalf = (K - 1) / 2;
  using Taps = WalkTaps<K, 1, 1, P, kRuns ? kHalf : 0>;
  using DyRow = WalkRow<T, V, Taps, P, kRuns>;
  using XRow = WalkRow<T, V, WalkTaps<1, 1, 1, P, 0>, P, kRuns>;
  static constexpr int kColumns = Taps::kColumns;

  A filter[K][K][V], dw[K][K][V];  // turned by half a circle
  A dx[K][P][V], x[K][P][V], dy[kColumns][V];
  uint32_t columns, outputs;  // bits of what exists of dy and x

  __device__ __forceinline__ void add_input() {
#pragma unroll
    for (int a = K - 1; a >= 0; --a) {
#pragma unroll
      for (int p = 0; p < P; ++p) {
#pragma unroll
        for (int v = 0; v < V; ++v) dx[a][p][v] = a > 0 ? dx[a - 1][p][v] : A(0);
#pragma unroll
        for (int k = 0; k < K; ++k) {
#pragma unroll
          for (int v = 0; v < V; ++v) dx[a][p][v] += filter[a][k][v] * dy[p + k][v];
        }
      }
    }
  }

  // The ages in `alive`.  kAbsent: a column of dy or x is missing, and there are infinities: only
  // products of two elements that exist count.
  template <bool kAbsent>
  __device__ __forceinline__ void add_weight(uint32_t alive) {
#pragma unroll
    for (int a = 0; a < K; ++a) {
      if ((alive & (1u << a)) == 0) continue;
#pragma unroll
      for (int k = 0; k < K; ++k) {
#pragma unroll
        for (int p = 0; p < P; ++p) {
          if (kAbsent && ((columns >> (p + k)) & (outputs >> p) & 1) == 0) continue;
#pragma unroll
          for (int v = 0; v < V; ++v) dw[a][k][v] += x[a][p][v] * dy[p + k][v];
        }
      }
    }
  }
};

// Blocks that must fit on a multiprocessor.
template <class T, int V, int K>
constexpr int kWalkBackwardBlocks = K == 3 && sizeof(T) < 8 ? (V == 1           ? 4
                                                               : sizeof(T) == 2 ? 3
                                                                                : 2)
                                                            : 2;

template <class T, int V, int K, int P, bool kRuns>
__global__ void __launch_bounds__(kWalkThreads, (kWalkBackwardBlocks<T, V, K>))
    walk_backward_kernel(const WalkBackward g) {
  using A = Accum<T>;
  using Thread = BackwardWalk<T, V, K, P, kRuns>;
  constexpr int kColumns = Thread::kColumns, kHalf = Thread::kHalf;
  constexpr uint32_t kAllColumns = (1u << kColumns) - 1, kAllOutputs = (1u << P) - 1;
  FASTCONV_DYNAMIC_SMEM(A, staged);

  const int block = blockIdx.x;
  const int split = g.by_chunks.divide(block);
  const int first_fast = (block - split * g.by_chunks.value) * g.block_fast;
  const int major = g.by_minor.divide(threadIdx.x);
  const int minor = threadIdx.x - major * g.by_minor.value;
  const int thread_fast = g.channels_last ? minor : major;
  const int thread_slot = g.channels_last ? major : minor;
  const int channel = (first_fast + thread_fast) * V;

  Thread t;
  A bias[1][V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const T* own = static_cast<const T*>(g.weight) + int64_t{channel + v} * (K * K);
    bias[0][v] = 0;
#pragma unroll
    for (int k = 0; k < K * K; ++k) {
      t.dw[k / K][k % K][v] = 0;
      t.filter[k / K][k % K][v] = channel < g.channels ? gpu::widen(own[K * K - 1 - k]) : A(0);
    }
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

    const int begin = segment * g.segment_rows, end = min(begin + g.segment_rows, g.height);
    const int first_column = kRuns ? strip : strip - kHalf;
    const uint32_t dy_mask = Thread::DyRow::mask(first_column, g.width);
    const uint32_t x_mask = Thread::XRow::mask(strip, g.width);
    t.columns = t.outputs = 0;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int at = strip - kHalf + c;
      if (at >= 0 && at < g.width) t.columns |= 1u << c;
    }
#pragma unroll
    for (int p = 0; p < P; ++p) {
      if (strip + p < g.width) t.outputs |= 1u << p;
    }
    const bool whole = t.columns == kAllColumns && t.outputs == kAllOutputs;
    bool infinities = false;  // where not whole

    int row = begin - kHalf;  // of dy
    const int last_row = min(g.height, end + kHalf);
    const int x_column = g.x_column * static_cast<int>(sizeof(T));  // in bytes
    const int dy_column = g.dy_column * static_cast<int>(sizeof(T));
    [[maybe_unused]] const int dx_column = g.dx_column * static_cast<int>(sizeof(T));
    const T* x = static_cast<const T*>(g.x) + n * g.x_strides.n + channel * g.x_strides.c +
                 plane * g.x_strides.sp[0] + begin * g.x_strides.sp[1] +
                 int64_t{strip} * g.x_column;
    const T* dy = static_cast<const T*>(g.dy) + n * g.dy_strides.n + channel * g.dy_strides.c +
                  plane * g.dy_strides.sp[0] + row * g.dy_strides.sp[1] +
                  int64_t{first_column} * g.dy_column;
    T* dx = static_cast<T*>(g.dx) + n * g.dx_strides.n + channel * g.dx_strides.c +
            plane * g.dx_strides.sp[0] + begin * g.dx_strides.sp[1] + int64_t{strip} * g.dx_column;
    typename Thread::XRow next_x;
    typename Thread::DyRow next_dy;
    next_x.load(x, x_column, x_mask);
    next_dy.load(dy, dy_column, row >= 0 && row < last_row ? dy_mask : 0);
#pragma unroll
    for (int a = 0; a < K; ++a) {
#pragma unroll
      for (int p = 0; p < P; ++p) {
#pragma unroll
        for (int v = 0; v < V; ++v) t.x[a][p][v] = t.dx[a][p][v] = 0;
      }
    }

#pragma unroll 1
    for (int i = begin; i < end + K - 1; ++i) {
      A finite = 0;  // NaN if anything is not
#pragma unroll
      for (int p = 0; p < P; ++p) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
          for (int a = K - 1; a > 0; --a) t.x[a][p][v] = t.x[a - 1][p][v];
          t.x[0][p][v] = next_x.widened(p, v);
          gpu::pin(t.x[0][p][v]);
          if (!whole) finite += 0 * t.x[0][p][v];
        }
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          t.dy[c][v] = next_dy.widened(c, v);
          gpu::pin(t.dy[c][v]);
          if (!whole) finite += 0 * t.dy[c][v];
        }
      }
      uint32_t alive = (2u << min(i - begin, K - 1)) - (1u << max(i - end + 1, 0));
      if (row < 0 || row >= last_row) alive = 0;
      // Each row of dy is the middle one of the windows of one row of x.
      if (g.with_bias && row >= begin && row < end) {
#pragma unroll
        for (int p = 0; p < P; ++p) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
            if ((t.outputs >> p & 1) != 0) bias[0][v] += t.dy[p + kHalf][v];
          }
        }
      }
      ++row;
      x += g.x_strides.sp[1];
      dy += g.dy_strides.sp[1];
      next_x.load(x, x_column, i + 1 < end ? x_mask : 0);
      next_dy.load(dy, dy_column, row >= 0 && row < last_row ? dy_mask : 0);
      t.add_input();
      infinities = infinities || !(finite == 0);
      if (infinities) {
        t.template add_weight<true>(alive);
      } else {
        t.template add_weight<false>(alive);
      }
      if (i < begin + K - 1) continue;
      store_row<T, V, P, kRuns>(dx, dx_column, t.outputs, Activation::kNone, t.dx[K - 1]);
      dx += g.dx_strides.sp[1];
    }
  }

  A* target = static_cast<A*>(g.partial) + static_cast<int64_t>(split) * (K * K + 1) * g.channels;
#pragma unroll
  for (int k = 0; k < K; ++k, target += int64_t{K} * g.channels) {
    A sums[K][V];
#pragma unroll
    for (int i = 0; i < K * V; ++i) sums[i / V][i % V] = t.dw[K - 1 - k][K - 1 - i / V][i % V];
    write_sums<A, V, K>(g, sums, staged, thread_fast, thread_slot, first_fast * V, target);
  }
  write_sums<A, V, 1>(g, bias, staged, thread_fast, thread_slot, first_fast * V, target);
}

template <class T, WalkKind kKind, int K>
cudaError_t run_walk_backward(const WalkBackwardPlan& plan, cudaStream_t stream) {
  constexpr int V = walk_backward_lanes(kKind, sizeof(T), K);
  constexpr int P = walk_outputs(kKind, 1, 1);
  if constexpr (V > 0) {
    auto kernel = walk_backward_kernel<T, V, K, P, in_columns(kKind)>;
    return FASTCONV_LAUNCH(kernel, dim3(static_cast<unsigned>(plan.grid)),
                           dim3(plan.walk.block_fast * plan.walk.block_slots),
                           static_cast<size_t>(plan.smem), stream, plan.walk);
  } else {
    return cudaErrorInvalidValue;
  }
}

template <class T>
cudaError_t launch_walk_backward(const WalkBackwardPlan& plan, cudaStream_t stream) {
#define FASTCONV_WALK(kind)                                                          \
  if (kTiles[plan.tile].walk == WalkKind::kind) {                                    \
    return plan.kernel == 3 ? run_walk_backward<T, WalkKind::kind, 3>(plan, stream)  \
                            : run_walk_backward<T, WalkKind::kind, 5>(plan, stream); \
  }
  FASTCONV_WALK(kScalar)
  FASTCONV_WALK(kChannels)
  FASTCONV_WALK(kColumns4)
#undef FASTCONV_WALK
  return cudaErrorInvalidValue;
}

}  // namespace fastconv::depthwise_conv
