// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last weight gradient of a 3x3 filter: a window that slides along a band of rows.
//
// A band is `Rows` output rows.  The nine sums, the bias's and the three columns of x under the
// filter stay in registers; every output column brings `Rows` vectors of dy and the columns of x
// that are new.  4 rows at stride 1: 36 FMAs for 10 loads.
#pragma once

#include "ops/depthwise_conv/cpu_channels-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

template <class T>
struct GradientWindow {
  const T* x;                                  // one plane, first channel of the vector
  const T* dy;                                 // alike
  int64_t x_row, x_column, dy_row, dy_column;  // strides
  int64_t height, width;                       // of x
  int64_t pad_rows, pad;
  int64_t x0, x1;  // output columns
};

template <int Step_, int Rows_>
struct GradientShape {
  static constexpr int kKernel = 3, kStep = Step_, kRows = Rows_;
  static constexpr int kInputRows = (kRows - 1) * kStep + kKernel;
  static constexpr int kPeriod = kStep == 1 ? 3 : 2;  // until columns are in the same registers
  // Where column kw of the filter is while output column number U of a period is done: a step
  // renames what stays.
  static constexpr int slot(int kw, int u) {
    return kStep == 1 ? (u + kw) % 3 : kw == 1 ? 1 : (kw / 2 + u) % 2 * 2;
  }
};

template <class S, class T>
struct GradientState {
  using V = Vec<Accum<T>>;
  V sums[S::kKernel][S::kKernel], bias;
  V x[S::kInputRows][S::kKernel];
};

template <class S, int Kw, int U, class T>
FASTCONV_INLINE void gradient_load(const GradientWindow<T>& t, GradientState<S, T>& s,
                                   const T* band, int64_t column, uint64_t rows) {
  if (static_cast<uint64_t>(column) >= static_cast<uint64_t>(t.width)) return;
  const T* p = band + column * t.x_column;
#pragma GCC unroll 16
  for (int i = 0; i < S::kInputRows; ++i) {
    if (!(rows >> i & 1)) continue;
    s.x[i][S::slot(Kw, U)] = load(p + i * t.x_row);
    pin(s.x[i][S::slot(Kw, U)]);
  }
}

// Output column `o`.  Products with what is outside the image are left out.
template <class S, int U, class T>
FASTCONV_INLINE void gradient_column(const GradientWindow<T>& t, GradientState<S, T>& s,
                                     const T* band, const T* dy, int64_t o, uint64_t rows) {
  using V = Vec<Accum<T>>;
  constexpr int K = S::kKernel;
  const int64_t column = o * S::kStep - t.pad;
  if constexpr (S::kStep == 2) gradient_load<S, 1, U>(t, s, band, column + 1, rows);
  gradient_load<S, 2, U>(t, s, band, column + 2, rows);
  V g[S::kRows];
#pragma GCC unroll 8
  for (int r = 0; r < S::kRows; ++r) {
    g[r] = load(dy + o * t.dy_column + r * t.dy_row);
    pin(g[r]);
    s.bias = s.bias + g[r];
  }
  const bool inside = column >= 0 && column + K <= t.width;
#pragma GCC unroll 16
  for (int i = 0; i < S::kInputRows; ++i) {
    if (!(rows >> i & 1)) continue;
#pragma GCC unroll 8
    for (int r = 0; r < S::kRows; ++r) {
      const int kh = i - r * S::kStep;
      if (kh < 0 || kh >= K) continue;
#pragma GCC unroll 3
      for (int kw = 0; kw < K; ++kw) {
        if (!inside && static_cast<uint64_t>(column + kw) >= static_cast<uint64_t>(t.width)) {
          continue;
        }
        s.sums[kh][kw] = fma(s.x[i][S::slot(kw, U)], g[r], s.sums[kh][kw]);
      }
    }
  }
}

// Adds the band of kRows output rows from row y on.  `sums`: nine vectors; `bias`: one.
template <class S, class T>
void gradient_band(const GradientWindow<T>& t, int64_t y, Accum<T>* sums, Accum<T>* bias) {
  constexpr int kV = kLanes<Accum<T>>, K = S::kKernel;
  GradientState<S, T> s;
#pragma GCC unroll 9
  for (int i = 0; i < K * K; ++i) s.sums[i / K][i % K] = load(sums + i * kV);
  s.bias = load(bias);
  const int64_t row = y * S::kStep - t.pad_rows;
  uint64_t rows = 0;
#pragma GCC unroll 16
  for (int i = 0; i < S::kInputRows; ++i) {
    rows |= static_cast<uint64_t>(row + i >= 0 && row + i < t.height) << i;
#pragma GCC unroll 3
    for (int kw = 0; kw < K; ++kw) s.x[i][kw] = Vec<Accum<T>>{};
  }
  const T* band = t.x + row * t.x_row;
  const T* dy = t.dy + y * t.dy_row;
  const int64_t column = t.x0 * S::kStep - t.pad;
  gradient_load<S, 0, 0>(t, s, band, column, rows);
  if constexpr (S::kStep == 1) gradient_load<S, 1, 0>(t, s, band, column + 1, rows);
  for (int64_t o = t.x0; o < t.x1;) {
    gradient_column<S, 0>(t, s, band, dy, o, rows);
    if (++o == t.x1) break;
    gradient_column<S, 1>(t, s, band, dy, o, rows);
    if (++o == t.x1) break;
    if constexpr (S::kPeriod == 3) {
      gradient_column<S, 2>(t, s, band, dy, o, rows);
      ++o;
    }
  }
#pragma GCC unroll 9
  for (int i = 0; i < K * K; ++i) store(sums + i * kV, s.sums[i / K][i % K]);
  store(bias, s.bias);
}

// Output rows [y, end), in bands of 4 and 3 rows where these add up.
template <class T>
void gradient_rows(const GradientWindow<T>& t, int64_t step, int64_t y, int64_t end, Accum<T>* sums,
                   Accum<T>* bias) {
  if (step == 2) {
    for (; end - y >= 2; y += 2) gradient_band<GradientShape<2, 2>>(t, y, sums, bias);
    if (y < end) gradient_band<GradientShape<2, 1>>(t, y, sums, bias);
    return;
  }
  const int64_t threes = (4 - (end - y) % 4) % 4;
  if (end - y >= 3 * threes) {
    for (int64_t i = 0; i < threes; ++i, y += 3) {
      gradient_band<GradientShape<1, 3>>(t, y, sums, bias);
    }
  }
  for (; end - y >= 4; y += 4) gradient_band<GradientShape<1, 4>>(t, y, sums, bias);
  for (; y < end; ++y) gradient_band<GradientShape<1, 1>>(t, y, sums, bias);
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
