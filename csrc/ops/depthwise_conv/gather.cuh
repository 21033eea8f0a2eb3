// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The kernel of forward and of the gradient of the input: see geometry.cuh for the arithmetic and
// tiles.h for the mapping.
#pragma once

#include "common/activation.cuh"
#include "common/gpu.h"
#include "ops/depthwise_conv/geometry.cuh"
#include "ops/depthwise_conv/launch.cuh"

namespace fastconv::depthwise_conv {

// Weights of the block's channels, [tap][channel], and the bias behind them.
template <class T, int V, class I>
__device__ __forceinline__ void stage_weights(const Gather<I>& g, I first_channel, T* staged) {
  const T* weight = static_cast<const T*>(g.weight);
  const T* bias = static_cast<const T*>(g.bias);
  const int width = g.block.packs * V;
  const int rows = static_cast<int>(g.in_mul * g.taps);
  const int present = static_cast<int>(min(static_cast<I>(width), g.channels - first_channel));
  // Neighbouring threads take neighbouring channels: no bank conflicts, and the cache lines that
  // they touch serve the following taps.
  const int threads = g.block.threads();
  int channel = threadIdx.x % width, row = threadIdx.x / width;
  const int channel_step = threads % width, row_step = threads / width;
  while (row <= rows) {
    T value = gpu::narrow<T>(0);
    if (channel < present) {
      const int64_t c = first_channel + channel;
      if (row < rows) {
        value = weight[c * rows + row];
      } else if (bias != nullptr) {
        value = bias[c];
      }
    }
    staged[row * width + channel] = value;
    channel += channel_step;
    row += row_step;
    if (channel >= width) {
      channel -= width;
      ++row;
    }
  }
}

// kWindow neighbouring taps of one filter row, for kOutputs outputs whose inputs lie kStep apart.
template <class T, int V, int kWindow, int kStep, int kOutputs, class I>
struct Window {
  static constexpr int kColumns = (kOutputs - 1) * kStep + kWindow;

  // Bit c: whether column first + c lies inside the input.
  static __device__ __forceinline__ uint32_t inside(I first, I in) {
    uint32_t mask = 0;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (first + c >= 0 && first + c < in) mask |= 1u << c;
    }
    return mask;
  }

  static __device__ __forceinline__ void accumulate(const T* row, I stride, uint32_t mask,
                                                    const T* weight, int weight_stride,
                                                    Accum<T> (&acc)[kOutputs][V]) {
    Pack<T, V> x[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c, row += stride) {
      x[c] = load_if<T, V>((mask >> c & 1) != 0, row);
    }
    Accum<T> w[kWindow][V];
#pragma unroll
    for (int t = 0; t < kWindow; ++t) {
      const Pack<T, V> pack = gpu::load_pack<T, V>(weight + t * weight_stride);
#pragma unroll
      for (int v = 0; v < V; ++v) w[t][v] = gpu::widen(pack.v[v]);
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const Accum<T> value = gpu::widen(x[c].v[v]);
#pragma unroll
        for (int p = 0; p < kOutputs; ++p) {
          const int t = c - p * kStep;
          if (t >= 0 && t < kWindow) acc[p][v] += w[t][v] * value;
        }
      }
    }
  }
};

// kWindow == 1: no sliding window, any step.  kWide: 64-bit indices and unstaged weights.
template <class T, int V, int kWindow, int kStep, bool kWide>
__global__ void __launch_bounds__(kGatherThreads, (kGatherBlocks<T, V, kWindow, kStep>))
    gather_kernel(const Gather<Index<kWide>> g) {
  using I = Index<kWide>;
  constexpr int kOutputs = gather_outputs(V, kWindow);
  FASTCONV_DYNAMIC_SMEM(T, staged);
  const I chunk = static_cast<I>(blockIdx.x) % g.chunks;
  const I first_channel = chunk * (g.block.packs * V);
  if constexpr (!kWide) {
    stage_weights<T, V>(g, first_channel, staged);
    __syncthreads();
  }
  const auto seat = g.block.seat(threadIdx.x);
  const I channel = first_channel + seat.pack * V;
  if (channel >= g.channels) return;

  const int width = kWide ? 1 : g.block.packs * V;
  const T* weight = kWide ? static_cast<const T*>(g.weight) + channel * g.in_mul * g.taps
                          : staged + seat.pack * V;
  const T* in = static_cast<const T*>(g.in) + (channel * g.in_mul / g.in_div) * g.in_c;
  T* out = static_cast<T*>(g.out) + channel * g.out_c;

  const I block_slot = static_cast<I>(blockIdx.x) / g.chunks * g.block.slots + seat.slot;
  for (I u = block_slot; u < g.strips.count; u += g.blocks_along * g.block.slots) {
    const auto place = g.strips.place(u);
    // The strip's outputs are first_out + p * out_step.
    const I unit = g.strips.by_unit_phases.divide(place.unit);
    const I phase = place.unit - unit * g.strips.unit_phases;
    const I first_out = phase + g.s.phases * (g.strips.apart == 1 ? unit * kOutputs : unit);
    const I out_step = g.s.phases * g.strips.apart;
    const I in_step = (g.s.phases == 1 ? g.s.stride : 1) * g.strips.apart;

    const Span<I> sa = trim(g.a.span(place.a, g.phases_a), g.a.step, g.a.in);
    const Span<I> sb = trim(g.b.span(place.b, g.phases_b), g.b.step, g.b.in);
    Span<I> ss = g.s.span(first_out, g.phases_s);
    // A single window is not worth cutting.
    if (ss.taps > kWindow) ss = trim(ss, g.s.step, g.s.in, (kOutputs - 1) * in_step);
    const T* base = in + place.n * g.in_n + sa.first * g.a.in_stride + sb.first * g.b.in_stride;
    const T* base_weight =
        weight + (sa.tap * g.a.tap_stride + sb.tap * g.b.tap_stride + ss.tap * g.s.tap_stride) *
                     static_cast<I>(width);
    const I tap_a = sa.tap_step * g.a.tap_stride * width;
    const I tap_b = sb.tap_step * g.b.tap_stride * width;
    const I tap_s = ss.tap_step * g.s.tap_stride * width;
    const int64_t row_a = g.a.step * g.a.in_stride, row_b = g.b.step * g.b.in_stride;
    const I column = static_cast<I>(g.s.in_stride);

    // Calls run(input row, its weights) for every filter row that meets the input.
    auto for_each_row = [&](auto run) {
#pragma unroll 1
      for (I j = 0; j < g.in_mul; ++j) {
        const T* plane = base + j * g.in_c;
        const T* plane_weight = base_weight + j * g.taps * width;
#pragma unroll 1
        for (I ta = 0; ta < sa.taps; ++ta, plane += row_a, plane_weight += tap_a) {
          const T* row = plane;
          const T* row_weight = plane_weight;
#pragma unroll 1
          for (I tb = 0; tb < sb.taps; ++tb, row += row_b, row_weight += tap_b) {
            run(row, row_weight);
          }
        }
      }
    };

    Accum<T> acc[kOutputs][V];
#pragma unroll
    for (int p = 0; p < kOutputs; ++p) {
#pragma unroll
      for (int v = 0; v < V; ++v) acc[p][v] = 0;
    }
    I t = 0;
    if constexpr (kWindow > 1) {
#pragma unroll 1
      for (; t + kWindow <= ss.taps; t += kWindow) {
        using W = Window<T, V, kWindow, kStep, kOutputs, I>;
        const I first = ss.first + t;
        const uint32_t mask = W::inside(first, g.s.in);
        const int64_t offset = first * g.s.in_stride;
        for_each_row([&](const T* row, const T* row_weight) {
          W::accumulate(row + offset, column, mask, row_weight + t * tap_s, static_cast<int>(tap_s),
                        acc);
        });
      }
    }
    // Taps one at a time: what no window covers.
#pragma unroll 1
    for (; t < ss.taps; ++t) {
      const I first = ss.first + t * g.s.step;
      const int64_t offset = first * g.s.in_stride;
      for_each_row([&](const T* row, const T* row_weight) {
        Pack<T, V> x[kOutputs];
#pragma unroll
        for (int p = 0; p < kOutputs; ++p) {
          const I at = first + p * in_step;
          x[p] = load_if<T, V>(at >= 0 && at < g.s.in, row + offset + p * in_step * column);
        }
        const Pack<T, V> w = gpu::load_pack<T, V>(row_weight + t * tap_s);
#pragma unroll
        for (int p = 0; p < kOutputs; ++p) {
#pragma unroll
          for (int v = 0; v < V; ++v) acc[p][v] += gpu::widen(w.v[v]) * gpu::widen(x[p].v[v]);
        }
      });
    }

    Pack<T, V> bias;
    if constexpr (kWide) {
      const T* b = static_cast<const T*>(g.bias);
      bias.v[0] = b != nullptr ? b[channel] : gpu::narrow<T>(0);
    } else {
      bias = gpu::load_pack<T, V>(weight + g.in_mul * g.taps * width);
    }
#pragma unroll
    for (int p = 0; p < kOutputs; ++p) {
#pragma unroll
      for (int v = 0; v < V; ++v) acc[p][v] += gpu::widen(bias.v[v]);
    }
    activate<kOutputs * V>(g.activation, [&](int i) -> Accum<T>& { return acc[i / V][i % V]; });
    T* target = out + place.n * g.out_n + place.a * g.a.out_stride + place.b * g.b.out_stride;
#pragma unroll
    for (int p = 0; p < kOutputs; ++p) {
      const I o = first_out + p * out_step;
      if (o >= g.s.out) break;
      Pack<T, V> y;
#pragma unroll
      for (int v = 0; v < V; ++v) y.v[v] = gpu::narrow<T>(acc[p][v]);
      gpu::store_pack<T, V>(target + o * g.s.out_stride, y);
    }
  }
}

template <class T>
cudaError_t launch_gather(const GatherPlan& plan, cudaStream_t stream) {
  const Tile& tile = kTiles[plan.tile];
  const dim3 grid(static_cast<unsigned>(plan.grid)), block(plan.threads);
  auto run = [&](auto kernel, const auto& gather) {
    return FASTCONV_LAUNCH(kernel, grid, block, static_cast<size_t>(plan.smem), stream, gather);
  };
  constexpr int kPack = kPackBytes / sizeof(T);
  if (tile.wide) return run(gather_kernel<T, 1, 1, 0, true>, plan.wide);
#define FASTCONV_GATHER(W, S)                                                 \
  if (tile.window == W && (plan.strip_step == S || W == 1)) {                 \
    return tile.pack ? run(gather_kernel<T, kPack, W, S, false>, plan.narrow) \
                     : run(gather_kernel<T, 1, W, S, false>, plan.narrow);    \
  }
  FASTCONV_GATHER(1, 1)
  FASTCONV_GATHER(2, 1)
  FASTCONV_GATHER(3, 1)
  FASTCONV_GATHER(3, 2)
  FASTCONV_GATHER(4, 1)
  FASTCONV_GATHER(5, 1)
  FASTCONV_GATHER(5, 2)
  FASTCONV_GATHER(7, 1)
  FASTCONV_GATHER(7, 2)
#undef FASTCONV_GATHER
  return cudaErrorInvalidValue;
}

}  // namespace fastconv::depthwise_conv
