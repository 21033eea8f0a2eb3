// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Contiguous (NCHW-like) correlation with small square filters, stride 1 or 2: vector lanes are
// output columns, and a strip of up to 4 vectors rolls down the image.
//
// Each input row is loaded once, V + 1 vectors for V outputs; the taps of a filter row are shifts
// of their lanes.  The K output rows that it belongs to are under way in registers, and the oldest
// is complete after it.  3x3, 4 vectors: 36 FMAs for 5 loads, 8 shifts and 4 stores.
//
// At stride 2 a step takes two input rows, of 2 V + 1 vectors, and first parts even columns from
// odd ones.  3x3, 2 vectors: 18 FMAs for 10 loads, 10 permutations, 4 shifts and 2 stores.
//
// Images of one vector go in pairs of channels, which share the loop.
#pragma once

#include "common/transpose-inl.h"
#include "ops/depthwise_conv/cpu_direct-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// Shifts of lanes come with AVX2, whose registers suffice for the smallest filter.
template <class T>
constexpr bool kRolls = FASTCONV_LEVEL >= 1 && sizeof(Accum<T>) == 4;
constexpr bool kRollsLarge = kVectorRegisters >= 32;

#if FASTCONV_LEVEL >= 1

// Offsets of an input plane, and of the filter plane that meets it.
struct RollingPlane {
  int64_t x, weight;
};

template <class T>
struct RollingStrip {
  const T* x;           // row 0, column 0 of the channel's first plane
  const float* weight;  // [kd][kh][kw], in the order in which they meet the input
  const RollingPlane* planes;
  int64_t plane_count;
  int64_t row_stride, height, width;  // of the input
  int64_t pad_rows, pad;              // rows and columns before the image
  float bias[2];
  Activation activation;  // of sums in registers
  T* y;                   // row 0, column 0
  int64_t y_row_stride;
  int64_t x_channel, y_channel, weight_channel;  // from one channel of a pair to the other
  int64_t y0, y1, x0, x1;                        // outputs
  int64_t ahead, y_ahead;                        // elements by which to prefetch, or none
};

// How far a strip prefetches: to its place in the next plane, or this far down a higher one.  The
// hardware does not follow strides of a row.
constexpr int64_t kRowsAhead = 256;
inline int64_t elements_ahead(bool prefetch, int64_t row, int64_t rows) {
  return prefetch ? row * min_of(kRowsAhead, rows) : 0;
}
template <int Vectors, bool Write, class T>
FASTCONV_INLINE void prefetch_vectors(const T* p) {
  constexpr int kV = kLanes<float>, kLine = 64 / sizeof(T);
#pragma GCC unroll 8
  for (int i = 0; i < (Vectors * kV + kLine - 1) / kLine; ++i) {
    __builtin_prefetch(p + i * kLine, Write, kToL2);
  }
}

// A strip's kind at compile time: V vectors side by side, or of V channels.
template <int K_, int V_, bool Flat_, bool Paired_, int Step_>
struct RollingShape {
  static constexpr int K = K_, V = V_, kStep = Step_;
  static constexpr int kSlots = (K + kStep - 1) / kStep;  // output rows under way
  static constexpr int kLoads = kStep * V + 1;            // vectors of an input row
  static constexpr bool kFlat = Flat_, kPaired = Paired_;
  // With few vectors one sum per output would be a chain of K FMAs per row, longer than the row
  // takes (3x3, one vector: 12 cycles and 4.5), so it has several parts.
  static constexpr int S = V == 1                                         ? (K == 3 ? 3 : 2)
                           : kStep == 2 || (V == 2 && K == 3 && !Paired_) ? 2
                                                                          : 1;
  // 9 weights, or those of a pair, stay in registers beside the sums; more are broadcast from
  // memory, each for V FMAs.
  static constexpr bool kHold = Flat_ && K == 3 && kVectorRegisters >= 32;
  static constexpr int kFilters = Paired_ ? V : 1;
  static constexpr int kHeld = kHold ? kFilters * K * K : 1;
};

template <class R>
struct RollingState {
  VecF32 sums[R::kSlots][R::V][R::S];  // of the output rows under way
  VecF32 weight[R::kHeld];
  LaneRange<float> inside[R::kLoads];  // columns of the image, by vector
  LaneRange<float> last;               // outputs of the last vector
};

// Where a strip is.
template <class T>
struct RollingPlace {
  const T* x;   // the next input row, in the first plane of all
  int64_t row;  // its number
  T* y;
  int64_t rows;  // output rows that are complete; at first less than none
};

// The columns of an input row that `V` vectors of outputs start with, by the remainder of their
// number, and those that follow.
template <class R>
struct RollingRow {
  VecF32 low[R::kStep][R::V], high[R::kStep][R::V];
};

// Filter column `C` of input row number `J` of a step.  U is the slot of the output row that starts
// with the step.
template <class R, int U, int J, int C>
FASTCONV_INLINE void rolling_taps(RollingState<R>& s, const RollingRow<R>& row, const float* weight,
                                  int64_t weight_channel) {
  constexpr int K = R::K, V = R::V;
  VecF32 x[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    x[v] = shift_lanes<C / R::kStep>(row.low[C % R::kStep][v], row.high[C % R::kStep][v]);
    pin(x[v]);
  }
#pragma GCC unroll 8
  for (int kh = J; kh < K; kh += R::kStep) {
    VecF32 w;
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      if constexpr (R::kHold) {
        w = s.weight[(R::kPaired ? v * K * K : 0) + kh * K + C];
      } else if (R::kPaired || v == 0) {
        w = set1<float>(weight[(R::kPaired ? v * weight_channel : 0) + kh * K + C]);
        pin(w);
      }
      VecF32& sum = s.sums[(U - kh / R::kStep + R::kSlots) % R::kSlots][v][C % R::S];
      sum = fma(x[v], w, sum);
    }
  }
}

template <class R, int U, int J, int... C>
FASTCONV_INLINE void rolling_row(RollingState<R>& s, const RollingRow<R>& row, const float* weight,
                                 int64_t weight_channel, Ints<C...>) {
  (rolling_taps<R, U, J, C>(s, row, weight, weight_channel), ...);
}

// The vectors of an input row, and what follows each of them.
template <class R, class T>
FASTCONV_INLINE void rolling_load(const RollingStrip<T>& t, const RollingState<R>& s, const T* p,
                                  RollingRow<R>& row) {
  constexpr int V = R::V, kV = kLanes<float>, kStep = R::kStep;
  const auto part = [&row](int v, const VecF32* x, bool last) {
    if constexpr (kStep == 1) {
      row.low[0][v] = x[0];
      row.high[0][v] = x[1];
    } else {
      split_pairs(x[0], x[1], row.low[0][v], row.low[1][v]);
      if (!last) return;
      split_pairs(x[2], x[2], row.high[0][v], row.high[1][v]);
    }
  };
  if constexpr (R::kPaired) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      VecF32 x[kStep + 1];
#pragma GCC unroll 4
      for (int i = 0; i <= kStep; ++i) {
        x[i] = load_range(p + v * t.x_channel + i * kV, s.inside[i]);
      }
      pin(x[0]);
      part(v, x, true);
    }
  } else {
    VecF32 x[R::kLoads];
#pragma GCC unroll 16
    for (int i = 0; i < R::kLoads; ++i) {
      // Of a strip of several vectors all columns but those at its ends lie inside.
      const bool whole = i >= kStep && i + kStep < R::kLoads - 1;
      x[i] = whole ? load(p + i * kV) : load_range(p + i * kV, s.inside[i]);
      if (i < R::kLoads - 1) pin(x[i]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) part(v, x + v * kStep, v + 1 == V);
    if constexpr (kStep > 1) {
#pragma GCC unroll 8
      for (int v = 0; v + 1 < V; ++v) {
        row.high[0][v] = row.low[0][v + 1];
        row.high[1][v] = row.low[1][v + 1];
      }
    }
  }
}

// Input row number `J` of a step.
template <class R, int U, int J, class T>
FASTCONV_INLINE void rolling_input(const RollingStrip<T>& t, const RollingPlace<T>& at,
                                   RollingState<R>& s) {
  if (static_cast<uint64_t>(at.row + J) >= static_cast<uint64_t>(t.height)) return;
  for (int64_t d = 0; d < (R::kFlat ? 1 : t.plane_count); ++d) {
    RollingRow<R> row;
    rolling_load(t, s, at.x + (R::kFlat ? 0 : t.planes[d].x) + J * t.row_stride, row);
    rolling_row<R, U, J>(s, row, R::kFlat ? t.weight : t.weight + t.planes[d].weight,
                         t.weight_channel, Count<R::K>());
  }
}

// The input rows that an output row is the first to read.
template <class R, int U, class T>
FASTCONV_INLINE void rolling_step(const RollingStrip<T>& t, RollingPlace<T>& at,
                                  RollingState<R>& s) {
  constexpr int V = R::V;
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    s.sums[U][v][0] = set1<float>(t.bias[R::kPaired ? v : 0]);
#pragma GCC unroll 4
    for (int part = 1; part < R::S; ++part) s.sums[U][v][part] = VecF32{};
  }
  rolling_input<R, U, 0>(t, at, s);
  if constexpr (R::kStep > 1) rolling_input<R, U, 1>(t, at, s);
  if (t.ahead != 0) {
#pragma GCC unroll 2
    for (int j = 0; j < R::kStep; ++j) {
      prefetch_vectors<R::kStep * V, false>(at.x + t.ahead + j * t.row_stride);
    }
  }
  at.x += R::kStep * t.row_stride;
  at.row += R::kStep;
  if (++at.rows <= 0) return;
  VecF32 done[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    constexpr int kOldest = (U + 1) % R::kSlots;
    done[v] = s.sums[kOldest][v][0];
#pragma GCC unroll 4
    for (int part = 1; part < R::S; ++part) done[v] += s.sums[kOldest][v][part];
  }
  finish_sums<T, Tile::kTight>(t.activation, done);
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    T* y = at.y + v * (R::kPaired ? t.y_channel : kLanes<float>);
    if (!R::kPaired && v + 1 < V) {
      store(y, done[v]);
    } else {
      store_range(y, done[v], s.last);
    }
  }
  if (t.y_ahead != 0) prefetch_vectors<V, true>(at.y + t.y_ahead);
  at.y += t.y_row_stride;
}

// As many rows as there are slots, which are constants so.  False after the last one, which may
// fall within.
template <class R, class T, int... U>
FASTCONV_INLINE bool rolling_turn(const RollingStrip<T>& t, RollingPlace<T>& at, RollingState<R>& s,
                                  int64_t rows, Ints<U...>) {
  return ((rolling_step<R, U>(t, at, s), at.rows < rows) && ...);
}

template <class R, class T>
void rolling_strip(const RollingStrip<T>& strip) {
  constexpr int K = R::K, V = R::V, kV = kLanes<float>, kSide = R::kPaired ? 1 : V;
  constexpr int kStep = R::kStep;
  const RollingStrip<T> t = strip;  // a copy, which no store to y can change
  RollingState<R> s = {};
  if constexpr (R::kHold) {
    const float* weight = t.weight + t.planes->weight;
#pragma GCC unroll 2
    for (int f = 0; f < R::kFilters; ++f) {
#pragma GCC unroll 16
      for (int k = 0; k < K * K; ++k) {
        s.weight[f * K * K + k] = set1<float>(weight[f * t.weight_channel + k]);
        pin(s.weight[f * K * K + k]);
      }
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v <= kStep * kSide; ++v) {
    s.inside[v] = columns_inside<float>(kStep * t.x0 - t.pad + v * kV, t.width);
  }
  s.last = lane_range<float>(0, static_cast<int>(t.x1 - t.x0 - (kSide - 1) * kV));
  RollingPlace<T> at;
  at.row = kStep * t.y0 - t.pad_rows;
  at.x = t.x + (R::kFlat ? t.planes->x : 0) + at.row * t.row_stride + kStep * t.x0 - t.pad;
  at.y = t.y + t.y0 * t.y_row_stride + t.x0;
  at.rows = 1 - R::kSlots;
  while (rolling_turn(t, at, s, t.y1 - t.y0, Count<R::kSlots>())) {
  }
}

#endif

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
