// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// From a problem with a large filter to the kernels' parameters and grid.
#include "common/gpu.h"
#include "ops/depthwise_conv/dispatch.cuh"
#include "ops/depthwise_conv/large_launch.cuh"
#include "ops/depthwise_conv/large_tiles.h"
#include "ops/depthwise_conv/large_weight_tiles.h"

namespace fastconv::depthwise_conv {
namespace {

// How many bytes of a row may be copied at a time, of planes `width` wide.
int copy_bytes_of(const Planes& p, const Problem& problem, int width) {
  const int64_t item = element_size(problem.dtype);
  for (const int64_t bytes : {int64_t{kPackBytes}, int64_t{4}}) {
    const int64_t unit = bytes / item;
    if (unit > 0 && p.x == 1 && reinterpret_cast<uintptr_t>(p.data) % bytes == 0 &&
        width % unit == 0 && p.y % unit == 0 && p.c % unit == 0 && p.n % unit == 0) {
      return static_cast<int>(bytes);
    }
  }
  return static_cast<int>(item);
}

// How many channels at a time may be copied to or from tensors that have `channels` of them.
int by_channel_of(const Planes& p, const Problem& problem, const LargeShape& s, int64_t channels) {
  if (!problem.channels_last) return 0;
  const int pack = pack_size(problem.dtype);
  const bool packs = channels % pack == 0 && s.channels % pack == 0 &&
                     reinterpret_cast<uintptr_t>(p.data) % kPackBytes == 0 && p.n % pack == 0 &&
                     p.y % pack == 0 && p.x % pack == 0;
  return packs ? pack : 1;
}

Divider<int> divider(int64_t value) { return Divider<int>(value); }

Planes planes_of(const void* data, const Strides5& s) { return {data, s.n, s.c, s.sp[1], s.sp[2]}; }

// The copy of planes `width` wide to `rows` rows of `pitch` elements.  Each of `div` channels of
// the result reads the same one.
PlaneCopy copy_of(const Planes& from, const Problem& p, const LargeShape& s, int width, int64_t div,
                  int64_t channels, int rows, int pitch, int plane) {
  PlaneCopy c{};
  c.from = from;
  c.width = width;
  c.channel_div = static_cast<int>(div);
  c.pitch = pitch;
  c.plane = plane;
  c.copy_bytes = copy_bytes_of(from, p, width);
  c.by_channel = div == 1 ? by_channel_of(from, p, s, channels) : p.channels_last;
  const int64_t in_pixel = c.by_channel > 0 ? s.channels / c.by_channel : 1;
  const int64_t units =
      c.by_channel > 0 ? pitch * in_pixel : pitch / (c.copy_bytes / element_size(p.dtype));
  c.per_row = divider(units);
  c.per_plane = divider(units * max_of(rows, 1));
  c.per_channel = divider(in_pixel);
  return c;
}

}  // namespace

cudaError_t large_gather(const View& v, const void* in, const void* weight, const void* bias,
                         Activation activation, void* out, int tile, cudaStream_t stream) {
  const LargeTile* t = large_tile(tile);
  if (!large_serves(v, t)) return cudaErrorInvalidValue;
  const Problem& p = v.problem;
  const bool backward = v.pass == Pass::kBackwardData;
  const Strides5& from = backward ? v.small_strides : v.big_strides;
  const Strides5& to = backward ? v.big_strides : v.small_strides;
  LargeGather g{};
  g.y = internal::large_axis(v, 1);
  g.x = internal::large_axis(v, 2);
  g.shape = large_shape(v, *t);
  if (!g.shape.fits()) return cudaErrorInvalidValue;
  const LargeShape& s = g.shape;
  g.batch = static_cast<int>(p.batch);
  g.channels = static_cast<int>(backward ? p.in_channels() : p.out_channels());
  g.in = copy_of(planes_of(in, from), p, s, g.x.in, fans_in(v) ? 1 : p.multiplier, g.channels,
                 s.rows, s.pitch, s.plane);
  g.out = out;
  g.out_n = to.n;
  g.out_c = to.c;
  g.out_y = to.sp[1];
  g.out_x = to.sp[2];
  g.weight = weight;
  g.bias = bias;
  g.activation = activation;
  g.flip = backward;
  g.packed_stores = copy_bytes_of(planes_of(out, to), p, g.x.out) == kPackBytes;
  g.store_channels = by_channel_of(planes_of(out, to), p, s, g.channels);
  const int64_t pack = pack_size(p.dtype);
  g.store_packs = divider(g.store_channels > 0 ? s.channels / g.store_channels : 1);
  g.store_units = divider(g.store_channels > 0 ? int64_t{s.width} * g.store_packs.value
                          : g.packed_stores    ? s.width / pack
                                               : s.width);
  g.taps = divider(p.taps());
  g.filter_width = divider(g.x.kernel);
  return for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 2) {
      if (t->bands) return launch_large_bands<T>(g, stream);
    }
    return launch_large_gather<T>(g, stream);
  });
}

cudaError_t large_weight(const BackwardWeight& p, int tile, cudaStream_t stream) {
  const View v = view_of(p);
  const LargeTile* t = large_tile(tile);
  if (!large_serves(v, t)) return cudaErrorInvalidValue;
  LargeWeight g{};
  g.y = internal::large_axis(v, 1);
  g.x = internal::large_axis(v, 2);
  g.shape = large_weight_shape(v, *t);
  if (!g.shape.fits()) return cudaErrorInvalidValue;
  const LargeWeightShape& w = g.shape;
  const LargeShape& s = w.block;
  g.batch = static_cast<int>(p.batch);
  g.channels = static_cast<int>(p.out_channels());
  g.items = static_cast<int>(w.items);
  g.splits = static_cast<int>(w.splits);
  g.x_copy = copy_of(planes_of(p.x, p.x_strides), p, s, g.x.in, p.multiplier, g.channels, s.rows,
                     s.pitch, s.plane);
  g.dy = copy_of(planes_of(p.dy, p.dy_strides), p, s, g.x.out, 1, g.channels, s.height, w.dy_pitch,
                 w.dy_plane);
  g.with_bias = p.db != nullptr;
  g.partial = p.workspace;
  g.dw = p.dw;
  g.db = p.db;
  return for_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == 2) {
      if (t->bands) return launch_large_weight_bands<T>(g, stream);
    }
    return launch_large_weight<T>(g, stream);
  });
}

}  // namespace fastconv::depthwise_conv
