// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// How the CPU cuts a channels-last problem that a window serves into tasks: see cpu_window-inl.h.
#pragma once

#include "ops/depthwise_conv/cpu_engines.h"

namespace fastconv::depthwise_conv {

constexpr int64_t kTasks = 32;               // enough to balance the threads of a usual machine
constexpr int64_t kWindowBytes = 512 << 10;  // a window's band of all its channels: half of L2
constexpr int64_t kWeightBytes = 512 << 10;  // of the packed weights of a task
constexpr int64_t kLineBytes = 2 << 20;      // beyond which lines prefetch: twice L2
constexpr int64_t kNarrow = 16;  // columns over which prefetching goes to the next channels
constexpr int64_t kColumns = 4096;
constexpr int64_t kMappedBytes = 32 << 20;  // glibc's malloc maps larger pieces anew each time
constexpr int64_t kLanes = kWidestLanes;    // blocks of channels are multiples of it

inline int64_t accumulator_size(Dtype dtype) { return dtype == Dtype::kFloat64 ? 8 : 4; }

inline int64_t even_split(int64_t total, int64_t at_most, int64_t unit) {
  at_most = max_of(at_most, unit);
  const int64_t pieces = max_of(1, ceil_div(total, at_most));
  return max_of(unit, round_up(ceil_div(total, pieces), unit));
}

// Channels whose packed weights are no more than that.  Windows in bf16 may have them by pairs too.
inline int64_t weighted_channels(const Correlation& c, int64_t bytes = kWeightBytes) {
  const bool twice = c.window && c.dtype == Dtype::kBFloat16;
  const int64_t taps = (twice ? 5 * c.taps / 2 : c.taps) * c.fan_in;
  const int64_t weights = max_of(1, taps * accumulator_size(c.dtype));
  return bytes / weights / kLanes * kLanes;
}

// All channels, at most so many, to each of `tasks` tasks; a part of them if the tasks are few.
inline void take_channels(Correlation& c, int64_t tasks, int64_t at_most) {
  constexpr int64_t kFewTasks = 8;
  const int64_t blocks = tasks < kFewTasks ? ceil_div(kTasks, max_of(1, tasks)) : 1;
  const int64_t most = min_of(ceil_div(c.out_channels, blocks), at_most);
  c.channel_block = even_split(c.out_channels / kLanes * kLanes, most, 4 * kLanes);
}

inline int64_t clipped_reads(const CorrelationAxis& axis, int64_t outputs) {
  const auto [lo, hi] = axis.reads(0, min_of(outputs, max_of(1, axis.out)));
  return min_of(hi - lo + 1, max_of(1, axis.in));
}

inline int64_t tensor_bytes(Dtype dtype, int64_t batch, int64_t channels, int64_t pixels) {
  return batch * channels * pixels * element_size(dtype);
}
inline int64_t result_bytes(const Correlation& c) {
  const int64_t pixels = c.axis[0].out * c.axis[1].out * c.axis[2].out;
  return tensor_bytes(c.dtype, c.batch, c.out_channels, pixels);
}
// Of x and y.
inline int64_t activation_bytes(const Correlation& c) {
  const int64_t pixels = c.axis[0].in * c.axis[1].in * c.axis[2].in;
  return tensor_bytes(c.dtype, c.batch, c.in_channels, pixels) + result_bytes(c);
}

// Columns of a window's task: all of them, but for pixels that fit together badly.
inline int64_t window_columns(const Correlation& c) {
  const CorrelationAxis& width = c.axis[2];
  const int64_t pixel = c.out_channels * element_size(c.dtype);
  // A band's lines, a power of two apart, meet in few of L1's 64 sets and evict each other before
  // they are used.  (1x512x28x28, 3x3: 139 to 97 us; its backward-data at stride 2: 136 to 70.)
  const bool scatter = width.phases == 2;
  if (scatter ? pixel % 1024 == 0 : width.step == 1 && width.kernel == 3 && pixel % 2048 == 0) {
    return 8;
  }
  // Few channels of many columns would touch a part of each page, and large tensors' pages come
  // back from memory for every other part.  (1x510x256x256, 3x3, which streams() now takes: 76 to
  // 48 ms, with the faults of a fresh output.)  So do results so large that they are mapped anew
  // for each call, whatever the pixel.  (8x128x112x112: 27.9 to 16.4 ms; with 16 columns, and up to
  // 48, some sizes take half as long again.)
  const int64_t bytes = result_bytes(c);
  if (c.prefetch && !scatter && width.step == 1 && (pixel >= 1000 || bytes > kMappedBytes)) {
    return bytes > kMappedBytes / 2 ? 8 : 16;
  }
  return kColumns;
}

// A window goes down bands of 7 or 4 rows; a task takes several, which share their borders, and all
// channels whose bands fit in L2, as long as there are tasks enough.
inline void cut_for_window(Correlation& c) {
  const CorrelationAxis& height = c.axis[1];
  const CorrelationAxis& width = c.axis[2];
  c.column_chunk = even_split(width.out, window_columns(c), 1);
  c.narrow = c.prefetch && c.column_chunk <= kNarrow;
  const int64_t images = max_of(1, c.batch * c.axis[0].out * c.column_chunks());
  int64_t rows = 28;
  while (rows > 7 && images * ceil_div(height.out, rows) < kTasks) rows /= 2;
  const int64_t band = width.kernel == 5 ? 4 : width.phases == 2 ? 6 : height.out % 7 == 0 ? 7 : 4;
  c.row_chunk = even_split(height.out, rows, band);
  const int64_t pieces = max_of(1, images * c.row_chunks());
  const int64_t column = 16 * element_size(c.dtype) * min_of(c.column_chunk, width.out);
  const int64_t fitting = kWindowBytes / max_of(1, column) / kLanes * kLanes;
  const int64_t spread = c.out_channels * pieces / kTasks / kLanes * kLanes;
  const int64_t whole = c.out_channels / kLanes * kLanes;
  c.channel_block =
      even_split(whole, min_of(min_of(fitting, spread), weighted_channels(c)), kLanes);
}

// Whether tiles of few pixels and all channels beat a window: what a share of L3 cannot hold is
// better read in order.  Where the window and the tiles are equal depends on what strangers do to
// L3.  (Two threads of a Zen 4 in quiet minutes, us, window and tiles.  Stride 1, fp32:
// 1x144x80x80, of 7.4 MB, 97 and 112; 8x240x28x28, of 12, 165 to 353 and 189 to 234; 8x144x56x56,
// of 29, 940 and 586; bf16, of which tiles widen more: 8x240x28x28, of 6 MB, 141 and 183,
// 8x384x28x28, of 9.6, 323 and 348, 1x256x112x112, of 13, 534 and 478.  Stride 2: 8x96x56x56, of 12
// MB, 118 and 133; 1x256x112x112, of 16, 304 and 211.)  Where rows lie a multiple of 4 KiB apart,
// all lines of a window's band fall into the same sets of L1, and what it prefetches is evicted
// before it is used: in tensors that do not fit in L2.  (Zen 5, stride 2: 1x384x96x96, one thread,
// 564 -> 406 us; two threads, 8x1024x14x14 146 -> 107, 1x1536x12x12 37 -> 26; but 8x768x14x14,
// whose rows fall into different sets, 59 -> 71.)  Filters with planes, whose windows or volumes
// read what planes share from L2 (Zen 4, fp32): 1x54x13x40x40, of 9.0 MB, 411 and 419;
// 1x80x50x21x21, of 14, 482 and 791; at stride 1, 2, 2 1x108x13x40x40, of 11 MB, 224 and 370,
// 1x70x16x56x56, of 18, 409 and 619, but 1x54x13x80x80, of 22, 1380 and 878.
// Windows by pairs of bf16 are faster there too (Zen 4, two threads: 8x1024x14x14 106 and 130,
// 1x768x48x48 72 and 95, 2x2048x14x14 93 and 109, but 8x512x28x28 175 and 157).
inline bool streams(const Correlation& c, Isa isa) {
  constexpr int64_t kConflictBytes = 1 << 20, kBytes = 16 << 20;
  const int64_t size = element_size(c.dtype);
  const bool planes = c.axis[0].kernel > 1;
  if (!can_stream(c) || (c.out_channels * size < 256 && !planes)) return false;
  const int64_t bytes = activation_bytes(c);
  if (planes) return bytes > kBytes;
  if (c.axis[2].step == 1) return bytes > (size == 2 ? 12 << 20 : 8 << 20);
  const bool pairs = multiplies_pairs(isa) && c.dtype == Dtype::kBFloat16;
  const bool conflicts = c.x_strides.sp[1] * size % 4096 == 0 && !pairs;
  return bytes > (conflicts ? kConflictBytes : kBytes);
}

// Tasks of many planes and of so few rows, columns and channels that what rows share stays in L2;
// but channels are neighbours in memory, so columns are cut first.  (108x13x40x40, 3x3x3, stride 1,
// 2, 2: tasks of 16 channels 220 us, of a tile's columns and all channels 160.)
inline void cut_for_volume(Correlation& c) {
  constexpr int64_t kPlanes = 64;
  const CorrelationAxis& height = c.axis[1];
  const CorrelationAxis& width = c.axis[2];
  c.volume = true;
  c.plane_chunk = even_split(c.axis[0].out, kPlanes, 1);
  const int64_t tile = round_up(width.out, 5) < round_up(width.out, 7) ? 5 : 7;
  c.column_chunk = max_of(1, min_of(width.out, tile));
  c.row_chunk = even_split(height.out, 4, 1);
  c.channel_block = c.out_channels / kLanes * kLanes;
  if (c.tasks() < kTasks) c.row_chunk = even_split(height.out, 2, 1);
  const int64_t columns = clipped_reads(width, c.column_chunk);
  const int64_t channel =
      max_of(1, clipped_reads(c.axis[0], c.plane_chunk) * clipped_reads(height, c.row_chunk) *
                    columns * element_size(c.dtype));
  const int64_t fitting = kWindowBytes / channel / kLanes * kLanes;
  const int64_t spread = c.out_channels * max_of(1, c.tasks()) / kTasks / kLanes * kLanes;
  const int64_t most = min_of(min_of(fitting, spread), weighted_channels(c));
  c.channel_block = even_split(c.channel_block, most, kLanes);
}

// Tasks of all channels, but for fewer than 8 of them and for weights beyond L2.  (1x128x112x112,
// two threads: 460 us in tasks of 64 channels, 320 of 128.)
inline void cut_for_stream(Correlation& c) {
  constexpr int64_t kTileRows = 4;
  c.stream = true;
  c.column_chunk = max_of(1, c.axis[2].out);
  const int64_t images = max_of(1, c.batch * c.axis[0].out);
  const int64_t rows = ceil_div(c.axis[1].out, ceil_div(kTasks, images));
  c.row_chunk = even_split(c.axis[1].out, rows, kTileRows);
  take_channels(c, images * c.row_chunks(), weighted_channels(c));
}

// Whether a filter that no window serves goes through the pixels in the order of memory: it is
// bounded by memory if it has few taps, and one of many taps if more has to come from there.  (Two
// threads of a Zen 4, times native: 2x2 on 8x504x30x24 0.61 -> 1.44, 3x3 with dilation 2 on
// 1x57x163x322 0.52 -> 1.28, 7x7 on 8x96x56x56 1.14 -> 1.50, but on 8x384x14x14 1.67 -> 1.57, and
// at stride 2 on 2x96x112x112 1.33 -> 1.13; 3x3 with dilation 3 on 1x16x352x177 1.00 -> 0.67.)
inline bool lines(const Correlation& c) {
  constexpr int64_t kFewTaps = 25, kManyTaps = 64, kFewest = 2 * Correlation::kMinWindow;
  if (!can_line(c) || c.out_channels < kFewest || c.taps > kManyTaps) return false;
  if (c.taps <= kFewTaps) return activation_bytes(c) > kLineBytes;
  return c.line_run() > 1 && c.prefetch;
}

// Tasks of all channels, as those of a stream; of thousands of channels a part, whose weights stay
// in L1 or L2.
inline void cut_for_line(Correlation& c) {
  constexpr int64_t kLineWeights = 64 << 10, kTile = 8, kRowTaps = 2048;
  c.line = true;
  c.prefetch = activation_bytes(c) > kLineBytes;
  const CorrelationAxis& height = c.axis[1];
  const CorrelationAxis& width = c.axis[2];
  const int64_t images = max_of(1, c.batch * c.axis[0].out);
  const int64_t listed = max_of(1, kRowTaps / (c.axis[0].kernel * height.kernel));
  c.row_chunk = max_of(1, min_of(ceil_div(height.out, ceil_div(kTasks, images)), listed));
  const int64_t pieces = ceil_div(kTasks, max_of(1, images * c.row_chunks()));
  // What neighbouring output rows share stays in L2.
  const int64_t read = c.axis[0].kernel * clipped_reads(height, 1);
  const int64_t pixel = c.out_channels * element_size(c.dtype) * width.step;
  const int64_t shared = read > 1 ? kWindowBytes / max_of(1, read * pixel) : width.out;
  c.column_chunk = even_split(width.out, min_of(ceil_div(width.out, pieces), shared), kTile);
  take_channels(c, images * c.row_chunks() * c.column_chunks(), weighted_channels(c, kLineWeights));
}

// With planes, a task walks along them over a band so narrow that what its output planes share
// stays in L2.
inline void cut_for_stream_of_planes(Correlation& c) {
  constexpr int64_t kFewPlanes = 8;
  const CorrelationAxis& depth = c.axis[0];
  const CorrelationAxis& height = c.axis[1];
  const CorrelationAxis& width = c.axis[2];
  c.stream = true;
  c.column_chunk = max_of(1, width.out);
  const int64_t pixel = c.out_channels * element_size(c.dtype);
  const int64_t row = max_of(1, depth.kernel * clipped_reads(width, width.out) * pixel);
  const int64_t rows = (kWindowBytes / row - height.kernel) / height.step + 1;
  c.row_chunk = even_split(height.out, rows, width.step == 1 ? 4 : 2);
  const int64_t blocks = ceil_div(row * clipped_reads(height, c.row_chunk), kWindowBytes);
  const int64_t most = min_of(c.out_channels / max_of(1, blocks), weighted_channels(c));
  c.channel_block = even_split(c.out_channels / kLanes * kLanes, most, 4 * kLanes);
  const int64_t tasks = max_of(1, c.batch * c.row_chunks() * c.channel_blocks());
  const int64_t planes = ceil_div(depth.out, ceil_div(kTasks, tasks));
  c.plane_chunk = even_split(depth.out, max_of(planes, kFewPlanes), 1);
}

// A filter with planes at stride 2 reads every input plane several times and uses each vector
// little: a task goes through many output planes of a tile so small that the input planes which two
// of them share stay in L2.  (1x54x16x112x112, 3x3x3, stride 1, 2, 2: 4.4 to 2.9 ms.)
inline void cut_for_planes(Correlation& c) {
  constexpr int64_t kChannels = 64, kBand = 7;
  const CorrelationAxis& depth = c.axis[0];
  const CorrelationAxis& height = c.axis[1];
  const CorrelationAxis& width = c.axis[2];
  c.narrow = c.prefetch;
  c.row_chunk = max_of(1, height.out);
  c.column_chunk = max_of(1, width.out);
  const auto bytes = [&] {  // of a channel
    return depth.kernel * clipped_reads(height, c.row_chunk) *
           clipped_reads(width, c.column_chunk) * element_size(c.dtype);
  };
  const int64_t fitting = kWindowBytes / min_of(c.out_channels, kChannels);
  if (bytes() > fitting) c.column_chunk = even_split(width.out, kNarrow, 1);
  if (bytes() > fitting) c.row_chunk = even_split(height.out, kBand, 1);
  const int64_t whole = c.out_channels / kLanes * kLanes;
  const int64_t channels =
      min_of(kWindowBytes / max_of(1, bytes()) / kLanes * kLanes, weighted_channels(c));
  c.channel_block = even_split(whole, channels, kLanes);
  const int64_t tasks = c.channel_blocks() * c.batch * c.row_chunks() * c.column_chunks();
  const int64_t planes = ceil_div(max_of(1, depth.out) * max_of(1, tasks), kTasks);
  c.plane_chunk = even_split(depth.out, min_of(planes, max_of(1, depth.out)), 1);
}

}  // namespace fastconv::depthwise_conv
