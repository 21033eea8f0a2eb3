// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The gradient of the weight and of the bias for large filters: see large_weight_tiles.h for the
// mapping.  Blocks write partial sums, which add_splits_kernel adds in order.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/large_correlate.cuh"
#include "ops/depthwise_conv/large_weight_common.cuh"

namespace fastconv::depthwise_conv {

// Where a thread works: on strip (strip_x, strip_y) of the taps, with rows `slice` of a plane.
struct WeightSeat {
  int channel, image, strip_x, strip_y, slice;
};

// Adds up the threads' values in shared memory and writes the block's partial sums.
template <class T>
__device__ __forceinline__ void store_weight(const LargeWeight& g, const Accum<T>* values,
                                             int split, int first_channel, int shift) {
  using A = Accum<T>;
  const LargeShape& s = g.shape.block;
  const int channels = min(g.channels - first_channel, s.channels);
  const int taps = g.y.kernel * g.x.kernel, strips = s.across * s.down;
  A* partial = static_cast<A*>(g.partial) + static_cast<int64_t>(split) * (taps + 1) * g.channels;
  // Neighbouring threads take neighbouring channels, then the columns of taps.
  const int columns = s.across * kStripWidth, rows = s.down * kStripRows;
  for (int i = threadIdx.x; i < s.channels * (rows * columns + 1); i += s.threads()) {
    const int place = i / s.channels, channel = i - place * s.channels;
    const bool is_bias = place == rows * columns;
    const int r = is_bias ? 0 : place / columns, column = is_bias ? 0 : place - r * columns;
    const int tap = r * g.x.kernel + column - shift;
    const bool exists = r < g.y.kernel && column >= shift && column < shift + g.x.kernel;
    if (channel >= channels || !(is_bias ? g.with_bias : exists)) continue;
    const int strip = r / kStripRows * s.across + column / kStripWidth;
    const int value =
        is_bias ? kWeightValues - 1 : r % kStripRows * kStripWidth + column % kStripWidth;
    A sum = 0;
    for (int slice = 0; slice < s.lanes; ++slice) {
      for (int image = 0; image < s.images; ++image) {
        const int thread = (slice * strips + strip) * s.planes() + image * s.channels + channel;
        sum += values[value * s.threads() + thread];
      }
    }
    partial[static_cast<int64_t>(is_bias ? taps : tap) * g.channels + first_channel + channel] =
        sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kLargeThreads, kLargeBlocks<T>)
    large_weight_kernel(const LargeWeight g) {
  using A = Accum<T>;
  FASTCONV_DYNAMIC_SMEM(unsigned char, smem);
  const LargeShape& s = g.shape.block;
  T* x_tile = reinterpret_cast<T*>(smem);
  T* dy_tile = reinterpret_cast<T*>(smem + g.shape.x_bytes);
  const int channel_blocks = static_cast<int>(s.channel_blocks);
  const int split = static_cast<int>(blockIdx.x) / channel_blocks;
  const int first_channel = static_cast<int>(blockIdx.x) % channel_blocks * s.channels;
  const int shift = s.lead - g.x.pad;  // of the taps, to the right

  const int thread = threadIdx.x, planes = s.planes();
  int rest = thread / planes;
  const int plane = thread - rest * planes;
  WeightSeat seat{};
  seat.image = plane / s.channels;
  seat.channel = plane - seat.image * s.channels;
  seat.strip_x = rest % s.across;
  rest /= s.across;
  seat.strip_y = rest % s.down;
  seat.slice = rest / s.down;
  const int tap_y = seat.strip_y * kStripRows, tap_x = seat.strip_x * kStripWidth;

  A sums[kStripRows][kStripWidth], bias = 0;
#pragma unroll
  for (int q = 0; q < kStripRows; ++q) {
#pragma unroll
    for (int p = 0; p < kStripWidth; ++p) sums[q][p] = 0;
  }
#pragma unroll 1
  for (int item = split; item < g.items; item += g.splits) {
    const LargePlace at = weight_place(g, item, first_channel);
    const Rows rows = rows_read(g.y, at.y, s.height);
    copy_planes(g.x_copy, s, at, at.x - s.lead, rows, x_tile);
    copy_planes(g.dy, s, at, at.x, Rows{at.y, min(at.y + s.height, g.y.out)}, dy_tile);
    gpu::cp_async_wait<0>();
    __syncthreads();
    if (seat.image < at.images && seat.channel < at.channels) {
      const Rows slice = slice_rows(g, at, seat.slice);
      const T* dy = dy_tile + plane * g.dy.plane + slice.first * g.dy.pitch;
      const int width = min(g.x.out - at.x, s.width);
      const Chunks chunks = {(width + kChunk - 1) / kChunk, 0xf,
                             width % kChunk == 0 ? 0xfu : (1u << width % kChunk) - 1};
      // Row of x that row `slice.first` of dy meets with the strip's first tap, and where it is.
      const int in_y = at.y + slice.first + tap_y - g.y.pad;
      const T* x = x_tile + plane * s.plane + (in_y - rows.first) * s.pitch + tap_x;
      correlate(x, s.pitch, dy, g.dy.pitch, slice.count(), chunks, 0,
                g.shape.slice_rows + kStripRows - 1, rows.first - in_y, rows.end - in_y, sums);
      if (g.with_bias && tap_y == 0 && tap_x == 0) {
#pragma unroll 1
        for (int o = 0; o < slice.count(); ++o, dy += g.dy.pitch) {
#pragma unroll 4
          for (int i = 0; i < width; ++i) bias += gpu::widen(dy[i]);
        }
      }
    }
    __syncthreads();
  }

  if (seat.channel < g.channels - first_channel) {
    uint32_t odd = 0;  // bit q * kStripWidth + p: not finite
#pragma unroll
    for (int n = 0; n < kStripRows * kStripWidth; ++n) {
      const A sum = sums[n / kStripWidth][n % kStripWidth];
      if (sum - sum != 0) odd |= 1u << n;
    }
#pragma unroll 1
    for (int n = 0; n < kStripRows * kStripWidth && odd != 0; ++n) {
      const int r = tap_y + n / kStripWidth, column = tap_x + n % kStripWidth - shift;
      if ((odd >> n & 1) == 0 || r >= g.y.kernel || column < 0 || column >= g.x.kernel) continue;
      const A sum =
          plain_tap<T>(g, split, first_channel + seat.channel, seat.image, seat.slice, r, column);
#pragma unroll
      for (int other = 0; other < kStripRows * kStripWidth; ++other) {
        if (other == n) sums[other / kStripWidth][other % kStripWidth] = sum;
      }
    }
  }

  A* values = reinterpret_cast<A*>(smem);  // [value][thread]
#pragma unroll
  for (int n = 0; n < kStripRows * kStripWidth; ++n) {
    values[n * s.threads() + thread] = sums[n / kStripWidth][n % kStripWidth];
  }
  values[(kWeightValues - 1) * s.threads() + thread] = bias;
  __syncthreads();
  store_weight<T>(g, values, split, first_channel, shift);
}

template <class T>
cudaError_t launch_large_weight(const LargeWeight& g, cudaStream_t stream) {
  return launch_weight<T>(large_weight_kernel<T>, g, stream);
}

}  // namespace fastconv::depthwise_conv
