// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Contiguous (NCHW-like) correlation: vector lanes are output columns.
//
// A task first stages the input rows it needs into scratch: widened to fp32, padded with zeros on
// all sides, and, where the column step is s > 1, split into its s residues so that the lanes of
// any tap are neighbours in memory.  Staging also absorbs any input stride.  A tile is then
// Rows x Vectors accumulators, and every address is affine: no border test in any loop.
#pragma once

#include "common/transpose-inl.h"
#include "ops/depthwise_conv/cpu_epilogue-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

using namespace ::fastconv::FASTCONV_ISA;

// Staged rows: input rows [row0, row0 + rows), columns [column0, ...), zero outside the image.
// Column x lies at (x - column0) % step * residue_pitch + (x - column0) / step.
struct Stage {
  int64_t row0, rows, column0, step, residue_pitch;
  int64_t row_pitch() const { return step * residue_pitch; }
  int64_t at(int64_t x) const {
    return (x - column0) % step * residue_pitch + (x - column0) / step;
  }
};

// dst[j] = src[j * stride] for j in [0, n): one residue of one row.
template <class T>
FASTCONV_INLINE void stage_strided(Accum<T>* dst, const T* src, int64_t stride, int64_t n) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  int64_t j = 0;
  if (stride == 1) {
    for (; j + kV <= n; j += kV) store(dst + j, load(src + j));
    if (j < n) store_n(dst + j, load_n(src + j, static_cast<int>(n - j)), static_cast<int>(n - j));
    return;
  }
  for (; j < n; ++j) dst[j] = to_float(src[j * stride]);
}

// Both residues of a row at step 2: two loads and two shuffles per 2 * kV columns.
template <class T>
FASTCONV_INLINE void stage_pairs(Accum<T>* even, Accum<T>* odd, const T* src, int64_t pairs) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  int64_t j = 0;
  for (; j + kV <= pairs; j += kV) {
    Vec<A> evens, odds;
    split_pairs(load(src + 2 * j), load(src + 2 * j + kV), evens, odds);
    store(even + j, evens);
    store(odd + j, odds);
  }
  for (; j < pairs; ++j) {
    even[j] = to_float(src[2 * j]);
    odd[j] = to_float(src[2 * j + 1]);
  }
}

// One input row of `width` columns into its staged place; `dst` is the row's start.
template <class T>
void stage_row(const Stage& s, Accum<T>* dst, const T* src, int64_t stride, int64_t width) {
  using A = Accum<T>;
  std::memset(dst, 0, s.row_pitch() * sizeof(A));
  // Columns of the image that lie in the staged window.
  const int64_t x0 = max_of(0, s.column0);
  const int64_t x1 = min_of(width, s.column0 + s.row_pitch());
  if (x0 >= x1) return;
  if (s.step == 2 && stride == 1) {
    // From the first column of residue 0 on; a leading odd column and a trailing even one apart.
    const int64_t first = x0 + floor_mod(x0 - s.column0, 2);
    if (first > x0) dst[s.at(x0)] = to_float(src[x0]);
    const int64_t pairs = (x1 - first) / 2;
    if (pairs > 0) {
      stage_pairs(dst + s.at(first), dst + s.at(first + 1), src + first, pairs);
    }
    if (first + 2 * pairs < x1) dst[s.at(x1 - 1)] = to_float(src[x1 - 1]);
    return;
  }
  for (int64_t r = 0; r < s.step; ++r) {
    const int64_t first = x0 + floor_mod(r - (x0 - s.column0), s.step);
    if (first >= x1) continue;
    stage_strided(dst + s.at(first), src + first * stride, s.step * stride,
                  ceil_div(x1 - first, s.step));
  }
}

// The taps of a tile: `planes` staged (channel, kd) planes, each with kh rows of kw taps.
template <class A>
struct RowTaps {
  const A* const* plane;   // staged plane at its first needed row for output row 0 of the tile
  const A* const* weight;  // the plane's filter, taps converted to A
  int64_t planes;
  int64_t kh_first, kh_last;  // filter rows in use: i of the height's TapRun
  int64_t row_step;           // elements between the staged rows of neighbouring i
  int64_t weight_row;         // taps between neighbouring i
  const int32_t* column;      // staged offset of each kw tap, for output column 0
  const int32_t* tap;         // its index in the filter row
  int64_t kw;
  int64_t output_row;     // elements between the staged rows of neighbouring output rows
  Activation activation;  // of sums in registers
};

// acc[r][v] += sum over taps of w * stage[...]
template <int Rows, int Vectors, class A>
FASTCONV_INLINE void accumulate_rows(const RowTaps<A>& t, int64_t at,
                                     Vec<A> (&acc)[Rows][Vectors]) {
  constexpr int kV = kLanes<A>;
  for (int64_t q = 0; q < t.planes; ++q) {
    const A* row = t.plane[q] + at + t.kh_first * t.row_step;
    const A* weight = t.weight[q] + t.kh_first * t.weight_row;
    for (int64_t i = t.kh_first; i < t.kh_last; ++i, row += t.row_step, weight += t.weight_row) {
      for (int64_t k = 0; k < t.kw; ++k) {
        const Vec<A> w = set1<A>(weight[t.tap[k]]);
        const A* x = row + t.column[k];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
          for (int v = 0; v < Vectors; ++v) {
            acc[r][v] = fma(load(x + r * t.output_row + v * kV), w, acc[r][v]);
          }
        }
      }
    }
  }
}

// A tile of outputs in one phase: rows r at y + r * row_stride, columns from `column` on.
template <int Rows, int Vectors, class A, class Out>
void row_tile(const RowTaps<A>& t, int64_t column, int64_t count, A bias, Out* y,
              int64_t row_stride) {
  constexpr int kV = kLanes<A>;
  Vec<A> acc[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) acc[r][v] = set1<A>(bias);
  }
  accumulate_rows<Rows, Vectors>(t, column, acc);
  finish_sums<Out, Tile::kRoomy>(t.activation, acc);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      Out* out = y + r * row_stride + column + v * kV;
      const int64_t left = count - column - v * kV;
      if (left >= kV) {
        store(out, acc[r][v]);
      } else if (left > 0) {
        store_n(out, acc[r][v], static_cast<int>(left));
      }
    }
  }
}

// `count` columns of Rows output rows, with about eight accumulators in flight whatever the width.
template <int Rows, class A, class Out>
FASTCONV_INLINE void row_band(const RowTaps<A>& t, int64_t count, A bias, Out* y,
                              int64_t row_stride) {
  constexpr int kV = kLanes<A>;
  constexpr int kWide = 8 / Rows;
  int64_t column = 0;
  if constexpr (kWide > 1) {
    for (; count - column > (kWide - 1) * kV; column += kWide * kV) {
      row_tile<Rows, kWide>(t, column, count, bias, y, row_stride);
    }
  }
  if constexpr (kWide > 2) {
    for (; count - column > kV; column += 2 * kV) {
      row_tile<Rows, 2>(t, column, count, bias, y, row_stride);
    }
  }
  for (; column < count; column += kV) {
    row_tile<Rows, 1>(t, column, count, bias, y, row_stride);
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
