// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Strips of a block of channels that are transposed or packed in cache: see cpu_blocked-inl.h and
// cpu_packed-inl.h.
#pragma once

#include "ops/depthwise_conv/cpu_plan_windows.h"

namespace fastconv::depthwise_conv {

constexpr int64_t kStripBytes = 320 << 10;  // a strip and its result: L2
constexpr int64_t kFewChannels = 4;         // of 16 that a block has: fewer leave it too empty

// Whether there is one row, of the input and of the result.  Only then are strips cut into columns:
// lists of rows are kept from strip to strip, and a strip's rows lie as far apart as it is wide.
inline bool has_one_row(const CorrelationAxis (&axis)[kSpatial]) {
  return axis[0].in * axis[1].in == 1 && axis[0].out * axis[1].out == 1;
}

// Whether a single row is faster transposed than read in place or staged: with many taps or a
// stride, and if it is so short that it leaves vectors empty.  (Two threads of a Zen 4, 3 or 4
// taps: 8x512x16 97 -> 38 us, 8x512x64 189 -> 92, 8x512x128 160 and 156, 8x512x256 135 and 300; 5
// taps at stride 2, 8x512x66: 214 -> 73.)
inline bool row_transposes(const CorrelationAxis (&axis)[kSpatial], int64_t channels) {
  constexpr int64_t kTaps = 9, kShort = 112;
  const CorrelationAxis& row = axis[2];
  if (!has_one_row(axis) || channels < kFewChannels) return false;
  return row.kernel >= kTaps || row.step * row.phases > 1 || row.out <= kShort;
}

// Output planes, rows and columns whose strip, transposed or packed, stays in L2 with its result;
// none if a plane's single row, or the weights, are already too much, where blocks of channels
// would be mostly empty, or for few taps along a single row.
struct Strip {
  int64_t planes, rows, columns;
};
inline Strip blocked_strip(const CorrelationAxis (&axis)[kSpatial], int64_t channels,
                           int64_t fan_in, int64_t fan_out, Dtype dtype, bool for_weight) {
  constexpr int64_t kColumnsOfOne = 1024;
  if (channels < kFewChannels) return {0, 0, 0};
  const int64_t lane = kLanes * accumulator_size(dtype), fan = fan_in * fan_out;
  const int64_t weights = lane * axis[0].kernel * axis[1].kernel * axis[2].kernel * fan;
  if (weights > kWeightBytes) return {0, 0, 0};
  if (has_one_row(axis)) {
    if (!for_weight && !row_transposes(axis, channels)) return {0, 0, 0};
    const int64_t most = max_of(kColumnsOfOne / fan, axis[2].kernel);
    const int64_t columns = even_split(axis[2].out, most, axis[2].phases);
    const int64_t in = clipped_reads(axis[2], columns);
    if (lane * (in * fan_in + columns * fan_out) + weights > 2 * kStripBytes) return {0, 0, 0};
    return {1, 1, columns};
  }
  const int64_t columns = round_up(max_of(1, axis[2].out), axis[2].phases);
  const auto bytes = [&](int64_t planes, int64_t rows) {
    const int64_t in = clipped_reads(axis[0], planes) * clipped_reads(axis[1], rows) * axis[2].in;
    return lane * (in * fan_in + planes * min_of(rows, axis[1].out) * axis[2].out * fan_out);
  };
  // Rows come in whole multiples of the phases, so that many cannot be halved.
  const int64_t fewest = max_of(axis[1].kernel, axis[1].phases);
  const auto halved = [&](Strip s) {
    while (bytes(s.planes, s.rows) > kStripBytes && s.planes > 1) s.planes = ceil_div(s.planes, 2);
    while (bytes(s.planes, s.rows) > kStripBytes && s.rows > fewest) {
      s.rows = round_up(ceil_div(s.rows, 2), axis[1].phases);
    }
    return s;
  };
  // Of the strips that fit, the one that transposes least of its input twice: halved planes, as
  // rows share more of their input, or halved rows, where they share less (at stride 2).
  const auto again = [&](Strip s) {
    return static_cast<double>(clipped_reads(axis[0], s.planes) * clipped_reads(axis[1], s.rows)) /
           static_cast<double>(s.planes * s.rows);
  };
  Strip whole{for_weight ? 1 : max_of(1, axis[0].out), max_of(1, axis[1].out), columns};
  Strip s = halved(whole);
  while (bytes(whole.planes, whole.rows) > kStripBytes && whole.rows > fewest) {
    whole.rows = round_up(ceil_div(whole.rows, 2), axis[1].phases);
    const Strip other = halved(whole);
    if (again(other) < again(s)) s = other;
  }
  if (bytes(s.planes, s.rows) + weights > 2 * kStripBytes + kWeightBytes / 2) return {0, 0, 0};
  s.planes = even_split(axis[0].out, s.planes, axis[0].phases);
  s.rows = even_split(axis[1].out, s.rows, axis[1].phases);
  return s;
}

// Whether packed strips of pairs win.  (Two threads of a Zen 4, us, single rows and pairs: 7x3 on
// 8x384x14x14 202 and 160, 3x7 186 and 157, 4x4 158 and 179; 6x6 at stride 2 on 8x96x56x56 420 and
// 324.  In large tensors lines of pixels hide more of the time that memory takes: 7x7 on
// 8x144x56x56, of 14 MB, 2050 and 2030, 8x192x56x56, of 19, 2680 and 3000, 8x96x112x112, of 39,
// 5930 and 7660, but 11x11 there 13600 and 10300.)
inline bool pairs_win(const Correlation& c) {
  constexpr int64_t kTaps = 20, kManyTaps = 100, kLargeBytes = 16 << 20;
  const CorrelationAxis& height = c.axis[1];
  return height.kernel > 2 && height.in > 1 &&
         c.taps >= (activation_bytes(c) > kLargeBytes ? kManyTaps : kTaps);
}

// None, if packing does not pay.
inline Strip packed_strip(const Correlation& c, bool pairs) {
  if (!pairs && !packs(c)) return {0, 0, 0};
  return blocked_strip(c.axis, c.out_channels, 1, 1, c.dtype, false);
}

// Strips of one vector of channels, as many as make tasks enough.
inline void cut_packed(Correlation& c, const Strip& strip) {
  constexpr int64_t kFewColumns = 256;
  const CorrelationAxis& height = c.axis[1];
  const CorrelationAxis& width = c.axis[2];
  c.engine = Engine::kPacked;
  c.channel_block = kLanes;
  c.plane_chunk = strip.planes;
  const int64_t groups = max_of(1, c.channel_blocks() * c.batch * c.plane_chunks());
  const int64_t wanted = ceil_div(kTasks, groups);
  const int64_t rows = max_of(ceil_div(height.out, wanted), height.kernel);
  c.row_chunk = even_split(height.out, min_of(rows, strip.rows), height.phases);
  c.column_chunk = strip.columns;
  if (has_one_row(c.axis)) {
    const int64_t columns = max_of(kFewColumns, ceil_div(width.out, wanted));
    c.column_chunk = even_split(width.out, min_of(columns, strip.columns), width.phases);
  }
}

}  // namespace fastconv::depthwise_conv
