// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the kernels of the gradient of the weight for large filters share.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/large_launch.cuh"
#include "ops/depthwise_conv/weight_gradient.cuh"

namespace fastconv::depthwise_conv {

// One tile of dy of some images, and the block's channels.
__device__ __forceinline__ LargePlace weight_place(const LargeWeight& g, int item, int channel) {
  const LargeShape& s = g.shape.block;
  const int tiles_x = static_cast<int>(s.tiles_x), tiles_y = static_cast<int>(s.tiles_y);
  const int tile_x = item % tiles_x;
  item /= tiles_x;
  const int tile_y = item % tiles_y;
  const int image = item / tiles_y * s.images;
  return {tile_x * s.width,
          tile_y * s.height,
          channel,
          image,
          min(g.channels - channel, s.channels),
          min(g.batch - image, s.images)};
}

// Rows of dy that a slice has in a tile.
__device__ __forceinline__ Rows slice_rows(const LargeWeight& g, const LargePlace& at, int slice) {
  const int end = min(g.shape.block.height, g.y.out - at.y);
  return {slice * g.shape.slice_rows, min((slice + 1) * g.shape.slice_rows, end)};
}

// A share of one tap from global memory, of the elements that meet: what has been computed with
// zeros in the place of elements that are missing is no number where dy is infinite.
template <class T>
__device__ __forceinline__ Accum<T> plain_tap(const LargeWeight& g, int split, int channel,
                                              int image, int slice, int r, int column) {
  Accum<T> sum = 0;
#pragma unroll 1
  for (int item = split; item < g.items; item += g.splits) {
    const LargePlace at = weight_place(g, item, 0);
    const Rows rows = slice_rows(g, at, slice);
    if (image >= at.images) continue;
    const T* dy = static_cast<const T*>(g.dy.from.data) + channel * g.dy.from.c +
                  (at.image + image) * g.dy.from.n;
    const T* x = static_cast<const T*>(g.x_copy.from.data) +
                 channel / g.x_copy.channel_div * g.x_copy.from.c +
                 (at.image + image) * g.x_copy.from.n;
    const int end = min(at.x + g.shape.block.width, g.x.out);
#pragma unroll 1
    for (int o = at.y + rows.first; o < at.y + rows.end; ++o) {
      const int in_y = o + r - g.y.pad;
      if (in_y < 0 || in_y >= g.y.in) continue;
#pragma unroll 1
      for (int i = at.x; i < end; ++i) {
        const int in_x = i + column - g.x.pad;
        if (in_x < 0 || in_x >= g.x.in) continue;
        sum += gpu::widen(dy[o * g.dy.from.y + i * g.dy.from.x]) *
               gpu::widen(x[in_y * g.x_copy.from.y + in_x * g.x_copy.from.x]);
      }
    }
  }
  return sum;
}

// Both stages: the partial sums by `kernel`, and the sum over the splits in order.
template <class T>
cudaError_t launch_weight(void (*kernel)(LargeWeight), const LargeWeight& g, cudaStream_t stream) {
  const LargeShape& s = g.shape.block;
  const cudaError_t error = FASTCONV_LAUNCH(kernel, dim3(static_cast<unsigned>(g.shape.grid())),
                                            dim3(static_cast<unsigned>(s.threads())),
                                            static_cast<size_t>(s.smem), stream, g);
  if (error != cudaSuccess) return error;
  const int64_t taps = int64_t{g.y.kernel} * g.x.kernel;
  const int64_t blocks = min_of(ceil_div((taps + 1) * g.channels, kAddColumns), int64_t{1} << 16);
  return FASTCONV_LAUNCH(add_splits_kernel<T>, dim3(static_cast<unsigned>(blocks)),
                         dim3(kAddColumns * kAddRows), 0, stream,
                         static_cast<const Accum<T>*>(g.partial), g.shape.splits, taps,
                         int64_t{g.channels}, static_cast<T*>(g.dw), static_cast<T*>(g.db));
}

}  // namespace fastconv::depthwise_conv
