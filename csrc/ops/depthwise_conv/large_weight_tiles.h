// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// How the gradient of the weight of large filters is cut into blocks.  Pure host code.
//
// The results are taps: a block owns all taps of its channels, in the strips of large_tiles.h, and
// works through a share of the items: tiles of dy of some images.  The threads of a strip share out
// the planes, and the rows of dy in slices.  A plane is read once, and its halo once per tile.
#pragma once

#include <cstdint>

#include "ops/depthwise_conv/large_tiles.h"

namespace fastconv::depthwise_conv {

struct LargeWeightShape {
  // `lanes` are slices, `across` and `down` count strips of taps, a tile is one of dy.
  LargeShape block;
  int slice_rows;          // rows of dy of a slice
  int dy_pitch, dy_plane;  // in elements
  int64_t x_bytes;         // of shared memory, before dy
  int pairs;               // bands: of filter columns
  int64_t task_blocks;     // bands: blocks that share out the warps of a channel
  int64_t items, splits;   // an item is a tile of some images

  constexpr bool fits() const {
    return block.channels > 0 && grid() < INT32_MAX && items < INT32_MAX;
  }
  constexpr int64_t grid() const { return splits * task_blocks * block.channel_blocks; }
};

// Bands: filter rows of a warp, 16 + 33 - 1 rows of `in` being six groups of eight; warps of a
// block; floats between the rows of a warp's sums in shared memory.
constexpr int kBandTaps = 33, kBandWarps = 16, kBandSumPitch = 49;

// Values of a thread that the block adds up: its strip's sums, and that of dy.
constexpr int kWeightValues = kStripRows * kStripWidth + 1;

namespace internal {

constexpr void lay_out_weight(const View& v, const LargeAxis& y, const LargeAxis& x,
                              LargeWeightShape& w) {
  const Problem& p = v.problem;
  const int64_t item = element_size(p.dtype), pack = pack_size(p.dtype);
  LargeShape& s = w.block;
  s.tiles_x = ceil_div(x.out, s.width);
  s.tiles_y = ceil_div(y.out, s.height);
  s.rows = static_cast<int>(min_of(y.in, int64_t{s.height} + y.kernel - 1));
  s.pitch = static_cast<int>(round_up(s.width + s.across * kStripWidth, pack));
  s.plane = odd_plane(s.rows * s.pitch, item);
  w.dy_pitch = static_cast<int>(round_up(s.width, pack));
  w.dy_plane = odd_plane(s.height * w.dy_pitch, item);
  w.slice_rows = static_cast<int>(ceil_div(s.height, s.lanes));
  w.x_bytes = int64_t{s.planes()} * s.plane * item;
  const int64_t tiles = w.x_bytes + int64_t{s.planes()} * w.dy_plane * item;
  const int64_t sums = int64_t{s.threads()} * kWeightValues * accumulator_size(p.dtype);
  s.smem = max_of(tiles, sums);
}

// How much of a multiprocessor's arithmetic a shape may reach, up to a factor.
constexpr double large_weight_score(const View& v, const LargeAxis& y, const LargeAxis& x,
                                    const LargeWeightShape& w) {
  const LargeShape& s = w.block;
  const Problem& p = v.problem;
  const int64_t warps = ceil_div(s.threads(), 32);
  double score = static_cast<double>(y.out) * x.out /
                 (static_cast<double>(s.tiles_x * s.width) * (s.tiles_y * s.height));
  score *= static_cast<double>(p.out_channels()) * p.batch /
           (static_cast<double>(s.channel_blocks * s.image_blocks) * s.planes());
  score *= static_cast<double>(s.threads()) / (warps * 32);
  // At both ends of a slice, rows of `in` meet a part of a strip's rows alone.
  score *= s.height / (s.lanes * (w.slice_rows + 1.5));
  const int64_t resident = min_of(min_of(160 * 1024 / (s.smem + 1024), 20 / warps), 16) * warps;
  if (resident < 12) score *= static_cast<double>(resident) / 12;
  const int64_t blocks = s.channel_blocks * s.tiles_x * s.tiles_y * s.image_blocks;
  if (blocks < 264) score *= (1 + static_cast<double>(blocks) / 264) / 2;
  const double waste = p.channels_last ? max_of(1, 32 / (s.channels * element_size(p.dtype))) : 1;
  const double work = static_cast<double>(s.planes()) * s.width * s.height * y.kernel * x.kernel;
  return score * work / (work + 2 * waste * s.planes() * (s.plane + w.dy_plane));
}

}  // namespace internal

namespace internal {

// Enough blocks for a few waves of the largest chips, and a workspace of 64 MiB at most.
constexpr void share_out(const View& v, LargeWeightShape& w) {
  const Problem& p = v.problem;
  const LargeShape& b = w.block;
  w.items = b.tiles_x * b.tiles_y * b.image_blocks;
  const int64_t split_bytes = (p.taps() + 1) * p.out_channels() * accumulator_size(p.dtype);
  const int64_t wanted = max_of(1056 / (b.channel_blocks * w.task_blocks), 1);
  int64_t splits = min_of(min_of(w.items, 512), wanted);
  splits = max_of(min_of(splits, (int64_t{64} << 20) / split_bytes), 1);
  w.splits = ceil_div(w.items, ceil_div(w.items, splits));
}

}  // namespace internal

// The best shape; without threads if shared memory has room for none.
constexpr LargeWeightShape large_weight_strips(const View& v) {
  const Problem& p = v.problem;
  const LargeAxis y = internal::large_axis(v, 1), x = internal::large_axis(v, 2);
  LargeWeightShape best{};
  LargeWeightShape w{};
  w.task_blocks = 1;
  LargeShape& s = w.block;
  s.lead = internal::lead_of(x, p.dtype);
  const int64_t across = ceil_div(s.lead - x.pad + x.kernel, kStripWidth);
  const int64_t down = ceil_div(y.kernel, kStripRows);
  s.across = static_cast<int>(min_of(across, kLargeThreads + 1));
  s.down = static_cast<int>(min_of(down, kLargeThreads + 1));
  const int64_t most = kLargeThreads / (int64_t{s.across} * s.down);
  double best_score = -1;
  for (int64_t c = p.channels_last ? 32 / element_size(p.dtype) : 1; c > 0 && most > 0; c /= 2) {
    const int64_t channels = min_of(c, p.out_channels());
    if (channels > most) continue;
    s.channels = static_cast<int>(channels);
    s.channel_blocks = ceil_div(p.out_channels(), channels);
    for (int64_t width = min_of(round_up(x.out, kStripWidth), 64);;
         width = round_up(width / 2, kStripWidth)) {
      for (int64_t height = min_of(y.out, 64);; height = ceil_div(height, 2)) {
        for (int64_t n = min_of(p.batch, most / channels); n > 0; n /= 2) {
          s.width = static_cast<int>(width);
          s.height = static_cast<int>(height);
          s.images = static_cast<int>(n);
          s.image_blocks = ceil_div(p.batch, n);
          const int64_t slices = min_of(most / (channels * n), ceil_div(height, kStripRows));
          s.lanes = static_cast<int>(ceil_div(height, ceil_div(height, slices)));
          internal::lay_out_weight(v, y, x, w);
          if (s.smem > kSmemLimit) continue;
          const double score = internal::large_weight_score(v, y, x, w);
          if (score > best_score) {
            best_score = score;
            best = w;
          }
        }
        if (height <= 8) break;
      }
      if (width <= 2 * kStripWidth) break;
    }
  }
  if (best_score >= 0) internal::share_out(v, best);
  return best;
}

// The same for the tensor cores (large_weight_bands.cuh): one image at a time, a warp for every
// pair of filter columns (and kBandTaps filter rows) of a channel.  `across` counts those warps.
constexpr LargeWeightShape large_weight_bands(const View& v) {
  const Problem& p = v.problem;
  const int64_t item = element_size(p.dtype);
  const LargeAxis y = internal::large_axis(v, 1), x = internal::large_axis(v, 2);
  LargeWeightShape best{};
  LargeWeightShape w{};
  LargeShape& s = w.block;
  s.lead = internal::lead_of(x, p.dtype);
  const int64_t shift = s.lead - x.pad;
  w.pairs = static_cast<int>((shift + x.kernel - 1) / 2 - shift / 2 + 1);
  const int64_t tasks = w.pairs * ceil_div(y.kernel, kBandTaps);
  w.task_blocks = ceil_div(tasks, kBandWarps);
  s.across = static_cast<int>(ceil_div(tasks, w.task_blocks));
  s.down = s.images = 1;
  s.lanes = 32;
  s.image_blocks = p.batch;
  double best_score = -1;
  for (int64_t c = p.channels_last ? 32 / item : 1; c > 0; c /= 2) {
    s.channels = static_cast<int>(min_of(c, p.out_channels()));
    s.channel_blocks = ceil_div(p.out_channels(), s.channels);
    if (s.channels * s.across > kBandWarps) continue;
    for (int64_t width = min_of(round_up(x.out, 16), 64); width > 0;
         width = width > 16 ? round_up(width / 2, 16) : 0) {
      for (int64_t height = min_of(round_up(y.out, 16), 64); height > 0;
           height = height > 16 ? round_up(height / 2, 16) : 0) {
        s.width = static_cast<int>(width);
        s.height = static_cast<int>(height);
        s.tiles_x = ceil_div(x.out, width);
        s.tiles_y = ceil_div(y.out, height);
        s.rows = static_cast<int>(min_of(y.in, height + y.kernel - 1));
        // Words of a row up to the odd copy of the last pair's last column.
        s.pitch = internal::odd_plane(static_cast<int>(width + shift + x.kernel + 3), item);
        s.plane = s.rows * s.pitch;
        w.slice_rows = s.height;
        w.dy_pitch = internal::odd_plane(static_cast<int>(width), item);
        w.dy_plane = s.height * w.dy_pitch;
        w.x_bytes = (int64_t{s.channels} * s.plane + s.pitch) * item;  // and a row of zeros
        const int64_t tiles = w.x_bytes + int64_t{s.channels} * w.dy_plane * item;
        const int64_t sums = int64_t{s.threads()} / 32 * 16 * kBandSumPitch * 4;
        s.smem = max_of(tiles, sums);
        if (s.smem > kSmemLimit) continue;
        const int64_t warps = s.threads() / 32;
        const int64_t resident = min_of(160 * 1024 / (s.smem + 1024), 16 / warps) * warps;
        double score = static_cast<double>(y.out) * x.out /
                       (static_cast<double>(s.tiles_x * width) * (s.tiles_y * height));
        score *= static_cast<double>(min_of(resident, 12)) / 12;
        const double waste = p.channels_last ? max_of(1, 32 / (s.channels * item)) : 1;
        // Cycles: six for a product of matrices of 256 of dy and 8 of x, two for a copied element.
        const double work = static_cast<double>(s.channels) * width * height / 256 *
                            ceil_div(y.kernel + 15, 8) * 2 * w.pairs * 6 * 32;
        score *= work / (work + 2 * waste * s.channels * (s.plane + w.dy_plane));
        if (score > best_score) {
          best_score = score;
          best = w;
        }
      }
    }
  }
  if (best_score >= 0) internal::share_out(v, best);
  return best;
}

constexpr LargeWeightShape large_weight_shape(const View& v, const LargeTile& tile) {
  return tile.bands ? large_weight_bands(v) : large_weight_strips(v);
}

// Bytes of workspace: [split][tap][channel], the sum of dy as the last tap.
constexpr int64_t large_weight_workspace(const View& v, int tile) {
  const LargeTile* t = large_tile(tile);
  if (!large_serves(v, t)) return 0;
  const LargeWeightShape w = large_weight_shape(v, *t);
  const Problem& p = v.problem;
  if (!w.fits()) return 0;
  return w.splits * (p.taps() + 1) * p.out_channels() * internal::accumulator_size(p.dtype);
}

}  // namespace fastconv::depthwise_conv
