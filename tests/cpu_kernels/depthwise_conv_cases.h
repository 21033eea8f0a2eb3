// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The problems on which the CPU kernels of depthwise convolution are tried.
#pragma once

#include "depthwise_conv_case.h"

namespace depthwise_conv_cases {

inline Case draw(Random& random) {
  static constexpr int64_t kKernels[] = {1, 1, 2, 3, 3, 3, 4, 5, 7}, kSteps[] = {1, 1, 1, 2, 3};
  static constexpr int64_t kChannels[] = {1, 2, 3, 4, 5, 8, 15, 16, 17, 20, 31, 33, 49};
  static constexpr int64_t kWidths[] = {1, 3, 7, 8, 9, 15, 16, 17, 23, 31, 33, 49, 65};
  const int64_t dims = random.in(1, 3);
  Case c{};
  c.dtype = static_cast<Dtype>(random.in(0, 3));
  c.channels_last = random.one_in(2);
  c.batch = random.in(1, 2);
  c.channels = random.pick(kChannels);
  c.multiplier = random.one_in(4) ? random.in(2, 4) : 1;
  for (int i = 0; i < kSpatial; ++i) {
    if (i < kSpatial - dims) {
      c.axis[i] = {1, 1, 1, 1, 1, 0};
      continue;
    }
    const int64_t in = i == 2 ? random.pick(kWidths) : random.in(1, dims == 2 ? 12 : 6);
    const int64_t kernel = min_of(random.pick(kKernels), i == 2 ? 7 : dims == 2 ? 5 : 3);
    const int64_t pad = random.one_in(8) ? 9 : 4;
    c.axis[i] = axis(dims == 1 ? in * 3 : in, kernel, random.pick(kSteps), random.pick(kSteps),
                     random.in(0, pad), random.in(0, pad));
  }
  c.bias = random.one_in(2);
  c.wide_in = random.one_in(4);
  c.dw = !c.wide_in && !random.one_in(6);
  c.db = !c.wide_in && (!c.dw || random.one_in(2));
  c.views = random.one_in(2);
  if (!c.wide_in && random.one_in(2)) c.activation = static_cast<Activation>(random.in(1, 5));
  return c;
}

// What random problems of this size do not reach.
inline std::vector<Case> table() {
  std::vector<Case> cases;
  const Axis one{1, 1, 1, 1, 1, 0};
  const auto add = [&](Dtype dtype, int64_t channels, int64_t multiplier, const Axis& height,
                       const Axis& width) {
    for (const bool channels_last : {false, true}) {
      cases.push_back({{dtype, channels_last, false, 1, channels, multiplier, {one, height, width}},
                       true,
                       true,
                       true,
                       false});
    }
  };
  // Planes too wide for the blocked engine; several chunks of columns; rows of 16-bit types.
  add(Dtype::kFloat64, 5, 1, axis(5, 3, 1, 1, 1, 1), axis(1301, 3, 1, 1, 1, 1));
  add(Dtype::kFloat16, 4, 2, axis(4, 3, 2, 1, 1, 1), axis(4999, 5, 2, 1, 2, 2));
  add(Dtype::kBFloat16, 3, 1, one, axis(9001, 4, 1, 3, 9, 0));
  // Strips that roll down the image: pairs of channels with one over, several strips to a row,
  // the gradient of the weight at both strides; forward and as the gradient of the other.
  for (const int64_t kernel : {3, 5, 7}) {
    const Dtype dtype = kernel == 3   ? Dtype::kFloat32
                        : kernel == 5 ? Dtype::kBFloat16
                                      : Dtype::kFloat16;
    const int64_t pad = kernel / 2;
    add(dtype, 5, 1, axis(6, kernel, 1, 1, pad, pad), axis(16, kernel, 1, 1, pad, pad));
    add(dtype, 2, 1, axis(9, kernel, 1, 1, 0, pad), axis(31, kernel, 1, 1, kernel - 1, 0));
    add(dtype, 2, 2, axis(5, kernel, 1, 1, pad, pad), axis(151, kernel, 1, 1, pad, pad));
    add(dtype, 3, 1, axis(9, kernel, 2, 1, pad, pad), axis(37, kernel, 2, 1, pad, pad));
  }
  for (const int64_t stride : {1, 2}) {
    add(Dtype::kFloat32, 3, 1, axis(9, 7, stride, 1, 3, 3), axis(37, 7, stride, 1, 3, 3));
  }
  // Bands of rows read in place: dilation, even filters, one row.
  add(Dtype::kFloat32, 3, 1, axis(21, 3, 1, 2, 2, 2), axis(37, 3, 1, 3, 3, 3));
  add(Dtype::kFloat16, 2, 2, axis(13, 4, 2, 1, 1, 2), axis(50, 2, 1, 1, 1, 0));
  add(Dtype::kBFloat16, 3, 1, one, axis(90, 4, 1, 1, 3, 0));
  add(Dtype::kFloat64, 3, 1, axis(9, 3, 1, 1, 1, 1), axis(40, 3, 1, 1, 1, 1));
  // Planes that are finished in several pieces, and rows that tiles overlap.
  for (int which = 0; which < 10; ++which) {
    const Dtype dtype = static_cast<Dtype>(which % 4);
    add(dtype, 18, 1, axis(9, 3, 1, 1, 1, 1), axis(11, 3, 1, 1, 1, 1));
    add(dtype, 2, 1, axis(60, 3, 1, 1, 1, 1), axis(130, 3, 1, 1, 1, 1));
    add(dtype, 21, 2, axis(7, 3, 2, 1, 1, 1), axis(9, 3, 2, 1, 1, 1));
    add(dtype, 3, 1, axis(9, 5, 1, 2, 4, 4), axis(40, 3, 1, 1, 1, 1));
    add(dtype, 19, 1, axis(11, 5, 1, 1, 2, 2), axis(13, 1, 1, 1, 0, 0));
    add(dtype, 34, 1, axis(9, 3, 2, 1, 1, 1), axis(11, 3, 2, 1, 1, 1));
    for (size_t i = cases.size() - 12; i < cases.size(); ++i) {
      cases[i].activation = static_cast<Activation>(which % 5 + 1);
    }
  }
  for (size_t i = 0, filled = cases.size(); i < filled; ++i) {
    if (cases[i].activation != Activation::kNone) continue;
    if (cases[i].axis[2].stride > 1 || cases[i].multiplier > 1) continue;
    cases.push_back(cases[i]);
    cases.back().wide_in = true;
    cases.back().dw = cases.back().db = false;
  }
  // Many channels; filters larger than the image; dilation and stride beyond both.
  add(Dtype::kFloat32, 300, 1, axis(7, 7, 1, 1, 3, 3), axis(7, 7, 1, 1, 3, 3));
  add(Dtype::kBFloat16, 18, 1, axis(4, 9, 1, 1, 4, 4), axis(19, 31, 1, 1, 15, 15));
  add(Dtype::kFloat32, 17, 1, axis(40, 3, 16, 1, 0, 0), axis(600, 3, 16, 1, 0, 0));
  add(Dtype::kFloat16, 17, 3, axis(3, 3, 1, 40, 40, 40), axis(5, 3, 2, 17, 20, 20));
  // Windows with few columns to a task: pixels a power of two apart, filters with planes.
  for (const int64_t stride : {1, 2}) {
    add(Dtype::kFloat32, 512, 1, axis(5, 3, stride, 1, 1, 1), axis(21, 3, stride, 1, 1, 1));
  }
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat64, Dtype::kFloat16, Dtype::kBFloat16}) {
    add(dtype, 24, 1, axis(9, 3, 2, 1, 1, 1), axis(14, 3, 2, 1, 0, 1));
    add(dtype, 24, 1, axis(8, 3, 2, 1, 2, 2), axis(13, 3, 2, 1, 1, 1));
  }
  const Axis planes[] = {axis(4, 3, 1, 1, 1, 1), axis(17, 3, 2, 1, 1, 1), axis(61, 3, 2, 1, 1, 1)};
  cases.push_back({{Dtype::kFloat32, true, false, 1, 68, 1, {planes[0], planes[1], planes[2]}},
                   true,
                   true,
                   true,
                   false});
  // Packed strips: pixels 1 KiB apart; rows and columns in chunks; narrower results.
  for (const int64_t channels : {256, 512}) {
    const Dtype dtypes[] = {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat64};
    for (int i = 0; i < 4; ++i) {
      const Axis height = axis(9, 7, 1 + i % 2, 1, 3, i), width = axis(11, 5, 1, 1 + i / 2, 2, 1);
      cases.push_back({{dtypes[i], true, false, 1, channels, 1, {one, height, width}},
                       true,
                       false,
                       false,
                       false});
      cases.back().activation = static_cast<Activation>(i + 1);
    }
  }
  // Rows two by two: heights of filter and image, strides and padding by which pairs begin with a
  // row or with padding; strips of several rows; filters with planes and dilated columns.
  for (int i = 0; i < 16; ++i) {
    const int64_t rows = 3 + i % 7, step = i % 4 == 3 ? 4 : 1 + i % 2;
    const Axis depth = i % 3 == 0 ? axis(4, 3, 1, 1, 1, 1) : one;
    const Axis height = axis(10 + 5 * (i % 4), rows, step, 1, i % (rows + 2), i % 5);
    const Axis width = axis(8 + i, 7, 1 + i / 8, 1 + i % 3, i % 6, 3);
    cases.push_back({{i < 14 ? Dtype::kBFloat16 : Dtype::kFloat32,
                      true,
                      false,
                      1 + i % 2,
                      i % 2 == 0 ? 16 : 54,
                      1,
                      {depth, height, width}},
                     i % 3 != 1,
                     true,
                     true,
                     i % 2 == 1});
    cases.back().activation = static_cast<Activation>(i % 6);
  }
  add(Dtype::kBFloat16, 32, 1, axis(60, 9, 1, 1, 4, 4), axis(60, 9, 1, 1, 4, 4));
  for (const int64_t size : {1, 4, 6, 9, 15}) {
    for (const int64_t kernel : {3, 5}) {
      const int64_t stride = 1 + size % 2, pad = kernel / 2 + size % 3;
      add(Dtype::kBFloat16, 37, 1, axis(size, kernel, stride, 1, pad, 1),
          axis(2 * size, kernel, stride, 1, 1, pad));
    }
  }
  // Filters of many taps and one row: strips of columns.
  for (const int64_t stride : {1, 2}) {
    add(Dtype::kFloat32, 256, 1, one, axis(700, 25, stride, 1, 12, 12));
    add(Dtype::kBFloat16, 18, 1, one, axis(1100, 11, stride, 1, 10, 0));
  }
  // Tiles that roll along the planes: every width of tile, blocks of channels with a few over,
  // planes beyond the image on both sides.
  static constexpr int64_t kColumns[] = {3, 6, 9, 11, 14, 21, 39}, kOver[] = {14, 16, 22, 70};
  for (int i = 0; i < 14; ++i) {
    const int64_t kernel = i % 2 == 0 ? 3 : 5, pad = i % 5;
    const Axis depth = axis(5 + i % 4, kernel, 1, 1, pad, pad);
    const Axis height = axis(4 + i % 5, 1 + i % 4, 1 + i % 3, 1 + i % 2, i % 3, 1);
    const Axis width = axis(kColumns[i / 2], 3, 2, 1, i % 4, 1 + i % 3);
    for (const bool channels_last : {false, true}) {
      cases.push_back({{static_cast<Dtype>(i % 4),
                        channels_last,
                        false,
                        1 + i % 2,
                        kOver[i % 4],
                        1,
                        {depth, height, width}},
                       true,
                       true,
                       false,
                       false});
      cases.back().activation = static_cast<Activation>(i % 6);
    }
  }
  // One output row of several input rows, in strips that must not differ in width.
  add(Dtype::kFloat32, 64, 1, axis(3, 3, 1, 1, 0, 0), axis(3000, 9, 1, 1, 4, 4));
  add(Dtype::kFloat32, 256, 1, axis(3, 3, 1, 1, 0, 0), axis(1501, 9, 1, 1, 4, 4));
  // One tap: rows shorter than a vector, several vectors, chunks; what ends with the tensor.
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat64, Dtype::kFloat16, Dtype::kBFloat16}) {
    for (const int64_t width : {2, 15, 33, 67, 130}) {
      add(dtype, 3, 1, axis(5, 1, 2, 1, 0, 0), axis(width, 1, 2, 1, 0, 0));
      add(dtype, 2, 3, axis(3, 1, 1, 1, 0, 0), axis(width, 1, 1, 1, 0, 0));
    }
    add(dtype, 1, 1, axis(3, 1, 3, 1, 0, 0), axis(9001, 1, 1, 1, 0, 0));
    cases[cases.size() - 2].activation = Activation::kSilu;  // contiguous
    add(dtype, 2, 1, axis(3, 1, 1, 1, 0, 0), axis(5003, 1, 1, 1, 0, 0));
  }
  // Pixel by pixel: more rows and columns than a tile, fewer, all padding.
  for (const int64_t size : {2, 4, 6, 10}) {
    add(Dtype::kFloat32, 40, 1, axis(size, 3, 1, 1, 1, 1), axis(size + 1, 3, 1, 1, 1, 1));
    add(Dtype::kBFloat16, 35, 1, axis(size + 2, 3, 1, 1, 0, 0), axis(size + 3, 3, 1, 1, 2, 2));
    add(Dtype::kFloat32, 17, 1, axis(size, 3, 1, 1, 4, 4), axis(size, 3, 1, 1, 5, 6));
    cases.back().activation = Activation::kGelu;
  }
  // The same along planes, of tensors of more than 16 MiB.
  for (const int64_t stride : {1, 2}) {
    const Axis depth = axis(17, 2 * stride + 1, 1, 1, stride, stride);
    const Axis height = axis(37 * stride, 3, stride, 1, 1, 1);
    const Axis width = axis(50, 3, stride, 1, 1, 0);
    cases.push_back({{Dtype::kFloat32, true, false, 1, 70, 1, {depth, height, width}},
                     true,
                     true,
                     true,
                     false});
  }
  // More planes than a task has.
  cases.push_back({{Dtype::kFloat32,
                    true,
                    false,
                    1,
                    17,
                    1,
                    {axis(130, 3, 1, 1, 1, 1), axis(3, 3, 2, 1, 1, 1), axis(5, 3, 2, 1, 1, 1)}},
                   true,
                   false,
                   false,
                   false});
  // Taps further apart than the row is long.
  add(Dtype::kFloat32, 17, 1, axis(3, 1, 1, 1, 0, 0), axis(40, 5, 1, 70, 140, 140));
  // Vectors of channels that meet several filters each: chunks of columns, channels left over.
  for (const int64_t multiplier : {2, 3}) {
    for (const int64_t channels : {16, 21, 40}) {
      const Dtype dtype = static_cast<Dtype>((channels + multiplier) % 4);
      add(dtype, channels, multiplier, axis(6, 3, 1, 1, 1, 1), axis(150, 3, 1, 1, 1, 1));
      add(dtype, channels, multiplier, axis(9, 5, 2, 1, 2, 2), axis(12, 7, 2, 1, 3, 3));
      add(dtype, channels, multiplier, axis(9, 3, 1, 2, 2, 2), axis(12, 2, 3, 3, 3, 3));
      cases.back().activation = Activation::kSilu;
      cases.push_back(cases[cases.size() - 4]);
      cases.back().wide_in = true;
      cases.back().dw = cases.back().db = false;
    }
  }
  // Filters of one column, whose lanes run over pixels: weights that repeat after 1 to 16 of them.
  const Axis still = axis(37, 1, 1, 1, 0, 0), few = axis(5, 1, 1, 1, 0, 0);
  for (const int64_t channels : {1, 2, 12, 16, 24, 40}) {
    const Dtype dtype = static_cast<Dtype>(channels / 2 % 4);
    add(dtype, channels, 1, axis(11, 5, 1, 1, 2, 2), still);
    add(dtype, channels, 1, axis(17, 3, 2, 2, 1, 3), few);
    const Axis depth = axis(9, 5, 1, 1, 2, 2), height = axis(6, 3, 1, 1, 1, 1);
    for (const Axis& middle : {few, height}) {
      cases.push_back(
          {{dtype, true, false, 2, channels, 1, {depth, middle, still}}, true, true, true, false});
    }
  }
  cases.back().activation = Activation::kSilu;
  cases.push_back({{Dtype::kFloat32, true, true, 1, 6, 1, {one, axis(9, 3, 2, 1, 1, 1), still}},
                   true,
                   false,
                   false,
                   false});
  // A few taps along a line: tiles that overlap, all padding.
  for (const int64_t taps : {2, 3, 4, 5, 6, 7, 8}) {
    const Dtype dtype = static_cast<Dtype>(taps % 4);
    add(dtype, 16, 1, one, axis(8 * taps, taps, 1, 1, taps - 1, 0));
    add(dtype, 33, 1, one, axis(9 * taps + 1, taps, 1, 1, taps - 1, 0));
    cases.back().activation = static_cast<Activation>(taps % 6);
    add(dtype, 100, 1, axis(3, 1, 1, 1, 0, 0), axis(91, taps, 1, 1, taps / 2, taps / 2));
    add(dtype, 49, 1, axis(2, 1, 1, 1, 0, 0), axis(1, taps, 1, 1, 5 * taps, 4 * taps));
  }
  // One pixel; rows of three and much padding; a single row at a stride; lines of pixels.
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16}) {
    add(dtype, 40, 1, one, axis(1, 3, 1, 1, 1, 1));
    for (Axis h : {one, axis(9, 3, 1, 1, 1, 1)}) add(dtype, 5, 1, h, axis(3, 3, 1, 1, 70, 9));
    add(dtype, 21, 1, one, axis(1100, 5, 3, 1, 2, 2));
    add(dtype, 40, 1, axis(9, 2, 1, 2, 1, 1), axis(18, 5, 1, 1, 2, 2));
    add(dtype, 40, 1, axis(9, 3, 2, 1, 1, 1), axis(20, 3, 1, 2, 2, 2));
  }
  // Transposed: rows, because planes are too wide; filters smaller than the stride.
  for (const int64_t multiplier : {1, 3}) {
    add(Dtype::kFloat32, 5, multiplier, axis(9, 3, 2, 1, 1, 1), axis(2601, 4, 2, 1, 1, 1));
    add(Dtype::kBFloat16, 21, multiplier, axis(8, 2, 3, 1, 0, 0), axis(25, 1, 4, 2, 0, 0));
    for (size_t i = cases.size() - 4; i < cases.size(); ++i) {
      cases[i].wide_in = true;
      cases[i].dw = cases[i].db = false;
    }
  }
  return cases;
}

}  // namespace depthwise_conv_cases
