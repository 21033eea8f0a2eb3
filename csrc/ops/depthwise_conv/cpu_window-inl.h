// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last correlation with small dense filters: a window slides along a band of rows.
//
// A band is `Rows` output rows.  The window visits the input columns from left to right; each
// vector of channels is loaded once and meets every tap of every output row that needs it, and the
// outputs under way stay in registers: 3x3 over 7 rows holds 21 sums and 9 weights, and does 63
// FMAs for 9 loads and 7 stores.  An input column is visited for a whole band, so that its cache
// line is fetched (Rows + 2) / Rows times and not three, and each load instruction advances by a
// constant stride, which the hardware prefetches.
#pragma once

#include "ops/depthwise_conv/cpu_channels-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// How far a window prefetches, where it does: columns of the same channels (a page holds few of
// them, too few for the hardware to see their stride: 8x144x56x56 in fp32, 880 -> 750 us on one
// thread), or, in narrow tasks, channels of the same columns.
constexpr int kColumnsAhead = 8;
constexpr int kStreamAhead = 4;
constexpr int64_t kBytesAhead = 128;

// One (kd) of the filter that lies inside the image.
struct PlaneTap {
  int64_t plane;   // element offset of the input plane from the image's start
  int64_t filter;  // its kd, in the order of the packed weights
};

template <class T>
struct SlidingWindow {
  const T* x;              // image n, first channel of the vector
  const Accum<T>* weight;  // the vector's packed weights: [kd][kh][kw][lane], in input order
  const Accum<T>* pairs;   // those of rows kh - 1 and kh in pairs, where there are: kh <= kernel
  const PlaneTap* planes;
  int64_t plane_count;
  int64_t row_stride, column_stride;  // of x
  int64_t height, width;              // of x
  int64_t pad_rows, pad;              // rows and columns before the image
  T* y;                               // output row 0, column 0
  int64_t y_row_stride, y_column_stride;
  int64_t x0, x1;  // output columns
  Vec<Accum<T>> bias;
  Activation activation;   // of sums in registers
  bool finite;             // all weights
  int64_t ahead, y_ahead;  // elements by which to prefetch, or none
  int64_t newest_plane;    // the others have been read for the output plane before
  int64_t plane_ahead;     // from there to the next output plane's, if there are planes
};

// The vectors of a block of channels, one after the other down the same band: neighbouring vectors
// are neighbours in memory.
template <class T>
struct WindowBlock {
  SlidingWindow<T> window;  // of the first vector
  const Correlation* problem;
  const Accum<T>* bias;  // [vector][lane]
  int64_t channels, weight_stride, pairs_stride;

  // The last vector overlaps the one before, and needs no masks.
  SlidingWindow<T> vector(int64_t v) const {
    constexpr int kV = kLanes<Accum<T>>;
    const int64_t c = min_of(v * kV, channels - kV);
    SlidingWindow<T> t = window;
    t.x += c;
    t.y += c;
    t.weight += v * weight_stride;
    t.pairs += v * pairs_stride;
    t.bias = load(bias + v * kV);
    return t;
  }
};

// Shapes of a window at compile time.  A Flat filter has one plane.
template <int Kernel_, int Step_, bool Flat_, int Rows_, bool Pairs_ = false>
struct WindowShape {
  static constexpr int kKernel = Kernel_, kStep = Step_, kRows = Rows_;
  static constexpr bool kFlat = Flat_, kPairs = Pairs_;
  // Output columns under way at once.
  static constexpr int kSlots = (kKernel + kStep - 1) / kStep;
  static constexpr int kInputRows = (kRows - 1) * kStep + kKernel;
  // With 32 registers a 3x3 filter stays in them.
  static constexpr bool kHoldWeights = Flat_ && kKernel == 3 && kVectorRegisters >= 32;
  // By pairs those whose rows both lie in it; others serve one row of a pair.
  static constexpr int kHeld = kHoldWeights ? (kKernel - (Pairs_ ? 1 : 0)) * kKernel : 1;
};

template <class S, class T>
struct WindowState {
  using V = Vec<Accum<T>>;
  V sums[S::kRows][S::kSlots];
  V weight[S::kHeld];
};

// One row of a column against the filter rows that meet it.
template <class S, int U, int J, class T, class V, class Tap>
FASTCONV_INLINE void window_row(WindowState<S, T>& s, int i, V v, const Tap& tap) {
#pragma GCC unroll 8
  for (int r = 0; r < S::kRows; ++r) {
    const int kh = i - r * S::kStep;
    if (kh < 0 || kh >= S::kKernel) continue;
#pragma GCC unroll 8
    for (int q = 0; q < S::kSlots; ++q) {
      const int kw = q * S::kStep + J;
      if (kw >= S::kKernel) continue;
      V& sum = s.sums[r][(U - q + S::kSlots) % S::kSlots];
      sum = fma(v, tap(kh, kw), sum);
    }
  }
}

// Which rows of a band may lie outside the image: none, those that half a filter reaches, any.  A
// test per row suits filters in registers; the others cannot afford its mispredictions.
enum class Rows { kInside, kEdge, kAny };

// Row `i` of a column.  The kEdge form reads zero outside the image, without a branch: those would
// be mispredicted at the start of every band.  (1x16x28x28, 5x5 stride 2: 1.5 -> 1.0 us.)  The
// address stays inside: suppressing a fault costs more than the rest of the band.
template <class S, Rows R, class T>
FASTCONV_INLINE Vec<Accum<T>> window_load(const SlidingWindow<T>& t, const T* p, int i,
                                          uint64_t rows) {
  constexpr int kHalf = S::kKernel / 2;
  Vec<Accum<T>> v;
  if (R == Rows::kEdge && (i < kHalf || i >= S::kInputRows - kHalf)) {
    const bool inside = (rows >> i & 1) != 0;
    v = load_if(inside, p + (inside ? i : kHalf) * t.row_stride);
  } else {
    v = load(p + i * t.row_stride);
  }
  pin(v);
  return v;
}

// A column by pairs of rows: see cpu_window_pairs-inl.h.
template <class S, int U, int J, Rows R, class T>
FASTCONV_INLINE void window_pairs(const SlidingWindow<T>& t, WindowState<S, T>& s, const T* p,
                                  const Accum<T>* weight, uint64_t rows);

// Input column number J of a group of kStep, whose first output is in slot U.  `p` is its element
// in the band's first input row.
template <class S, int U, int J, Rows R, class T>
FASTCONV_INLINE void window_column(const SlidingWindow<T>& t, WindowState<S, T>& s, const T* p,
                                   const Accum<T>* weight, uint64_t rows) {
  using V = Vec<Accum<T>>;
  constexpr int kV = kLanes<Accum<T>>, K = S::kKernel;
  if constexpr (S::kPairs) return window_pairs<S, U, J, R>(t, s, p, weight, rows);
  if constexpr (S::kHoldWeights || R == Rows::kAny) {
    const auto tap = [&](int kh, int kw) -> V {
      if constexpr (S::kHoldWeights) return s.weight[kh * K + kw];
      return load(weight + (kh * K + kw) * kV);
    };
#pragma GCC unroll 32
    for (int i = 0; i < S::kInputRows; ++i) {
      if (R == Rows::kAny && !(rows >> i & 1)) continue;
      window_row<S, U, J>(s, i, window_load<S, R>(t, p, i, rows), tap);
    }
    return;
  }
  V v[S::kInputRows];
#pragma GCC unroll 32
  for (int i = 0; i < S::kInputRows; ++i) {
    v[i] = window_load<S, R>(t, p, i, rows);
  }
#pragma GCC unroll 8
  for (int kh = 0; kh < K; ++kh) {
#pragma GCC unroll 8
    for (int q = 0; q < S::kSlots; ++q) {
      const int kw = q * S::kStep + J;
      if (kw >= K) continue;
      V w = load(weight + (kh * K + kw) * kV);
      pin(w);
#pragma GCC unroll 8
      for (int r = 0; r < S::kRows; ++r) {
        V& sum = s.sums[r][(U - q + S::kSlots) % S::kSlots];
        sum = fma(v[r * S::kStep + kh], w, sum);
      }
    }
  }
}

// Group g: the kStep input columns that output column g is the first to read.  Output column
// g - kSlots + 1 is complete after it.
template <class S, int U, Rows R, class T>
FASTCONV_INLINE void window_group(const SlidingWindow<T>& t, WindowState<S, T>& s, const T* band,
                                  T* out, int64_t g, uint64_t rows) {
  constexpr int kV = kLanes<Accum<T>>;
#pragma GCC unroll 8
  for (int r = 0; r < S::kRows; ++r) s.sums[r][U] = t.bias;
  const int64_t column = g * S::kStep - t.pad;
  for (int64_t d = 0; d < t.plane_count; ++d) {
    const T* p = band + t.planes[d].plane + column * t.column_stride;
    constexpr int64_t kTaps = (S::kPairs ? S::kKernel + 1 : S::kKernel) * S::kKernel;
    const Accum<T>* weight = (S::kPairs ? t.pairs : t.weight) + t.planes[d].filter * kTaps * kV;
    if (static_cast<uint64_t>(column) < static_cast<uint64_t>(t.width)) {
      window_column<S, U, 0, R>(t, s, p, weight, rows);
    }
    if constexpr (S::kStep > 1) {
      if (static_cast<uint64_t>(column + 1) < static_cast<uint64_t>(t.width)) {
        window_column<S, U, 1, R>(t, s, p + t.column_stride, weight, rows);
      }
    }
  }
  const int64_t o = g - S::kSlots + 1;
  if (t.ahead != 0) {
    constexpr int kTo = S::kStep > 1 ? kToL2 : kToL1;
    const T* p = band + t.newest_plane + column * t.column_stride + t.ahead;
#pragma GCC unroll 32
    for (int i = 0; i < S::kInputRows; ++i) {
      __builtin_prefetch(p + i * t.row_stride, 0, kTo);
      if (S::kStep > 1) __builtin_prefetch(p + i * t.row_stride + t.column_stride, 0, kTo);
    }
    const T* y = out + o * t.y_column_stride + t.y_ahead;
#pragma GCC unroll 8
    for (int r = 0; r < S::kRows; ++r) __builtin_prefetch(y + r * t.y_row_stride, 1);
  }
  if (o < t.x0) return;
  T* y = out + o * t.y_column_stride;
  constexpr int kDone = (U + 1) % S::kSlots;
  Vec<Accum<T>> done[S::kRows];
#pragma GCC unroll 8
  for (int r = 0; r < S::kRows; ++r) done[r] = s.sums[r][kDone];
  finish_sums<T, Tile::kTight>(t.activation, done);
#pragma GCC unroll 8
  for (int r = 0; r < S::kRows; ++r) store(y + r * t.y_row_stride, done[r]);
}

// The band of kRows output rows that starts at row y and reads from input row `row` on.
template <class S, Rows R, class T>
void window_band(const SlidingWindow<T>& t, int64_t y, int64_t row, uint64_t rows) {
  WindowState<S, T> s;
  if constexpr (S::kHoldWeights) {
#pragma GCC unroll 16
    for (int i = 0; i < S::kHeld; ++i) {
      const int tap = S::kPairs ? S::kKernel + i : i;
      s.weight[i] = load((S::kPairs ? t.pairs : t.weight) + tap * kLanes<Accum<T>>);
      pin(s.weight[i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < S::kRows; ++r) {
#pragma GCC unroll 8
    for (int q = 0; q < S::kSlots; ++q) s.sums[r][q] = t.bias;
  }
  const T* band = t.x + row * t.row_stride;
  T* out = t.y + y * t.y_row_stride;
  const int64_t end = t.x1 + S::kSlots - 1;
  for (int64_t g = t.x0;;) {
    window_group<S, 0, R>(t, s, band, out, g, rows);
    if (++g == end) return;
    window_group<S, 1, R>(t, s, band, out, g, rows);
    if (++g == end) return;
    if constexpr (S::kSlots > 2) {
      window_group<S, 2, R>(t, s, band, out, g, rows);
      if (++g == end) return;
    }
    if constexpr (S::kSlots > 3) {
      window_group<S, 3, R>(t, s, band, out, g, rows);
      if (++g == end) return;
      window_group<S, 4, R>(t, s, band, out, g, rows);
      if (++g == end) return;
    }
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
