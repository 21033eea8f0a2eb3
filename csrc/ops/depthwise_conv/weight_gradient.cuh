// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The gradient of the weight and of the bias, in two deterministic stages: blocks write partial
// sums over their share of the strips, [split][tap][channel] with the bias as the last tap, and a
// second kernel adds the splits in order.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/geometry.cuh"
#include "ops/depthwise_conv/launch.cuh"

namespace fastconv::depthwise_conv {

// Sums `count` values per thread over the slots of the block, into those of slot 0, pairwise.
// Values are laid out [value][thread].  Only the thread of slot 0 may read its sums afterwards.
template <class A>
__device__ __forceinline__ void reduce_slots(A* values, int count, const BlockShape& block,
                                             BlockShape::Seat seat) {
  const int threads = block.threads(), mine = block.thread(seat);
  for (int n = block.slots; n > 1;) {
    const int half = (n + 1) / 2;
    __syncthreads();
    if (seat.slot < n - half) {
      const int other = block.thread({seat.pack, seat.group, seat.slot + half});
      for (int i = 0; i < count; ++i) values[i * threads + mine] += values[i * threads + other];
    }
    n = half;
  }
}

template <class T, int V, int kWindow, int kStep, bool kWide>
__global__ void __launch_bounds__(kGradientThreads, (kGradientBlocks<T, V, kWindow, kStep>))
    weight_gradient_kernel(const WeightGradient<Index<kWide>> g) {
  using I = Index<kWide>;
  using A = Accum<T>;
  constexpr int kOutputs = gradient_outputs(V, kWindow);
  constexpr int kColumns = kWindow == 1 ? kOutputs : (kOutputs - 1) * kStep + kWindow;
  constexpr int kValues = (kWindow + 1) * V;
  constexpr uint32_t kAllOutputs = (1u << kOutputs) - 1, kAllColumns = (1u << kColumns) - 1;
  FASTCONV_DYNAMIC_SMEM(A, values);  // [kValues][thread]

  I rest = blockIdx.x;
  const I chunk = rest % g.chunks;
  rest /= g.chunks;
  const I group_block = rest % g.group_blocks, split = rest / g.group_blocks;
  const auto seat = g.block.seat(threadIdx.x);
  const I channel = (chunk * g.block.packs + seat.pack) * V;
  const I group = group_block * g.block.groups + seat.group;
  const bool active = channel < g.channels && group < g.groups;
  const bool sums_bias = g.with_bias && group == 0;

  const I group_rest = g.group_s.divide(group);
  const I window = (group - group_rest * g.group_s.value) * kWindow;  // its first tap along s
  const I tap_a = g.group_b.divide(group_rest);
  const I tap_b = group_rest - tap_a * g.group_b.value;

  A acc[kWindow][V], bias[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    bias[v] = 0;
#pragma unroll
    for (int t = 0; t < kWindow; ++t) acc[t][v] = 0;
  }

  if (active) {
    const T* x = static_cast<const T*>(g.x) + channel / g.in_div * g.in_c;
    const T* dy = static_cast<const T*>(g.dy) + channel * g.out_c;
    const I in_step = g.s.stride * g.strips.apart;
    const I x_column = static_cast<I>(g.s.in_stride) * (kWindow == 1 ? in_step : 1);
    const I dy_column = static_cast<I>(g.s.out_stride) * g.strips.apart;
#pragma unroll 1
    for (I u = split * g.block.slots + seat.slot; u < g.strips.count;
         u += g.splits * g.block.slots) {
      const auto place = g.strips.place(u);
      const I in_a = place.a * g.a.stride - g.a.pad + tap_a * g.a.step;
      const I in_b = place.b * g.b.stride - g.b.pad + tap_b * g.b.step;
      const bool row_inside = in_a >= 0 && in_a < g.a.in && in_b >= 0 && in_b < g.b.in;
      if (!row_inside && !sums_bias) continue;

      const I first_out = g.strips.apart == 1 ? place.unit * kOutputs : place.unit;
      const T* from = dy + place.n * g.out_n + place.a * g.a.out_stride + place.b * g.b.out_stride +
                      first_out * g.s.out_stride;
      const I first = first_out * g.s.stride - g.s.pad + window * g.s.step;
      const T* row = x + place.n * g.in_n + in_a * g.a.in_stride + in_b * g.b.in_stride +
                     first * g.s.in_stride;
      const I column_step = kWindow == 1 ? in_step : 1;
      // Bit p of `outputs`: whether output p of the strip exists; bit c of `columns`: whether
      // column c lies inside the input.
      uint32_t outputs = 0, columns = 0;
#pragma unroll
      for (int p = 0; p < kOutputs; ++p) {
        if (first_out + p * g.strips.apart < g.s.out) outputs |= 1u << p;
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const I at = first + c * column_step;
        if (row_inside && at >= 0 && at < g.s.in) columns |= 1u << c;
      }

      // At a border only products of two elements count: a zero in the place of one that is missing
      // would turn an infinity into NaN.
      auto accumulate = [&](auto at_border) {
        constexpr bool kBorder = decltype(at_border)::value;
        Pack<T, V> d[kOutputs];
#pragma unroll
        for (int p = 0; p < kOutputs; ++p, from += dy_column) {
          d[p] = load_if<T, V>(!kBorder || (outputs >> p & 1) != 0, from);
        }
        Pack<T, V> in[kColumns];
#pragma unroll
        for (int c = 0; c < kColumns; ++c, row += x_column) {
          in[c] = load_if<T, V>(!kBorder || (columns >> c & 1) != 0, row);
        }
#pragma unroll
        for (int v = 0; v < V; ++v) {
          A column[kColumns];
#pragma unroll
          for (int c = 0; c < kColumns; ++c) column[c] = gpu::widen(in[c].v[v]);
#pragma unroll
          for (int p = 0; p < kOutputs; ++p) {
            const A gradient = gpu::widen(d[p].v[v]);
            if (sums_bias) bias[v] += gradient;
#pragma unroll
            for (int t = 0; t < kWindow; ++t) {
              const int c = kWindow == 1 ? p : p * kStep + t;
              if (kBorder && ((outputs >> p) & (columns >> c) & 1) == 0) continue;
              acc[t][v] += gradient * column[c];
            }
          }
        }
      };
      if (outputs == kAllOutputs && columns == kAllColumns) {
        accumulate(std::false_type{});
      } else {
        accumulate(std::true_type{});
      }
    }
  }

  const int threads = g.block.threads(), mine = threadIdx.x;
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll
    for (int t = 0; t < kWindow; ++t) values[(t * V + v) * threads + mine] = acc[t][v];
    values[(kWindow * V + v) * threads + mine] = bias[v];
  }
  reduce_slots(values, kValues, g.block, seat);
  if (!active || seat.slot != 0) return;

  A* partial = static_cast<A*>(g.partial) + static_cast<int64_t>(split) * (g.taps + 1) * g.channels;
  const I tap = tap_a * g.a.tap_stride + tap_b * g.b.tap_stride + window * g.s.tap_stride;
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll
    for (int t = 0; t < kWindow; ++t) {
      if (window + t >= g.s.kernel) break;
      partial[static_cast<int64_t>(tap + t * g.s.tap_stride) * g.channels + channel + v] =
          values[(t * V + v) * threads + mine];
    }
    if (sums_bias) {
      partial[static_cast<int64_t>(g.taps) * g.channels + channel + v] =
          values[(kWindow * V + v) * threads + mine];
    }
  }
}

// Adds the splits of one (tap, channel) per column of threads, channels varying fastest; each row
// of threads takes every kAddRows-th split.
template <class T>
__global__ void __launch_bounds__(kAddColumns* kAddRows)
    add_splits_kernel(const Accum<T>* partial, int64_t splits, int64_t taps, int64_t channels,
                      T* dw, T* db) {
  FASTCONV_STATIC_SMEM(Accum<T>, sums, kAddColumns * kAddRows);
  const int column = threadIdx.x % kAddColumns, row = threadIdx.x / kAddColumns;
  const int64_t count = (taps + 1) * channels;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kAddColumns;
  for (int64_t begin = static_cast<int64_t>(blockIdx.x) * kAddColumns; begin < count;
       begin += step) {
    const int64_t i = begin + column, tap = i / channels, channel = i - tap * channels;
    T* target = tap < taps ? dw : db;
    const bool wanted = i < count && target != nullptr;
    Accum<T> sum = 0;
    if (wanted) {
#pragma unroll 4
      for (int64_t s = row; s < splits; s += kAddRows) sum += partial[s * count + i];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (wanted && row == 0) {
      for (int r = 1; r < kAddRows; ++r) sum += sums[r * kAddColumns + column];
      target[tap < taps ? channel * taps + tap : channel] = gpu::narrow<T>(sum);
    }
    __syncthreads();
  }
}

template <class T>
cudaError_t add_splits(const Splits& p, cudaStream_t stream) {
  const int64_t blocks = min_of(ceil_div((p.taps + 1) * p.channels, kAddColumns), int64_t{1} << 16);
  return FASTCONV_LAUNCH(add_splits_kernel<T>, dim3(static_cast<unsigned>(blocks)),
                         dim3(kAddColumns * kAddRows), 0, stream,
                         static_cast<const Accum<T>*>(p.sums), p.splits, p.taps, p.channels,
                         static_cast<T*>(p.dw), static_cast<T*>(p.db));
}

template <class T>
cudaError_t launch_gradient(const GradientPlan& plan, cudaStream_t stream) {
  const Tile& tile = kTiles[plan.tile];
  const dim3 grid(static_cast<unsigned>(plan.grid)), block(plan.threads);
  auto run = [&](auto kernel, const auto& gradient) {
    return FASTCONV_LAUNCH(kernel, grid, block, static_cast<size_t>(plan.smem), stream, gradient);
  };
  auto partial_sums = [&] {
    constexpr int kPack = kPackBytes / sizeof(T);
    if (tile.wide) return run(weight_gradient_kernel<T, 1, 1, 0, true>, plan.wide);
#define FASTCONV_GRADIENT(W, S)                                                        \
  if (tile.window == W && (plan.strip_step == S || W == 1)) {                          \
    return tile.pack ? run(weight_gradient_kernel<T, kPack, W, S, false>, plan.narrow) \
                     : run(weight_gradient_kernel<T, 1, W, S, false>, plan.narrow);    \
  }
    FASTCONV_GRADIENT(1, 1)
    FASTCONV_GRADIENT(3, 1)
    FASTCONV_GRADIENT(3, 2)
    FASTCONV_GRADIENT(5, 1)
    FASTCONV_GRADIENT(5, 2)
    FASTCONV_GRADIENT(7, 1)
    FASTCONV_GRADIENT(7, 2)
#undef FASTCONV_GRADIENT
    return cudaErrorInvalidValue;
  };
  const cudaError_t error = partial_sums();
  if (error != cudaSuccess) return error;
  return add_splits<T>(plan.partial, stream);
}

}  // namespace fastconv::depthwise_conv
