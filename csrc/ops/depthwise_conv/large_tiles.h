// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Tiles of the kernels for large 2-D filters at stride 1: how a problem is cut into blocks.
// Pure host code.
//
// Forward, the gradient of the input (forward with the taps flipped) and the gradient of the weight
// (a correlation of x whose filter is dy and whose results are taps) are one computation:
//
//   result[y, x] += sum_{r, s} filter[r, s] * in[y + r - pad_y, x + s - pad_x]
//
// A thread owns kStripRows x kStripWidth results, all in registers.  For one row of `in` it slides
// over the columns, kChunk taps at a time; the values of a window meet the filter rows of all of
// its rows of results.  Per chunk: 128 FMAs on one 16-byte load of `in` and four of the filter.
//
// 16-bit types also go through the tensor cores.  With the filter row r as a band matrix,
// A[i, j] = filter[r, j - i], 16 neighbouring results of 8 rows are the product of A (16 x K) and
// 16 + kernel - 1 columns of 8 rows of `in` (K x 8); the products of all r add up.  Of the
// multiplications kernel / K count: 41 % for 13 taps, 65 % for 31.  A warp owns kBandRows x
// kBandWidth results.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "ops/depthwise_conv/tiles.h"

namespace fastconv::depthwise_conv {

struct LargeTile {
  const char* name;
  bool bands;  // tensor cores: 16-bit types alone
};

// They follow those of kTiles: tile kTileCount + i is kLargeTiles[i].
constexpr LargeTile kLargeTiles[] = {
    {"large_strips", false},
    {"large_bands", true},
};
constexpr int kLargeTileCount = sizeof(kLargeTiles) / sizeof(kLargeTiles[0]);

constexpr int kStripWidth = 8, kStripRows = 4, kChunk = 4;
// A warp's matrices: kBandTiles of 16 columns, kBandGroups of 8 rows.
constexpr int kBandTiles = 2, kBandGroups = 4;
constexpr int kBandWidth = 16 * kBandTiles, kBandRows = 8 * kBandGroups;
constexpr int kLargeThreads = 256;

// One plane axis as these kernels see it: result o reads in[o - pad + t] with tap t.
struct LargeAxis {
  int in, out, kernel, pad;
};

// How a block's threads and its shared memory are laid out.  The planes of a block (`channels` of
// each of `images`, the channel varying fastest) lie in shared memory one after another, every one
// with the rows and columns that its tile of results reads.
struct LargeShape {
  int channels, images;  // of a block
  int lanes;             // threads of a strip: 1, or a warp for bands
  int across, down;      // strips of a tile; strips are numbered plane, across, down
  int width, height;     // results of a tile
  int64_t tiles_x, tiles_y, channel_blocks, image_blocks;  // the grid
  int lead;                        // columns left of the tile's first result in shared memory
  int rows;                        // of a plane in shared memory, at most
  int pitch, plane;                // elements from row to row and from plane to plane
  int filter_pitch, filter_plane;  // the same of the filter, in elements of its own
  int steps;                       // bands: columns of A in units of 16
  int64_t filter_bytes, smem;

  constexpr int planes() const { return channels * images; }
  constexpr int threads() const { return planes() * across * down * lanes; }
  constexpr bool fits() const { return channels > 0 && grid() < INT32_MAX; }
  constexpr int64_t grid() const { return tiles_x * tiles_y * channel_blocks * image_blocks; }
};

namespace internal {

// Planes whose distance is an odd number of 16-byte units: eight lanes that read 16 bytes each of
// eight planes meet no bank twice.
constexpr int odd_plane(int elements, int64_t item) {
  const int unit = static_cast<int>(16 / item);
  const int units = static_cast<int>(ceil_div(elements, unit));
  return (units | 1) * unit;
}

constexpr int64_t accumulator_size(Dtype dtype) { return dtype == Dtype::kFloat64 ? 8 : 4; }

// Columns that the first tap lies right of a multiple of the vectors in which rows are copied.
constexpr int lead_of(const LargeAxis& x, Dtype dtype) {
  const int64_t pack = pack_size(dtype);
  return static_cast<int>((floor_div(x.pad - 1, pack) + 1) * pack);
}

// The axes of the gather of forward, or of the gradient of the input.
constexpr LargeAxis large_axis(const View& v, int i) {
  const Axis& a = v.problem.axis[i];
  const bool backward = v.pass == Pass::kBackwardData;
  const int64_t pad = backward ? a.kernel - 1 - a.pad : a.pad;
  return {static_cast<int>(backward ? a.out : a.in), static_cast<int>(backward ? a.in : a.out),
          static_cast<int>(a.kernel), static_cast<int>(pad)};
}

constexpr void lay_out(const View& v, const LargeAxis& y, const LargeAxis& x, LargeShape& s) {
  const Problem& p = v.problem;
  const int64_t item = element_size(p.dtype), pack = pack_size(p.dtype);
  const bool bands = s.lanes > 1;
  s.width = s.across * (bands ? kBandWidth : kStripWidth);
  s.height = s.down * (bands ? kBandRows : kStripRows);
  s.tiles_x = ceil_div(x.out, s.width);
  s.tiles_y = ceil_div(y.out, s.height);
  s.lead = lead_of(x, p.dtype);
  s.rows = static_cast<int>(min_of(y.in, int64_t{s.height} + y.kernel - 1));
  const int64_t shift = s.lead - x.pad;  // columns that no tap of the tile's first result meets
  if (bands) {
    s.steps = static_cast<int>(ceil_div(shift + x.kernel + 15, 16));
    if (s.steps % 3 != 0) s.steps += s.steps % 2;  // the kernels take two or three at a time
    // Rows are an odd number of 16-byte units apart: of eight rows, lanes read four words each and
    // meet no bank twice.
    s.pitch = odd_plane(s.width + 16 * s.steps, item);
    s.plane = s.rows * s.pitch;
    // Two copies of each filter row, one shifted by an element; they begin in different banks.
    const int64_t copy = 16 * s.steps + 16;
    s.filter_pitch = static_cast<int>(copy % 64 == 0 ? copy + 16 : copy);
    s.filter_plane = y.kernel * 2 * s.filter_pitch;
    s.filter_bytes = s.channels * s.filter_plane * item;
    // The planes and a row of zeros; later the results.
    const int64_t in = int64_t{s.planes()} * s.plane + s.pitch;
    const int64_t out = int64_t{s.planes()} * s.height * (s.width + pack);
    s.smem = s.filter_bytes + max_of(in, out) * item;
    return;
  }
  const int64_t chunks = ceil_div(shift % kChunk + x.kernel, kChunk);
  const int64_t reach = shift / kChunk * kChunk + chunks * kChunk;
  s.pitch = static_cast<int>(round_up(s.width + reach, pack));
  s.plane = odd_plane(s.rows * s.pitch, item);
  s.filter_pitch = static_cast<int>(chunks * kChunk);
  s.filter_plane = odd_plane(y.kernel * s.filter_pitch, accumulator_size(p.dtype));
  s.filter_bytes = int64_t{s.channels} * s.filter_plane * accumulator_size(p.dtype);
  s.smem = s.filter_bytes + int64_t{s.planes()} * s.plane * item;
}

// How much of a multiprocessor's arithmetic a shape may reach, up to a factor.
constexpr double large_score(const View& v, const LargeAxis& y, const LargeAxis& x,
                             const LargeShape& s) {
  const Problem& p = v.problem;
  const double results = static_cast<double>(y.out) * x.out;
  const double room = static_cast<double>(s.tiles_x * s.width) * (s.tiles_y * s.height);
  const int64_t channels = v.pass == Pass::kBackwardData ? p.in_channels() : p.out_channels();
  const double planes = static_cast<double>(channels) * p.batch /
                        (static_cast<double>(s.channel_blocks * s.image_blocks) * s.planes());
  const int64_t warps = ceil_div(s.threads(), 32);
  double score = results / room * planes * s.threads() / (warps * 32);
  // Twelve warps hide the latencies: three for each of the four schedulers.
  const int64_t resident = min_of(min_of(160 * 1024 / (s.smem + 1024), 20 / warps), 16) * warps;
  if (resident < 12) score *= static_cast<double>(resident) / 12;
  // Two waves of the largest chips.
  if (s.grid() < 264) score *= (1 + static_cast<double>(s.grid()) / 264) / 2;
  // A copied element costs about two instructions, a tap one FMA, and a product of matrices about
  // six cycles of a warp.  Memory hands out 32 bytes at least.
  const int64_t item = element_size(p.dtype);
  const double waste = p.channels_last ? max_of(1, 32 / (s.channels * item)) : 1;
  const double place = static_cast<double>(s.planes()) * s.width * s.height * y.kernel;
  const double work = s.lanes > 1 ? place / 128 * s.steps * 6 * 32 : place * x.kernel;
  return score * work / (work + 2 * waste * s.planes() * s.plane);
}

}  // namespace internal

// The large tile that a number of all tiles stands for, or null.
constexpr const LargeTile* large_tile(int tile) {
  const bool is_one = tile >= kTileCount && tile < kTileCount + kLargeTileCount;
  return is_one ? &kLargeTiles[tile - kTileCount] : nullptr;
}

// Whether a tile's kernels serve a problem at all; its shared memory apart.
constexpr bool large_serves(const View& v, const LargeTile* tile) {
  if (tile == nullptr || (tile->bands && element_size(v.problem.dtype) != 2)) return false;
  const Problem& p = v.problem;
  const Axis& d = p.axis[0];
  bool ok = d.in == 1 && d.out == 1 && d.kernel == 1 && d.pad == 0;
  ok = ok && (!fans_in(v) || p.multiplier == 1);
  constexpr int64_t kLimit = int64_t{1} << 24;
  for (int i = 1; i < kSpatial; ++i) {
    const Axis& a = p.axis[i];
    ok = ok && a.stride == 1 && a.dilation == 1 && a.in > 0 && a.out > 0 && a.in < kLimit &&
         a.out < kLimit && a.kernel < kLimit && a.pad < kLimit && a.pad > -kLimit;
  }
  return ok && p.batch > 0 && p.filters() > 0 && p.batch < kLimit && p.filters() < kLimit;
}

namespace internal {

// Tries the shapes of blocks with `down` strips at most below each other and `least` channels.
constexpr void try_shapes(const View& v, int lanes, int64_t across, int64_t down, int64_t least,
                          LargeShape& best, double& best_score) {
  const Problem& p = v.problem;
  const LargeAxis y = large_axis(v, 1), x = large_axis(v, 2);
  const int64_t channels = v.pass == Pass::kBackwardData ? p.in_channels() : p.out_channels();
  const int64_t most = kLargeThreads / (across * down * lanes);
  for (int64_t planes = most; planes >= least; planes = planes / 2) {
    // Images of one channel share its filter; where they are few, channels make up for it.
    const int64_t c = min_of(channels, max_of(planes / p.batch / least, 1) * least);
    const int64_t n = max_of(1, min_of(p.batch, planes / c));
    LargeShape s{};
    s.lanes = lanes;
    s.across = static_cast<int>(across);
    s.down = static_cast<int>(down);
    s.channels = static_cast<int>(c);
    s.images = static_cast<int>(n);
    s.channel_blocks = ceil_div(channels, c);
    s.image_blocks = ceil_div(p.batch, n);
    lay_out(v, y, x, s);
    if (s.smem > kSmemLimit) continue;
    const double score = large_score(v, y, x, s);
    if (score > best_score) {
      best_score = score;
      best = s;
    }
  }
}

}  // namespace internal

// The best shape; without threads if shared memory has room for none.
constexpr LargeShape large_shape(const View& v, const LargeTile& tile) {
  const Problem& p = v.problem;
  const int lanes = tile.bands ? 32 : 1, most = tile.bands ? 8 : 16;
  const int64_t strips_x =
      ceil_div(internal::large_axis(v, 2).out, tile.bands ? kBandWidth : kStripWidth);
  const int64_t strips_y =
      ceil_div(internal::large_axis(v, 1).out, tile.bands ? kBandRows : kStripRows);
  LargeShape best{};
  double score = -1;
  // 32 bytes of channels are what memory hands out at least.
  for (int64_t least = p.channels_last ? 32 / element_size(p.dtype) : 1;; least /= 2) {
    for (int64_t across = min_of(strips_x, most);; across = ceil_div(across, 2)) {
      const int64_t even_x = ceil_div(strips_x, ceil_div(strips_x, across));
      for (int64_t down = min_of(strips_y, most);; down = ceil_div(down, 2)) {
        const int64_t even_y = ceil_div(strips_y, ceil_div(strips_y, down));
        internal::try_shapes(v, lanes, even_x, even_y, least, best, score);
        if (down == 1) break;
      }
      if (across == 1) break;
    }
    // Fewer channels only where they are much better: the search is a part of every call.
    if (least == 1 || score > 0.75) break;
  }
  return best;
}

}  // namespace fastconv::depthwise_conv
