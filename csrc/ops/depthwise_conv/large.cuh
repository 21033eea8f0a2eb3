// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the kernels for large filters share: their parameters, and how a block finds its place and
// copies its planes to shared memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/gpu.h"
#include "ops/depthwise_conv/geometry.cuh"
#include "ops/depthwise_conv/large_tiles.h"
#include "ops/depthwise_conv/large_weight_tiles.h"

namespace fastconv::depthwise_conv {

// A tensor of planes, strided in elements.
struct Planes {
  const void* data;
  int64_t n, c, y, x;
};

// How the planes of a tensor are copied to shared memory.
struct PlaneCopy {
  Planes from;
  int width;         // columns that exist
  int channel_div;   // channel c is channel c / channel_div of the tensor
  int pitch, plane;  // elements between rows and between planes in shared memory
  int copy_bytes;    // of a row that are copied at a time: 16, 4 or those of an element
  int by_channel;    // channels_last: how many channels are loaded at a time
  Divider<int> per_row, per_plane, per_channel;  // units of copies
};

struct LargeGather {
  PlaneCopy in;
  void* out;
  int64_t out_n, out_c, out_y, out_x;
  const void* weight;
  const void* bias;
  Activation activation;
  LargeAxis y, x;
  LargeShape shape;
  int batch, channels;  // channels of out
  bool flip;            // the filter, along both axes
  bool packed_stores;   // rows of out may be written 16 bytes at a time
  int store_channels;   // channels_last, bands: how many channels of out are written at a time
  Divider<int> taps, filter_width;
  Divider<int> store_units, store_packs;  // bands: of a row of out, and of a pixel
};

struct LargeWeight {
  PlaneCopy x_copy, dy;
  LargeAxis y, x;
  LargeWeightShape shape;
  int batch, channels;  // of dy
  int items, splits;
  bool with_bias;
  void* partial;
  void* dw;
  void* db;
};

// Where a block's tile of results and its planes begin, and how many planes of it exist.
struct LargePlace {
  int x, y, channel, image;
  int channels, images;
};

__device__ __forceinline__ LargePlace large_place(const LargeShape& s, int channels, int batch) {
  int rest = static_cast<int>(blockIdx.x);
  const int tiles_x = static_cast<int>(s.tiles_x), tiles_y = static_cast<int>(s.tiles_y);
  const int tile_x = rest % tiles_x;
  rest /= tiles_x;
  const int tile_y = rest % tiles_y;
  rest /= tiles_y;
  const int channel_blocks = static_cast<int>(s.channel_blocks);
  const int channel = rest % channel_blocks * s.channels;
  const int image = rest / channel_blocks * s.images;
  return {tile_x * s.width,
          tile_y * s.height,
          channel,
          image,
          min(channels - channel, s.channels),
          min(batch - image, s.images)};
}

// Rows [first, end) of a plane.
struct Rows {
  int first, end;

  __device__ __forceinline__ int count() const { return end - first; }
};

// Those that the results in `height` rows from `begin` on read.
__device__ __forceinline__ Rows rows_read(const LargeAxis& y, int begin, int height) {
  return {max(begin - y.pad, 0), min(begin - y.pad + height + y.kernel - 1, y.in)};
}

// Copies rows of the block's planes to shared memory, whose columns begin with column `first_x` of
// the tensor; there are zeros where that has none.  Neighbouring threads take neighbouring columns,
// Bytes at a time.
template <class T, int Bytes>
__device__ __forceinline__ void copy_rows(const PlaneCopy& p, const LargeShape& s,
                                          const LargePlace& at, int first_x, Rows rows, T* tile) {
  constexpr int kUnit = Bytes / static_cast<int>(sizeof(T));
  const int count = s.planes() * p.per_plane.value;
  for (int i = threadIdx.x; i < count; i += s.threads()) {
    const int plane = p.per_plane.divide(i), in_plane = i - plane * p.per_plane.value;
    const int row = p.per_row.divide(in_plane);
    const int column = (in_plane - row * p.per_row.value) * kUnit;
    const int image = plane / s.channels, channel = plane - image * s.channels;
    if (row >= rows.count() || channel >= at.channels || image >= at.images) continue;
    const int x = first_x + column;
    const bool inside = x >= 0 && x < p.width;
    const T* from = static_cast<const T*>(p.from.data);
    if (inside) {
      from += (at.image + image) * p.from.n + (at.channel + channel) / p.channel_div * p.from.c +
              (rows.first + row) * p.from.y + x * p.from.x;
    }
    T* to = tile + plane * p.plane + row * p.pitch + column;
    if constexpr (Bytes >= 4) {
      gpu::cp_async<Bytes>(to, from, inside);
    } else {
      *to = inside ? *from : gpu::narrow<T>(0);
    }
  }
}

// The same where channels are neighbours in memory: kUnit of them at a time, and a plane for each.
template <class T, int kUnit>
__device__ __forceinline__ void copy_channels(const PlaneCopy& p, const LargeShape& s,
                                              const LargePlace& at, int first_x, Rows rows,
                                              T* tile) {
  const int count = s.images * p.per_plane.value;
  for (int i = threadIdx.x; i < count; i += s.threads()) {
    const int image = p.per_plane.divide(i), in_image = i - image * p.per_plane.value;
    const int row = p.per_row.divide(in_image), in_row = in_image - row * p.per_row.value;
    const int column = p.per_channel.divide(in_row);
    const int channel = (in_row - column * p.per_channel.value) * kUnit;
    if (row >= rows.count() || channel >= at.channels || image >= at.images) continue;
    const int x = first_x + column;
    const bool inside = x >= 0 && x < p.width;
    const T* from = static_cast<const T*>(p.from.data);
    if (inside) {
      from += (at.image + image) * p.from.n + (at.channel + channel) / p.channel_div * p.from.c +
              (rows.first + row) * p.from.y + x * p.from.x;
    }
    T* to = tile + (image * s.channels + channel) * p.plane + row * p.pitch + column;
    if constexpr (kUnit == 1 && sizeof(T) >= 4) {
      gpu::cp_async<static_cast<int>(sizeof(T))>(to, from, inside);
    } else {
      const Pack<T, kUnit> pack = load_if<T, kUnit>(inside, from);
#pragma unroll
      for (int c = 0; c < kUnit; ++c) to[c * p.plane] = pack.v[c];
    }
  }
}

template <class T>
__device__ __forceinline__ void copy_planes(const PlaneCopy& p, const LargeShape& s,
                                            const LargePlace& at, int first_x, Rows rows, T* tile) {
  constexpr int kPack = kPackBytes / static_cast<int>(sizeof(T));
  if (p.by_channel == kPack) {
    copy_channels<T, kPack>(p, s, at, first_x, rows, tile);
  } else if (p.by_channel == 1) {
    copy_channels<T, 1>(p, s, at, first_x, rows, tile);
  } else if (p.copy_bytes == kPackBytes) {
    copy_rows<T, kPackBytes>(p, s, at, first_x, rows, tile);
  } else if (sizeof(T) < 4 && p.copy_bytes == 4) {
    copy_rows<T, 4>(p, s, at, first_x, rows, tile);
  } else {
    copy_rows<T, static_cast<int>(sizeof(T))>(p, s, at, first_x, rows, tile);
  }
  gpu::cp_async_commit();
}

// Calls put(channel of the block, row, column, element) for every element of the block's filters,
// as the taps meet rows and columns.
template <class T, class Put>
__device__ __forceinline__ void for_each_tap(const LargeGather& g, const LargePlace& at,
                                             const Put& put) {
  const LargeShape& s = g.shape;
  const T* weight = static_cast<const T*>(g.weight);
  const int taps = g.taps.value;
  for (int i = threadIdx.x; i < at.channels * taps; i += s.threads()) {
    const int channel = g.taps.divide(i), tap = i - channel * taps;
    int r = g.filter_width.divide(tap);
    int column = tap - r * g.filter_width.value;
    if (g.flip) {
      r = g.y.kernel - 1 - r;
      column = g.x.kernel - 1 - column;
    }
    put(channel, r, column, weight[static_cast<int64_t>(at.channel) * taps + i]);
  }
}

// Two neighbours, the first one in the low half.
template <class T>
__device__ __forceinline__ uint32_t load_pair(const T* p) {
  FASTCONV_CHECK_ALIGNED(p, 4);
  return *reinterpret_cast<const uint32_t*>(p);
}

}  // namespace fastconv::depthwise_conv
