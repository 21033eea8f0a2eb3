// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CUDA kernels' variants, and the choice among them.  Pure host code.
//
// Every kernel gives a thread a strip of outputs along one spatial axis, the strip axis, so that an
// input which is loaded once serves several outputs from registers:
// - channels_last: the strip lies along W; neighbouring threads take neighbouring channels;
// - otherwise:     the strip lies along H; neighbouring threads take neighbouring columns.  Tiles
//   without a sliding window put it along W instead, with its outputs far apart, so that
//   neighbouring threads still take neighbouring columns.
//
// Tiles that walk serve square filters of 3, 5 and 7 taps at strides 1 and 2: a thread owns a strip
// along W and goes down the rows, with the filter and the sums in registers (walk.cuh).
//
// Tiles of lines serve filters along a single axis, at stride 1 (line.cuh).
#pragma once

#include <cstdint>

#include "common/types.h"
#include "ops/depthwise_conv/depthwise_conv.h"
#include "ops/depthwise_conv/line_tiles.h"
#include "ops/depthwise_conv/view.h"
#include "ops/depthwise_conv/walk_tiles.h"

namespace fastconv::depthwise_conv {

struct Tile {
  const char* name;
  bool pack;   // 16 bytes of channels per thread instead of one channel
  int window;  // taps along the strip axis that slide over one set of loads; 1: no sliding
  bool wide;   // 64-bit indices, and weights read from global memory: serves everything
  WalkKind walk = WalkKind::kNone;
  LineKind line = LineKind::kNone;
};

// Windows of even width serve the forward and backward-data passes alone, at steps of one input:
// they are for filters of width 4 and for the halves that a stride of 2 makes of odd filters.
constexpr Tile kTiles[] = {
    {"pack_window2", true, 2, false},
    {"pack_window3", true, 3, false},
    {"pack_window4", true, 4, false},
    {"pack_window5", true, 5, false},
    {"pack_window7", true, 7, false},
    {"pack_any", true, 1, false},
    {"scalar_window2", false, 2, false},
    {"scalar_window3", false, 3, false},
    {"scalar_window4", false, 4, false},
    {"scalar_window5", false, 5, false},
    {"scalar_window7", false, 7, false},
    {"scalar_any", false, 1, false},
    {"wide", false, 1, true},
    {"walk_scalar", false, 0, false, WalkKind::kScalar},
    {"walk_channels", true, 0, false, WalkKind::kChannels},
    {"walk_channels16", true, 0, false, WalkKind::kChannels16},
    {"walk_columns4", false, 0, false, WalkKind::kColumns4},
    {"walk_columns8", false, 0, false, WalkKind::kColumns8},
    {"line_rows", false, 0, false, WalkKind::kNone, LineKind::kRows},
    {"line_down", true, 0, false, WalkKind::kNone, LineKind::kDown},
    {"line_down_scalar", false, 0, false, WalkKind::kNone, LineKind::kDownScalar},
};
constexpr int kTileCount = sizeof(kTiles) / sizeof(kTiles[0]);
constexpr bool tile_walks(int tile) { return kTiles[tile].walk != WalkKind::kNone; }
constexpr bool tile_lines(int tile) { return kTiles[tile].line != LineKind::kNone; }

// Weights (and bias) of a block's channels wait in shared memory.  Up to the first size several
// blocks share a multiprocessor; the second is what every supported chip can give to one block.
constexpr int64_t kSmemPreferred = 48 << 10;
constexpr int64_t kSmemLimit = 96 << 10;

constexpr int64_t gcd_of(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t r = a % b;
    a = b;
    b = r;
  }
  return a;
}

constexpr int pack_size(Dtype dtype) { return static_cast<int>(kPackBytes / element_size(dtype)); }

// The spatial axis (index into Problem::axis) along which a tile's strips lie.
constexpr int strip_axis(const Problem& p, const Tile& tile) {
  return p.channels_last || tile.window == 1 ? 2 : 1;
}

// Whether each element of the result sums over the filters of a channel.
constexpr bool fans_in(const View& v) {
  return (v.pass == Pass::kBackwardData) != v.problem.wide_in;
}

// Bytes of shared memory that one channel's weights and bias take.
constexpr int64_t weight_bytes(const View& v) {
  const int64_t rows = fans_in(v) ? v.problem.multiplier : 1;
  return (rows * v.problem.taps() + 1) * element_size(v.problem.dtype);
}

namespace internal {

inline bool aligned(const Problem& p, const void* data, const Strides5& strides, bool over_out) {
  const int64_t pack = pack_size(p.dtype);
  bool ok = reinterpret_cast<uintptr_t>(data) % kPackBytes == 0;
  ok = ok && (p.batch <= 1 || strides.n % pack == 0);
  for (int i = 0; i < kSpatial; ++i) {
    const int64_t size = over_out ? p.axis[i].out : p.axis[i].in;
    ok = ok && (size <= 1 || strides.sp[i] % pack == 0);
  }
  return ok;
}

// Whether the positions that kernels compute along one axis fit 32 bits, and so do the offsets
// between the elements of one strip.
constexpr bool narrow_axis(const Axis& a, bool interleaved, int64_t in_stride, int64_t out_stride) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  const int64_t pad = a.pad < 0 ? -a.pad : a.pad;
  if (a.in > kLimit || a.out > kLimit || a.kernel > kLimit || a.stride > (1 << 15) ||
      a.dilation > kLimit || pad > kLimit) {
    return false;
  }
  const int64_t reach =
      max_of(a.in + a.stride * 8, (a.out + 8) * a.stride) + a.kernel * a.dilation + pad;
  const int64_t strip = interleaved ? reach : 32 * a.stride;
  return reach < kLimit && (a.in <= 1 || in_stride < kLimit / strip) &&
         (a.out <= 1 || out_stride < kLimit / strip);
}

}  // namespace internal

inline bool needs_wide(const View& v) {
  const Problem& p = v.problem;
  constexpr int64_t kLimit = int64_t{1} << 30;
  bool narrow = p.batch < kLimit && p.filters() < kLimit && p.multiplier * p.taps() < kLimit;
  for (int i = 0; i < kSpatial; ++i) {
    narrow = narrow && internal::narrow_axis(p.axis[i], !p.channels_last && i == 2,
                                             v.big_strides.sp[i], v.small_strides.sp[i]);
  }
  if (!narrow) return true;
  const int64_t pixels = v.pass == Pass::kBackwardData ? p.in_pixels() : p.out_pixels();
  const bool stages = v.pass != Pass::kBackwardWeight;
  return (p.batch > 0 && pixels >= kLimit / p.batch) || (stages && weight_bytes(v) > kSmemLimit);
}

// Whether one block of taps along the strip axis reads adjacent inputs, at a distance between
// outputs that the windows are compiled for.
constexpr bool slides(const View& v, const Tile& tile) {
  const Axis& a = v.problem.axis[strip_axis(v.problem, tile)];
  if (v.pass != Pass::kBackwardData) {
    return a.dilation == 1 && (a.stride == 1 || (a.stride == 2 && tile.window % 2 == 1));
  }
  return a.dilation == gcd_of(a.dilation, a.stride);
}

inline bool tile_fits(const View& v, int tile) {
  if (tile < 0 || tile >= kTileCount) return false;
  const Tile& t = kTiles[tile];
  if (v.pass == Pass::kBackward && !tile_lines(tile) && !tile_walks(tile)) return false;
  if (t.wide) return true;
  if (needs_wide(v)) return false;
  if (tile_lines(tile)) return internal::line_fits(v, t.line);
  if (t.walk != WalkKind::kNone) return internal::walk_fits(v, t.walk);
  if (t.window > 1 && !slides(v, t)) return false;
  if (t.window % 2 == 0 && v.pass == Pass::kBackwardWeight) return false;
  if (!t.pack) return true;
  const Problem& p = v.problem;
  return p.channels_last && p.multiplier == 1 && p.channels % pack_size(p.dtype) == 0 &&
         internal::aligned(p, v.big, v.big_strides, false) &&
         internal::aligned(p, v.small, v.small_strides, true) &&
         (v.pass == Pass::kBackwardWeight || weight_bytes(v) * pack_size(p.dtype) <= kSmemLimit);
}

namespace internal {

// Loads of a strip of 8 outputs per filter row with `taps` taps along the strip axis.
constexpr int64_t strip_cost(const View& v, const Tile& tile, int64_t taps) {
  if (v.pass == Pass::kBackwardWeight) return ceil_div(taps, tile.window) * (7 + tile.window);
  const int64_t windows = tile.window == 1 ? 0 : taps / tile.window;
  return windows * (7 + tile.window) + (taps - windows * tile.window) * 8;
}

}  // namespace internal

// The best of the tiles that walk; kTileCount if none fits.  Each input is loaded once per strip
// and widened once, a K-th of what the other kernels load, so a walk is preferred wherever it fits.
inline int pick_walk(const View& v) {
  constexpr WalkKind kOrder[] = {WalkKind::kColumns8, WalkKind::kColumns4, WalkKind::kChannels,
                                 WalkKind::kScalar};
  const Problem& p = v.problem;
  for (const WalkKind kind : kOrder) {
    // Wide strips load less but leave fewer threads, which must be enough to fill a chip.
    const int64_t strips =
        ceil_div(p.axis[2].out, 8) * ceil_div(p.axis[1].out, 2 * p.axis[1].kernel);
    const int64_t planes = p.batch * p.axis[0].out * p.channels;
    if (kind == WalkKind::kColumns8 && planes * strips < kWalkThreadsEnough) continue;
    for (int i = 0; i < kTileCount; ++i) {
      if (kTiles[i].walk == kind && tile_fits(v, i)) return i;
    }
  }
  return kTileCount;
}

// The best of the tiles of lines; kTileCount if none fits.  They are in order.
inline int pick_line(const View& v) {
  for (int i = 0; i < kTileCount; ++i) {
    if (tile_lines(i) && tile_fits(v, i)) return i;
  }
  return kTileCount;
}

// The best of the other tiles: packs where they fit, and the window that leaves the least to load.
inline int pick_gather(const View& v) {
  int best = kTileCount - 1;
  int64_t best_cost = INT64_MAX;
  for (int i = 0; i < kTileCount; ++i) {
    const Tile& t = kTiles[i];
    if (tile_walks(i) || tile_lines(i) || !tile_fits(v, i)) continue;
    const Axis& a = v.problem.axis[strip_axis(v.problem, t)];
    const bool backward = v.pass == Pass::kBackwardData;
    // Of a transposed stride, each output meets every stride-th tap.
    int64_t cost = backward ? internal::strip_cost(v, t, ceil_div(a.kernel, a.stride)) +
                                  internal::strip_cost(v, t, a.kernel / a.stride)
                            : 2 * internal::strip_cost(v, t, a.kernel);
    // Strips along H pay only where there are rows.
    const int64_t outputs = backward ? a.in : a.out;
    if (t.window > 1 && !v.problem.channels_last && outputs < 4) cost *= 8;
    if (t.window == 1) cost += 8;
    if (!t.pack) cost *= 64;
    if (t.wide) cost *= 1024;
    if (cost < best_cost) {
      best_cost = cost;
      best = i;
    }
  }
  return best;
}

inline int pick_tile(const View& v) {
  const int walk = pick_walk(v);
  if (walk < kTileCount) return walk;
  const int line = pick_line(v);
  return line < kTileCount ? line : pick_gather(v);
}

}  // namespace fastconv::depthwise_conv
