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
#pragma once

#include <cstdint>

#include "common/types.h"
#include "ops/depthwise_conv/depthwise_conv.h"

namespace fastconv::depthwise_conv {

// What a thread of a walk owns.
enum class WalkKind : uint8_t {
  kNone,        // no walk
  kScalar,      // one channel, any layout
  kChannels,    // channels_last: as many channels as registers hold filters for
  kChannels16,  // channels_last: 16 bytes of channels
  kColumns4,    // contiguous rows: 4 inputs in a row
  kColumns8,    // contiguous rows: 8 inputs in a row
};

struct Tile {
  const char* name;
  bool pack;   // 16 bytes of channels per thread instead of one channel
  int window;  // taps along the strip axis that slide over one set of loads; 1: no sliding
  bool wide;   // 64-bit indices, and weights read from global memory: serves everything
  WalkKind walk = WalkKind::kNone;
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
};
constexpr int kTileCount = sizeof(kTiles) / sizeof(kTiles[0]);

constexpr bool in_columns(WalkKind kind) {
  return kind == WalkKind::kColumns4 || kind == WalkKind::kColumns8;
}

constexpr int kPackBytes = 16;
// Weights (and bias) of a block's channels wait in shared memory.  Up to the first size several
// blocks share a multiprocessor; the second is what every supported chip can give to one block.
constexpr int64_t kSmemPreferred = 48 << 10;
constexpr int64_t kSmemLimit = 96 << 10;
// Threads that keep the largest chips busy: 132 multiprocessors times 512.
constexpr int64_t kWalkThreadsEnough = int64_t{1} << 16;

enum class Pass : uint8_t { kForward, kBackwardData, kBackwardWeight };

// What the choice depends on: the problem, and the tensors that are read or written by pixel.
struct View {
  Pass pass;
  Problem problem;
  const void* big;  // the tensor over `in` positions: x or dx
  Strides5 big_strides;
  const void* small;  // the tensor over `out` positions: y or dy
  Strides5 small_strides;
};

inline View view_of(const Forward& p) {
  return {Pass::kForward, p, p.x, p.x_strides, p.y, p.y_strides};
}
inline View view_of(const BackwardData& p) {
  return {Pass::kBackwardData, p, p.dx, p.dx_strides, p.dy, p.dy_strides};
}
inline View view_of(const BackwardWeight& p) {
  return {Pass::kBackwardWeight, p, p.x, p.x_strides, p.dy, p.dy_strides};
}

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

// ---- walks ----

// Channels per thread; 0: not compiled.  A filter of 3x3 leaves registers for 4 fp32 channels, the
// larger ones for 2.
constexpr int walk_lanes(WalkKind kind, int64_t element_size, int64_t kernel) {
  if (kind == WalkKind::kChannels) {
    const int lanes = (kernel == 3 ? 4 : 2) / (element_size == 8 ? 2 : 1);
    return lanes > 1 ? lanes : 0;
  }
  if (kind == WalkKind::kChannels16) return kernel == 3 && element_size == 2 ? 8 : 0;
  if (in_columns(kind)) return element_size == 8 ? 0 : 1;
  return 1;
}

// Groups of outputs in a thread's strip (a group: the `up` outputs between neighbouring inputs of a
// gradient); 0: not compiled.
constexpr int walk_outputs(WalkKind kind, int64_t down, int64_t up) {
  const bool plain = down == 1 && up == 1;
  switch (kind) {
    case WalkKind::kScalar:
      return up == 1 ? 4 : 2;
    case WalkKind::kChannels:
      return plain ? 4 : 2;
    case WalkKind::kChannels16:
      return plain ? 2 : 0;
    case WalkKind::kColumns4:
      return 4;
    case WalkKind::kColumns8:
      return plain ? 8 : 0;
    default:
      return 0;
  }
}

// Elements of one access to a run of so many.
constexpr int walk_vector(int run, int64_t element_size) {
  return static_cast<int>(min_of(run, kPackBytes / element_size));
}

// The strides of a pass: inputs per group of outputs, and outputs per group.
constexpr int walk_down(const View& v) {
  return v.pass == Pass::kBackwardData ? 1 : static_cast<int>(v.problem.axis[2].stride);
}
constexpr int walk_up(const View& v) {
  return v.pass == Pass::kBackwardData ? static_cast<int>(v.problem.axis[2].stride) : 1;
}

namespace internal {

// Whether a tensor can be accessed `vector` elements at a time along W or, with channels_last, C.
inline bool vectors(const Problem& p, const void* data, const Strides5& strides, bool over_out,
                    int64_t vector) {
  const int64_t width = over_out ? p.axis[2].out : p.axis[2].in;
  const int64_t height = over_out ? p.axis[1].out : p.axis[1].in;
  const bool inner = p.channels_last
                         ? p.channels % vector == 0 && (width <= 1 || strides.sp[2] % vector == 0)
                         : width % vector == 0 && strides.sp[2] == 1 &&
                               (p.channels <= 1 || strides.c % vector == 0);
  return inner && (height <= 1 || strides.sp[1] % vector == 0) &&
         (p.batch <= 1 || strides.n % vector == 0) &&
         reinterpret_cast<uintptr_t>(data) % (vector * element_size(p.dtype)) == 0;
}

// A dense square filter over planes, within the sizes that 32-bit positions serve.
inline bool walks(const View& v) {
  const Problem& p = v.problem;
  const Axis &d = p.axis[0], &h = p.axis[1], &w = p.axis[2];
  return v.pass != Pass::kBackwardWeight && p.multiplier == 1 && d.in == 1 && d.out == 1 &&
         d.kernel == 1 && d.pad == 0 && h.kernel == w.kernel &&
         (w.kernel == 3 || w.kernel == 5 || w.kernel == 7) && h.dilation == 1 && w.dilation == 1 &&
         h.stride == w.stride && w.stride <= 2 &&
         p.channels < (int64_t{1} << 30) / max_of(p.batch * max_of(w.in, w.out), 1);
}

inline bool walk_fits(const View& v, WalkKind kind) {
  const Problem& p = v.problem;
  if (!walks(v)) return false;
  const Axis& w = p.axis[2];
  const int64_t size = element_size(p.dtype);
  const int down = walk_down(v), up = walk_up(v);
  const int lanes = walk_lanes(kind, size, w.kernel), outputs = walk_outputs(kind, down, up);
  if (lanes == 0 || outputs == 0) return false;
  if (kind == WalkKind::kScalar) return true;
  if (in_columns(kind) == p.channels_last) return false;
  if (!in_columns(kind)) {
    return vectors(p, v.big, v.big_strides, false, lanes) &&
           vectors(p, v.small, v.small_strides, true, lanes);
  }
  const int64_t read = walk_vector(outputs * down, size), write = walk_vector(outputs * up, size);
  const bool backward = v.pass == Pass::kBackwardData;
  return w.pad == (w.kernel - 1) / 2 &&
         vectors(p, v.big, v.big_strides, false, backward ? write : read) &&
         vectors(p, v.small, v.small_strides, true, backward ? read : write);
}

}  // namespace internal

inline bool tile_fits(const View& v, int tile) {
  if (tile < 0 || tile >= kTileCount) return false;
  const Tile& t = kTiles[tile];
  if (t.wide) return true;
  if (needs_wide(v)) return false;
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
    if (kind == WalkKind::kColumns8 && p.batch * p.channels * strips < kWalkThreadsEnough) continue;
    for (int i = 0; i < kTileCount; ++i) {
      if (kTiles[i].walk == kind && tile_fits(v, i)) return i;
    }
  }
  return kTileCount;
}

// The best tile for a problem: a walk, or packs where they fit and the window that leaves the least
// to load.
inline int pick_tile(const View& v) {
  int best = pick_walk(v);
  if (best < kTileCount) return best;
  int64_t best_cost = INT64_MAX;
  for (int i = 0; i < kTileCount; ++i) {
    const Tile& t = kTiles[i];
    if (t.walk != WalkKind::kNone || !tile_fits(v, i)) continue;
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

}  // namespace fastconv::depthwise_conv
