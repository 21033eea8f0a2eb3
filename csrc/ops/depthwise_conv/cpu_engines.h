// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Which engines can serve a problem on the CPU, and which are faster: figures in
// docs/lab/depthwise_conv_cpu.md.
#pragma once

#include "ops/depthwise_conv/cpu.h"

namespace fastconv::depthwise_conv {

constexpr int64_t kWidestLanes = 16;  // fp32 lanes of the widest level

// Small square filters without dilation, at stride 1 or 2 along both axes.
inline bool has_window(const Correlation& c) {
  const CorrelationAxis& height = c.axis[1];
  const CorrelationAxis& width = c.axis[2];
  return c.fan_in == 1 && c.fan_out == 1 && height.axis.dilation == 1 && width.axis.dilation == 1 &&
         height.phases == width.phases && height.step == width.step &&
         width.phases * width.step <= 2 && height.kernel == width.kernel &&
         (width.kernel == 3 || width.kernel == 5);
}

// Filters of 3 planes, or of 5 where registers are many, and of 3 columns at stride 2: see
// cpu_volume-inl.h.  At stride 1 windows load as little.
inline bool has_volume(const Correlation& c, Isa isa) {
  const CorrelationAxis& depth = c.axis[0];
  const CorrelationAxis& height = c.axis[1];
  const CorrelationAxis& width = c.axis[2];
  return c.fan_in == 1 && c.fan_out == 1 && depth.step * depth.phases == 1 &&
         depth.axis.dilation == 1 && (depth.kernel == 3 || (depth.kernel == 5 && is_wide(isa))) &&
         depth.out >= depth.kernel && height.phases == 1 && width.axis.dilation == 1 &&
         width.kernel == 3 && width.step == 2;
}

// A window whose tasks may go from pixel to pixel: see cpu_stream-inl.h.
inline bool can_stream(const Correlation& c) {
  const CorrelationAxis& width = c.axis[2];
  return c.window && c.engine == Engine::kChannels && width.phases == 1 && width.kernel == 3;
}

// Whether a filter's many taps pay for packing: see cpu_packed-inl.h.  Pixels a multiple of 1024
// bytes apart meet in 4 or fewer of L1's 64 sets.  (7x7 on 8x512x14x14, 310 -> 265 us; 9x9 on
// 8x1024x14x14, 1550 -> 970; pixels of other sizes gain nothing.)  In large tensors less of the
// time that memory takes is hidden.  (31 taps on 8x1024x500, 1.3 -> 2.6 ms; 13x13 on
// 4x256x56x56 4.6 -> 3.5.)
inline bool packs(const Correlation& c) {
  constexpr double kTaps = 20, kManyTaps = 100;
  constexpr int64_t kLargeBytes = 8 << 20, kApart = 1024;
  const int64_t pixel = c.out_channels * element_size(c.dtype);
  double taps = 1;  // multiply-adds per element of the input
  int64_t pixels = c.batch;
  for (const CorrelationAxis& a : c.axis) {
    taps *= static_cast<double>(a.kernel) / static_cast<double>(a.step * a.phases);
    pixels *= a.in;
  }
  return c.fan_in == 1 && c.fan_out == 1 && c.out_channels >= Correlation::kMinWindow &&
         !c.window && pixel % kApart == 0 &&
         taps >= (pixels * pixel > kLargeBytes ? kManyTaps : kTaps);
}

// What cpu_pairs-inl.h serves.  The filters of a vector are there twice: 96 KiB more at most.
inline bool can_pair(const Correlation& c, Isa isa) {
  constexpr int64_t kTaps = 1536;
  const CorrelationAxis& height = c.axis[1];
  return multiplies_pairs(isa) && c.dtype == Dtype::kBFloat16 && c.fan_in == 1 && c.fan_out == 1 &&
         c.out_channels >= Correlation::kMinWindow && c.taps <= kTaps && !c.window &&
         height.phases == 1 && height.axis.dilation == 1 &&
         (height.step == 1 || height.step % 2 == 0);
}

// Whether a vector of channels may meet its filters one after another: their weights, and a row of
// sums of each, are to stay in L2.
inline bool can_be_planar(const Correlation& c) {
  constexpr int64_t kFilters = 16, kTaps = 4096;
  return c.fan_out > 1 && c.in_channels >= Correlation::kMinWindow && c.fan_out <= kFilters &&
         c.fan_out * c.taps <= kTaps;
}

// Axes along which nothing moves.
inline bool is_still(const CorrelationAxis& a) {
  return a.kernel == 1 && a.step == 1 && a.phases == 1 && a.taps(0).offset == 0 && a.in == a.out;
}

// Filters of one column, of the same channels, over rows without gaps: see cpu_flat-inl.h.  The
// repeated weights are to stay in L1 or L2.
inline bool is_flat(const Correlation& c) {
  constexpr int64_t kWeightBytes = 64 << 10;
  const CorrelationAxis& width = c.axis[2];
  const auto dense = [&](const Strides5& s) { return s.sp[2] == c.out_channels || width.in == 1; };
  return c.fan_in == 1 && c.fan_out == 1 && is_still(width) && dense(c.x_strides) &&
         dense(c.y_strides) && flat_period(c.out_channels) * c.taps * 4 <= kWeightBytes;
}

// What cpu_line-inl.h serves.
inline bool can_line(const Correlation& c) {
  constexpr int64_t kRuns = 32;
  return c.fan_in == 1 && c.fan_out == 1 && c.out_channels >= Correlation::kMinWindow &&
         c.axis[2].phases == 1 && c.axis[2].kernel <= kRuns;
}

// Filters of a few neighbouring taps along a long row: see cpu_line-inl.h.  Most tiles of a short
// one are at its ends.  (8x64x56x56, 1x3: 310 -> 210 us; but 8x256x14x14, 1x7, 84 -> 154.)
inline bool has_line(const Correlation& c) {
  const CorrelationAxis& width = c.axis[2];
  return can_line(c) && is_still(c.axis[0]) && is_still(c.axis[1]) && c.line_run() > 1 &&
         width.out >= 8 * width.kernel;
}

// Filters of one tap that read no padding: see cpu_scale-inl.h.
inline bool scales(const Correlation& c) {
  for (const CorrelationAxis& a : c.axis) {
    if (a.kernel != 1 || a.phases != 1 || a.taps(0).offset != 0 || a.step * (a.out - 1) >= a.in) {
      return false;
    }
  }
  return c.fan_in == 1 && c.axis[2].step <= 2;
}

// Square filters without dilation at stride 1 or 2, with no more padding than they reach: see
// cpu_rolling-inl.h.
inline bool can_roll(const Correlation& c) {
  for (int i = 1; i < kSpatial; ++i) {
    const CorrelationAxis& a = c.axis[i];
    const int64_t pad = -a.taps(0).offset;
    if (a.phases != 1 || a.step > 2 || a.step != c.axis[2].step || a.axis.dilation != 1 ||
        a.kernel != c.axis[2].kernel || pad < 0 || pad >= a.kernel ||
        a.step * (a.out - 1) - pad >= a.in) {
      return false;
    }
  }
  const int64_t kernel = c.axis[2].kernel;
  return c.fan_in == 1 && (kernel == 3 || kernel == 5 || kernel == 7) && c.dtype != Dtype::kFloat64;
}

// Lanes of AVX2, where what reads images in place needs rows of a vector: see LaneRange.  Padding
// may make many outputs of a shorter one.
constexpr int64_t kNarrowLanes = 8;

// The same for AVX2, whose registers hold the sums of 3x3 filters alone.  16-bit types lose more at
// the ends of rows.  (One thread, 3x3 at stride 1: rows of 14 outputs 0.79 of the strips' speed, 16
// 1.24, 18 0.94, 20 1.06, 24 1.63, 28 1.10, 40 to 200 1.3 to 1.9; bf16 up to 33 0.7 to 1, then 1.0
// to 1.3.  5x5 and 7x7: 0.6 to 1.2.)
inline bool narrow_rolling_wins(const Correlation& c) {
  const int64_t width = c.axis[2].out, least = c.dtype == Dtype::kFloat32 ? 16 : 40;
  return c.axis[2].kernel == 3 && c.axis[2].in >= kNarrowLanes && width >= least &&
         8 * round_up(width, kNarrowLanes) <= 10 * width;
}

// Whether that beats transposed strips, which skip taps outside the image and fill vectors whatever
// the width, but spend some 6 more cycles on 16 outputs.  Both do two FMAs a cycle.  At stride 2
// rolling takes 20, 30 and 52 cycles for a vector, and strips 34, 46 and 62 for 16 outputs; pairs
// of channels are no gain for 5x5 and 7x7, whose weights are not held.  Strips of planes read each
// plane once.  (2x80x50x43x43, 3x3x3, stride 1, 2, 2: 7.1 ms rolling, 4.6 by strips; 1x108x16x56x56
// 0.75 and 0.96.)
inline bool rolling_wins(const Correlation& c, Isa isa) {
  constexpr int64_t kVolumeColumns = 24;
  const int64_t width = c.axis[2].out, kernel = c.axis[2].kernel;
  if (isa == Isa::baseline) return false;
  if (has_volume(c, isa) && width <= kVolumeColumns) return false;
  if (!is_wide(isa)) return narrow_rolling_wins(c);
  if (c.axis[2].step == 2) {
    const int64_t taken = round_up(width, kWidestLanes);
    return kernel == 3 ? 10 * taken < 16 * width : width > kWidestLanes && 10 * taken < 13 * width;
  }
  const int64_t taps = kernel * kernel * c.axis[0].kernel;
  const int64_t inside = max_of(1, width - kernel / 2 - 1);  // columns of a row, on average
  return taps * round_up(width, kWidestLanes) < taps * inside + 12 * width;
}

// Whether bands of rows, read in place, beat transposed strips and staged rows: they load each
// column once per filter column.  A filter with planes and rows has too many rows for a band to
// share: 1x112x50x10x10, 3x3x3, 790 us against 145 by transposed strips.  Without masks the ends of
// rows are slow, so only long rows have bands there, of one column or of one row.  (AVX2: 11x1 on
// 4x64x56x56 670 -> 310 us, but 3x3 with dilation 2 on 8x256x14x14 350 -> 1290.)
inline bool bands_win(const Correlation& c, Isa isa) {
  constexpr int64_t kLong = 32;
  const CorrelationAxis& height = c.axis[1];
  const CorrelationAxis& width = c.axis[2];
  if (isa == Isa::baseline) return false;
  const bool long_rows = width.out >= kLong && (width.kernel == 1 || height.in == 1);
  if (!is_wide(isa) && (!long_rows || width.in < kNarrowLanes)) return false;
  if (width.step * width.phases != 1) return false;
  if (c.axis[0].kernel > 1 && height.kernel * width.kernel > 1) return false;
  return width.kernel <= (height.in == 1 ? 8 : 4) && width.out >= kWidestLanes / 2;
}

// Square filters that cpu_rolling_weight-inl.h knows, and images that it can read in place, if they
// are wide enough to fill its vectors: transposed strips take 16 channels of any width. (8x128x4x4,
// 3x3: 119 us rolling, 72 by strips; from 24 columns on rolling wins, but for 7x7 in 16 bits.)
inline bool weight_rolls(const WeightPlan& w, Isa isa) {
  const Axis& height = w.axis[1];
  const Axis& width = w.axis[2];
  if (isa == Isa::baseline) return false;
  if (!is_wide(isa) && (width.kernel > 3 || width.in < kNarrowLanes)) return false;
  const bool square = height.kernel == width.kernel && height.stride == width.stride &&
                      width.stride <= 2 && height.dilation == 1 && width.dilation == 1;
  return (w.x_strides.sp[2] == 1 || width.in == 1) && (w.dy_strides.sp[2] == 1 || width.out == 1) &&
         square && width.out * width.stride >= 24 && w.dtype != Dtype::kFloat64 &&
         (width.kernel == 3 || width.kernel == 5 ||
          (width.kernel == 7 && w.dtype == Dtype::kFloat32));
}

}  // namespace fastconv::depthwise_conv
