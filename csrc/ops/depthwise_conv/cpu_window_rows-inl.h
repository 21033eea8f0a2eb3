// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Cuts the output rows of a channels-last correlation into the bands of cpu_window-inl.h.
#pragma once

#include "ops/depthwise_conv/cpu_window_pairs-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

template <class S, class T>
FASTCONV_INLINE void window_band_at(const SlidingWindow<T>& t, int64_t y) {
  const int64_t row = y * S::kStep - t.pad_rows;
  // Rows [first, last) are inside.
  const int64_t first = max_of(0, -row), last = min_of(S::kInputRows, t.height - row);
  const uint64_t rows = last <= first ? 0 : (uint64_t{2} << (last - 1)) - (uint64_t{1} << first);
  if (S::kRows > 1 && first == 0 && last == S::kInputRows) {
    window_band<S, S::kRows == 1 ? Rows::kAny : Rows::kInside>(t, y, row, rows);
  } else if constexpr (S::kRows == 1 || (S::kHoldWeights && !S::kPairs)) {
    window_band<S, Rows::kAny>(t, y, row, rows);
  } else if (first <= S::kKernel / 2 && last >= S::kInputRows - S::kKernel / 2) {
    window_band<S, Rows::kEdge>(t, y, row, rows);
  } else {
    using Single = WindowShape<S::kKernel, S::kStep, S::kFlat, 1, S::kPairs>;
    for (int i = 0; i < S::kRows; ++i) window_band_at<Single>(t, y + i);
  }
}

// With an activation that follows, the sums of a band stay in L1 until those of some neighbouring
// vectors of channels are there, and go through it on their way to the result: there, vectors of
// the same channels fall into few sets of L1, and all channels of a band are more than it holds.
template <class S, class T>
void window_block_then(const WindowBlock<T>& b, Activation activation, int64_t y) {
  constexpr int kV = kLanes<Accum<T>>;
  constexpr int64_t kPixel = S::kRows * kV;  // elements of a column of the band
  constexpr int64_t kElements = (28 << 10) / static_cast<int64_t>(sizeof(Accum<T>));
  alignas(kVectorBytes) T sums[kElements];
  const SlidingWindow<T>& whole = b.window;
  const int64_t width = whole.x1 - whole.x0, vectors = ceil_div(b.channels, kV);
  const int64_t columns = ceil_div(width, ceil_div(width, kElements / kPixel));
  const int64_t band = columns * kPixel, group = min_of(vectors, kElements / band);
  for (int64_t v = 0; v < vectors; v += group) {
    for (int64_t x = whole.x0; x < whole.x1; x += columns) {
      const int64_t end = min_of(x + columns, whole.x1);
      const int64_t count = min_of(group, vectors - v);
      for (int64_t i = 0; i < count; ++i) {
        SlidingWindow<T> t = b.vector(v + i);
        t.x0 = x;
        t.x1 = end;
        t.y = sums + i * band - (y * kV + x * kPixel);
        t.y_row_stride = kV;
        t.y_column_stride = kPixel;
        t.y_ahead = 0;
        window_band_at<S>(t, y);
      }
      finish_band<T>(activation, sums, whole.y + y * whole.y_row_stride + x * whole.y_column_stride,
                     {S::kRows, whole.y_row_stride, end - x, whole.y_column_stride, band, v, count,
                      b.channels});
    }
  }
}

template <class S, class T>
void window_block(const WindowBlock<T>& b, int64_t y) {
  constexpr int kV = kLanes<Accum<T>>;
  const SlidingWindow<T>& t = b.window;
  const Activation activation = b.problem->activation;
  const bool follows = activation != Activation::kNone && !is_brief<T, Tile::kTight>(activation);
  if (follows && t.ahead == 0) return window_block_then<S>(b, activation, y);
  for (int64_t v = 0; v * kV < b.channels; ++v) window_band_at<S>(b.vector(v), y);
  // Where results are prefetched, all channels at once: pixels lie one behind the other.
  finish_pixels<Tile::kTight>(*b.problem, t.y + y * t.y_row_stride + t.x0 * t.y_column_stride,
                              S::kRows, t.x1 - t.x0, b.channels);
}

// Output rows [y, end), in bands of 7 or 4 rows, the heights of usual networks being multiples of
// them; a remainder is covered by a band that overlaps the one before.  With few registers, in
// bands of 3 and 2 rows.
template <int Kernel, int Step, bool Flat, bool Pairs, class T>
void window_rows(const WindowBlock<T>& b, int64_t y, int64_t end) {
  const int64_t count = end - y;
  if constexpr (kVectorRegisters >= 32) {
    if constexpr (Kernel == 3) {
      for (const bool sevens = count % 7 == 0 || count % 4 != 0; sevens && end - y >= 7; y += 7) {
        window_block<WindowShape<Kernel, Step, Flat, 7, Pairs>>(b, y);
      }
    }
    for (; count >= 4 && end - y > 1; y += 4) {
      window_block<WindowShape<Kernel, Step, Flat, 4, Pairs>>(b, min_of(y, end - 4));
    }
  } else {
    while (count >= 2 && end - y >= 2) {
      if (Kernel == 3 && (end - y == 3 || end - y >= 5)) {
        window_block<WindowShape<Kernel, Step, Flat, 3>>(b, y);
        y += 3;
      } else {
        window_block<WindowShape<Kernel, Step, Flat, 2>>(b, y);
        y += 2;
      }
    }
  }
  for (; y < end; ++y) window_block<WindowShape<Kernel, Step, Flat, 1, Pairs>>(b, y);
}

// Filters with infinities go row by row, which never multiplies them by a zero from outside the
// image.
template <int Kernel, int Step, bool Flat, class T>
void window_rows_if_finite(const WindowBlock<T>& b, int64_t y, int64_t end) {
  if (b.window.finite) return window_rows<Kernel, Step, Flat, kHasPairs<T>>(b, y, end);
  for (; y < end; ++y) window_block<WindowShape<Kernel, Step, Flat, 1>>(b, y);
}

template <int Step, class T>
void window_rows_of(const WindowBlock<T>& b, int64_t kernel, bool flat, int64_t y, int64_t end) {
  if (kernel == 5) {
    window_rows_if_finite<5, Step, false>(b, y, end);
  } else if (flat) {
    window_rows_if_finite<3, Step, true>(b, y, end);
  } else {
    window_rows_if_finite<3, Step, false>(b, y, end);
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
