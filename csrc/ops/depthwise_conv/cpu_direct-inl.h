// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Contiguous (NCHW-like) correlation that reads the image in place: vector lanes are output
// columns.
//
// A tile is `Rows` output rows of one vector of columns.  For one filter column and up to four
// filter rows the weights are broadcast once, then each input row is loaded once and meets every
// output row that needs it: 8 rows of a 3x3 filter take 30 loads and 9 broadcasts for 72 FMAs.
// Loads are misaligned, one a cycle; FMAs are two: the two come out even.
//
// For levels with many registers.  Rows outside the image are a row of zeros; columns outside are
// masked off in the tiles at the edge.
#pragma once

#include "common/lanes-inl.h"
#include "ops/depthwise_conv/cpu_epilogue-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

using namespace ::fastconv::FASTCONV_ISA;

#if FASTCONV_LEVEL >= 1

// Filter rows whose input rows neighbouring output rows of a tile share: output row r meets tap m
// in row[r + m].
template <class T>
struct DirectRows {
  const T* const* row;
  const Accum<T>* weight;  // of tap 0 and filter column 0
  int64_t weight_row;      // from one tap to the next
  int64_t taps;
};

// dst[i] = src[i] for i in [0, count).
template <class T>
FASTCONV_INLINE void widen_all(Accum<T>* dst, const T* src, int64_t count) {
  constexpr int kV = kLanes<Accum<T>>;
  int64_t i = 0;
  for (; i + kV <= count; i += kV) store(dst + i, load(src + i));
  if (i < count) {
    const int left = static_cast<int>(count - i);
    store_n(dst + i, load_n(src + i, left), left);
  }
}

// A band of output rows.
template <class T>
struct DirectBand {
  const DirectRows<T>* sets;  // per plane, and per residue of the filter rows
  int64_t set_count;
  TapRun columns;
  int64_t width;  // of the image
  // A vector of input columns for output x lies inside the image for every tap where
  // first_inside <= x <= last_inside.
  int64_t first_inside, last_inside;
  Accum<T> bias;
  Activation activation;  // of sums in registers
  T* y;
  int64_t y_row_stride;
};

// Filter rows that a tile takes at once.
constexpr int kChunk = 4;

// The columns of the image among the lanes that start at `column`.
template <class A>
FASTCONV_INLINE LaneRange<A> columns_inside(int64_t column, int64_t width) {
  constexpr int64_t kV = kLanes<A>;
  const int64_t first = min_of(kV, max_of(0, -column));
  return lane_range<A>(static_cast<int>(first),
                       static_cast<int>(max_of(first, min_of(kV, width - column))));
}

// Chunk filter rows of one filter column, for Rows x Vectors outputs.  `column` is the input column
// of the first output.
template <int Rows, int Vectors, int Chunk, bool Edge, class T>
FASTCONV_INLINE void direct_taps(const T* const* row, const Accum<T>* weight, int64_t weight_row,
                                 int64_t column, int64_t width,
                                 Vec<Accum<T>> (&acc)[Rows][Vectors]) {
  using A = Accum<T>;
  using V = Vec<A>;
  constexpr int kV = kLanes<A>;
  static_assert(!Edge || Vectors == 1);
  LaneRange<A> inside;
  if constexpr (Edge) {
    inside = columns_inside<A>(column, width);
    if (inside.empty()) return;
  }
  V w[Chunk];
#pragma GCC unroll 8
  for (int c = 0; c < Chunk; ++c) {
    w[c] = set1<A>(weight[c * weight_row]);
    pin(w[c]);
  }
  asm("" : "+r"(row));  // GCC otherwise keeps the address of every entry, in vector registers
#pragma GCC unroll 16
  for (int i = 0; i < Rows + Chunk - 1; ++i) {
    const T* p = row[i] + column;
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      V x = Edge ? load_range(p, inside) : load(p + v * kV);
      pin(x);
#pragma GCC unroll 8
      for (int c = 0; c < Chunk; ++c) {
        const int r = i - c;
        if (r >= 0 && r < Rows) acc[r][v] = fma(x, w[c], acc[r][v]);
      }
    }
  }
}

template <int Rows, int Vectors, int Chunk, bool Edge, class T>
FASTCONV_INLINE void direct_chunk(const DirectRows<T>& set, int64_t m, const TapRun& columns,
                                  int64_t x, int64_t width, Vec<Accum<T>> (&acc)[Rows][Vectors]) {
  const Accum<T>* weight = set.weight + m * set.weight_row + columns.tap;
  int64_t column = x + columns.offset;
  for (int64_t k = 0; k < columns.count; ++k) {
    direct_taps<Rows, Vectors, Chunk, Edge>(set.row + m, weight, set.weight_row, column, width,
                                            acc);
    column += columns.offset_step;
    weight += columns.tap_step;
  }
}

// All taps.
template <int Rows, int Vectors, bool Edge, class T>
FASTCONV_INLINE void direct_sum(const DirectBand<T>& t, int64_t x,
                                Vec<Accum<T>> (&acc)[Rows][Vectors]) {
  for (int64_t s = 0; s < t.set_count; ++s) {
    const DirectRows<T>& set = t.sets[s];
    for (int64_t m = 0; m < set.taps;) {
      // Equal chunks: 5 rows are 3 and 2, not 4 and 1.
      const int64_t left = set.taps - m;
      const int64_t chunk = left <= kChunk ? left : left < 2 * kChunk ? (left + 1) / 2 : kChunk;
      switch (chunk) {
        case 1:
          direct_chunk<Rows, Vectors, 1, Edge>(set, m, t.columns, x, t.width, acc);
          break;
        case 2:
          direct_chunk<Rows, Vectors, 2, Edge>(set, m, t.columns, x, t.width, acc);
          break;
        case 3:
          direct_chunk<Rows, Vectors, 3, Edge>(set, m, t.columns, x, t.width, acc);
          break;
        default:
          direct_chunk<Rows, Vectors, 4, Edge>(set, m, t.columns, x, t.width, acc);
      }
      m += chunk;
    }
  }
}

template <int Rows, int Vectors, class A>
FASTCONV_INLINE void fill(Vec<A> (&acc)[Rows][Vectors], A value) {
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) acc[r][v] = set1<A>(value);
  }
}

template <class T>
FASTCONV_INLINE void store_left(T* y, Vec<Accum<T>> v, int64_t left) {
  constexpr int kV = kLanes<Accum<T>>;
  if (left >= kV) {
    store(y, v);
  } else if (left > 0) {
    store_n(y, v, static_cast<int>(left));
  }
}

template <int Rows, int Vectors, class T>
FASTCONV_INLINE void store_tile(const DirectBand<T>& t, int64_t x, int64_t left,
                                const Vec<Accum<T>> (&acc)[Rows][Vectors]) {
  constexpr int kV = kLanes<Accum<T>>;
  T* y = t.y + x;
  if (left >= Vectors * kV) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r, y += t.y_row_stride) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) store(y + v * kV, acc[r][v]);
    }
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r, y += t.y_row_stride) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) store_left(y + v * kV, acc[r][v], left - v * kV);
    }
  }
}

// Outputs x, x + 1, ... of the band's rows, `left` of them or a whole tile.
template <int Rows, int Vectors, bool Edge, class T>
void direct_tile(const DirectBand<T>& t, int64_t x, int64_t left) {
  Vec<Accum<T>> acc[Rows][Vectors];
  fill(acc, t.bias);
  direct_sum<Rows, Vectors, Edge>(t, x, acc);
  finish_sums<T, Tile::kRoomy>(t.activation, acc);
  store_tile(t, x, left, acc);
}

// Of filters of one row, a row's outputs from column x on, as far as whole vectors reach; returns
// where that is.  With wide vectors each is loaded once, and the columns of the taps are put
// together from neighbours: misaligned loads that cross cache lines take twice as long, and 16-bit
// numbers are widened anew for each tap.  (Two threads of a Zen 4, 4 taps, bfloat16, 1x1536x2048:
// 500 -> 310 us.)
template <int Kernel, class T>
int64_t direct_line(const DirectBand<T>& t, const T* row, T* y, int64_t x, int64_t x1) {
  using V = Vec<Accum<T>>;
  constexpr int kV = kLanes<Accum<T>>, kVectors = 4, kTile = kVectors * kV;
  row += t.columns.offset;
  V weight[Kernel], sums[kVectors];
  for_each<Kernel>(FASTCONV_EACH(k) {
    weight[k.value] =
        set1<Accum<T>>(t.sets[0].weight[t.columns.tap + k.value * t.columns.tap_step]);
    pin(weight[k.value]);
  });
  const int64_t end = min_of(x1, t.width - t.columns.offset - kV);
  const int64_t last = end - kTile >= x ? end : x;
  // The last tile overlaps the one before.
  for (; x < last; x += kTile) {
    x = min_of(x, last - kTile);
    for_each<kVectors>(FASTCONV_EACH(v) { sums[v.value] = set1<Accum<T>>(t.bias); });
#if FASTCONV_LEVEL >= 2
    V in[kVectors + 1];
    for_each<kVectors + 1>(FASTCONV_EACH(v) { in[v.value] = load(row + x + v.value * kV); });
#endif
    for_each<Kernel>(FASTCONV_EACH(k) {
      for_each<kVectors>(FASTCONV_EACH(v) {
#if FASTCONV_LEVEL >= 2
        const V shifted = shift_lanes<decltype(k)::value>(in[v.value], in[v.value + 1]);
#else
        const V shifted = load(row + x + v.value * kV + k.value);
#endif
        sums[v.value] = fma(shifted, weight[k.value], sums[v.value]);
      });
    });
    finish_sums<T, Tile::kRoomy>(t.activation, sums);
    for_each<kVectors>(FASTCONV_EACH(v) { store(y + x + v.value * kV, sums[v.value]); });
  }
  return x;
}

// The same, if the filter is such a one.  Bands of several rows broadcast each weight once for all,
// and are faster as they are.  (Two threads, bfloat16, 1x2 on 8x32x112x112: 480 us, so 630.)
template <class T>
int64_t direct_line_of(const DirectBand<T>& t, int64_t x, int64_t x1) {
  if constexpr (sizeof(Accum<T>) == 4) {
    using Columns = int64_t(const DirectBand<T>&, const T*, T*, int64_t, int64_t);
    constexpr Columns* kColumns[Correlation::kMostLine - 1] = {
        direct_line<2, T>, direct_line<3, T>, direct_line<4, T>, direct_line<5, T>,
        direct_line<6, T>, direct_line<7, T>, direct_line<8, T>};
    const bool dense = t.set_count == 1 && t.sets[0].taps == 1 && t.columns.offset_step == 1;
    if (dense && t.columns.count >= 2 && t.columns.count <= Correlation::kMostLine) {
      return kColumns[t.columns.count - 2](t, t.sets[0].row[0], t.y, x, x1);
    }
  }
  return x;
}

// Output columns [x0, x1).
template <int Rows, class T>
void direct_columns(const DirectBand<T>& t, int64_t x0, int64_t x1) {
  constexpr int kV = kLanes<Accum<T>>;
  // One vector of one row alone would leave the FMAs waiting, and one of 16-bit numbers is half a
  // cache line.  (bfloat16, two threads, 5x1x1: 1x108x16x28x28 169 -> 130 us; fp32 gains nothing.)
  constexpr bool kHalfLines = sizeof(T) == 2 && kVectorRegisters >= 32;
  constexpr int kWide = Rows == 1 ? 4 : kHalfLines ? 2 : 1;
  int64_t x = x0;
  for (; x < x1 && x < t.first_inside; x += kV) {
    direct_tile<Rows, 1, true>(t, x, x1 - x);
  }
  if constexpr (Rows == 1) x = direct_line_of(t, x, x1);
  if constexpr (kWide > 1) {
    for (; x + (kWide - 1) * kV <= t.last_inside && x + kWide * kV <= x1; x += kWide * kV) {
      direct_tile<Rows, kWide, false>(t, x, x1 - x);
    }
  }
  for (; x < x1 && x <= t.last_inside; x += kV) {
    direct_tile<Rows, 1, false>(t, x, x1 - x);
  }
  for (; x < x1; x += kV) direct_tile<Rows, 1, true>(t, x, x1 - x);
}

#endif

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
