// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last backward-data with stride 2 and small dense filters: the window of
// cpu_window-inl.h the other way round.
//
// With p = row + pad, output row p receives tap kh of input row h where p = 2h + kh; columns
// alike.  A band is `Pairs` pairs of output rows (2P, 2P + 1).  The window visits the input columns
// from left to right; each vector of channels is loaded once and added to all the outputs that it
// reaches, of which the two columns 2G and 2G + 1 are then complete.  3x3 over 3 pairs of rows: 30
// FMAs and 12 stores for 4 loads, where phase after phase would load each input four times.
#pragma once

#include "ops/depthwise_conv/cpu_window-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

template <int Kernel_, bool Flat_, int Pairs_>
struct ScatterShape {
  static constexpr int kKernel = Kernel_, kPairs = Pairs_, kRows = 2 * Pairs_;
  static constexpr bool kFlat = Flat_;
  static constexpr int kHalo = (kKernel - 1) / 2;  // input rows, and columns, before a band
  static constexpr int kInputRows = kPairs + kHalo;
  static constexpr bool kHoldWeights = Flat_ && kKernel == 3 && kVectorRegisters >= 32;
};

template <class S, class T>
struct ScatterState {
  using V = Vec<Accum<T>>;
  V sums[S::kRows][S::kKernel];  // [row][column from 2G on]
  V weight[S::kHoldWeights ? S::kKernel * S::kKernel : 1];
};

// Adds one input column, `p` being its element in the band's first input row.  Bits of `rows` say
// which input rows are inside the image.
template <class S, class T>
FASTCONV_INLINE void scatter_column(const SlidingWindow<T>& t, ScatterState<S, T>& s, const T* p,
                                    const Accum<T>* weight, uint64_t rows) {
  using V = Vec<Accum<T>>;
  constexpr int kV = kLanes<Accum<T>>, K = S::kKernel;
#pragma GCC unroll 16
  for (int i = 0; i < S::kInputRows; ++i) {
    if (!(rows >> i & 1)) continue;
    V v = load(p + i * t.row_stride);
    pin(v);
#pragma GCC unroll 8
    for (int kh = 0; kh < K; ++kh) {
      const int r = 2 * (i - S::kHalo) + kh;
      if (r < 0 || r >= S::kRows) continue;
#pragma GCC unroll 8
      for (int kw = 0; kw < K; ++kw) {
        const V w = S::kHoldWeights ? s.weight[kh * K + kw] : load(weight + (kh * K + kw) * kV);
        s.sums[r][kw] = fma(v, w, s.sums[r][kw]);
      }
    }
  }
}

// The band whose first pair of rows is number `pair`; output rows [y, end) of it are stored.
template <class S, class T>
void scatter_band(const SlidingWindow<T>& t, int64_t pair, int64_t y, int64_t end) {
  using V = Vec<Accum<T>>;
  ScatterState<S, T> s;
  if constexpr (S::kHoldWeights) {
#pragma GCC unroll 16
    for (int i = 0; i < S::kKernel * S::kKernel; ++i) {
      s.weight[i] = load(t.weight + i * kLanes<Accum<T>>);
      pin(s.weight[i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < S::kRows; ++r) {
#pragma GCC unroll 8
    for (int k = 0; k < S::kKernel; ++k) s.sums[r][k] = t.bias;
  }
  const int64_t row = pair - S::kHalo;  // first input row
  uint64_t rows = 0;
  for (int i = 0; i < S::kInputRows; ++i) {
    rows |= static_cast<uint64_t>(row + i >= 0 && row + i < t.height) << i;
  }
  const int64_t first_row = 2 * pair - t.pad_rows;
  uint64_t stored = 0;
  for (int r = 0; r < S::kRows; ++r) {
    stored |= static_cast<uint64_t>(first_row + r >= y && first_row + r < end) << r;
  }
  const T* band = t.x + row * t.row_stride;
  T* out = t.y + first_row * t.y_row_stride;
  const int64_t group_end = floor_div(t.x1 - 1 + t.pad, 2) + 1;
  for (int64_t g = floor_div(t.x0 + t.pad, 2) - S::kHalo; g < group_end; ++g) {
    if (static_cast<uint64_t>(g) < static_cast<uint64_t>(t.width)) {
      constexpr int64_t kFilter = S::kKernel * S::kKernel * kLanes<Accum<T>>;
      for (int64_t d = 0; d < t.plane_count; ++d) {
        scatter_column<S>(t, s, band + t.planes[d].plane + g * t.column_stride,
                          t.weight + t.planes[d].filter * kFilter, rows);
      }
    }
    const int64_t o = 2 * g - t.pad;
    T* y0 = out + o * t.y_column_stride;
    const bool first = o >= t.x0 && o < t.x1, second = o + 1 >= t.x0 && o + 1 < t.x1;
    if (t.y_ahead != 0) {
#pragma GCC unroll 8
      for (int r = 0; r < S::kRows; ++r) {
        const T* y = y0 + r * t.y_row_stride + t.y_ahead;
        __builtin_prefetch(y, 1);
        __builtin_prefetch(y + t.y_column_stride, 1);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < S::kRows; ++r, y0 += t.y_row_stride) {
      V(&sum)[S::kKernel] = s.sums[r];
      if (stored >> r & 1) {
        if (first) store(y0, sum[0]);
        if (second) store(y0 + t.y_column_stride, sum[1]);
      }
#pragma GCC unroll 8
      for (int k = 0; k < S::kKernel; ++k) sum[k] = k + 2 < S::kKernel ? sum[k + 2] : t.bias;
    }
  }
}

template <class S, class T>
void scatter_block(const WindowBlock<T>& b, int64_t pair, int64_t y, int64_t end) {
  constexpr int kV = kLanes<Accum<T>>;
  for (int64_t v = 0; v * kV < b.channels; ++v) scatter_band<S>(b.vector(v), pair, y, end);
}

// Output rows [y, end).
template <int Kernel, bool Flat, class T>
void scatter_rows(const WindowBlock<T>& b, int64_t y, int64_t end) {
  constexpr int kPairs = kVectorRegisters < 32 ? 1 : Kernel == 3 ? 3 : 2;
  const int64_t pad = b.window.pad_rows;
  const int64_t last = floor_div(end - 1 + pad, 2) + 1;
  int64_t pair = floor_div(y + pad, 2);
  if constexpr (kPairs > 1) {
    for (; pair + kPairs <= last; pair += kPairs) {
      scatter_block<ScatterShape<Kernel, Flat, kPairs>>(b, pair, y, end);
    }
  }
  for (; pair < last; ++pair) scatter_block<ScatterShape<Kernel, Flat, 1>>(b, pair, y, end);
}

template <class T>
void scatter_rows_of(const WindowBlock<T>& b, int64_t kernel, bool flat, int64_t y, int64_t end) {
  if (kernel == 5) {
    scatter_rows<5, false>(b, y, end);
  } else if (flat) {
    scatter_rows<3, true>(b, y, end);
  } else {
    scatter_rows<3, false>(b, y, end);
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
