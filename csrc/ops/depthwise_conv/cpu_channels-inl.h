// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last correlation: vector lanes are channels.
//
// A tile is `Width` output columns x one vector of channels, all in registers.  Per filter row each
// input column is loaded once and meets every tap that needs it: for Width 14 and 3 taps that is
// 16 + 3 loads for 42 FMAs.  Border tiles skip the columns outside the image, one test per column.
#pragma once

#include "common/lanes-inl.h"
#include "common/pairs-inl.h"
#include "ops/depthwise_conv/cpu_epilogue-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

using namespace ::fastconv::FASTCONV_ISA;

// How a tap's input vector relates to the output channels' vector.
enum class Lanes { kSame, kExpanded };  // kExpanded: forward with fan_out > 1

// One (kd, kh) of the filter that lies inside the image.
struct RowTap {
  int64_t row;     // element offset of the input row from the image's start
  int64_t weight;  // first tap of the filter row, in taps
};

template <class T>
struct ChannelTile {
  const T* x;              // image n, first input channel of the vector, row 0, column 0
  const Accum<T>* weight;  // the vector's packed weights: [tap][lane]
  // The output row, and the band of rows that the tile goes down: their lists lie `rows_apart`
  // from each other.
  const RowTap* rows;
  int64_t row_count, rows_apart, band;
  const int64_t* row_counts;
  bool prefetch;
  // The input rows that the next output row adds, and where they begin after the last one listed.
  int64_t ahead_rows, row_stride, ahead;
  int64_t column_stride;  // elements between input columns
  int64_t width;          // input columns
  TapRun run;             // taps along the row
  int64_t step;           // input columns per output column
  bool finite;            // all weights
  Vec<Accum<T>> bias;
  Activation activation;  // of sums in registers
  int lanes;              // input channels to load, <= kLanes
  VecI32 expand;          // fan_out > 1: input lane of each output lane
};

template <bool Partial, class T>
FASTCONV_INLINE Vec<Accum<T>> load_lanes(const T* p, int lanes) {
  if constexpr (Partial) {
    return load_n(p, lanes);
  } else {
    return load(p);
  }
}

template <class A>
FASTCONV_INLINE Vec<A> expand_lanes(Vec<A> v, VecI32 index) {
  if constexpr (sizeof(A) == 8) {
    typedef int64_t VecI64 __attribute__((vector_size(kVectorBytes)));
    VecI64 wide;
    for (int i = 0; i < kLanes<A>; ++i) wide[i] = index[i];
    return __builtin_shuffle(v, wide);
  } else {
    return __builtin_shuffle(v, index);
  }
}

template <bool Partial, Lanes L, class T>
FASTCONV_INLINE Vec<Accum<T>> load_column(const ChannelTile<T>& t, const T* p) {
  Vec<Accum<T>> v = load_lanes<Partial>(p, t.lanes);
  if constexpr (L == Lanes::kExpanded) v = expand_lanes<Accum<T>>(v, t.expand);
  return v;
}

// `Taps` neighbouring taps of one filter row.  Step is the compile-time column step.
//
// A column adds to the sums of Taps neighbouring outputs, and so does the next one: 7 FMAs take 3.5
// cycles, and each waits 4 for the one before.  So parts of wide tiles take turns.  (7x7 on
// 8x64x28x28, one thread: 266 us in order, 243 by turns.)
template <int Taps, int Step, int Width, bool Edge, bool Partial, class T>
FASTCONV_INLINE void dense_taps(const ChannelTile<T>& t, const T* row, int64_t x,
                                const Accum<T>* weight, int64_t weight_step,
                                Vec<Accum<T>> (&acc)[Width]) {
  using A = Accum<T>;
  Vec<A> w[Taps];
  for_each<Taps>(FASTCONV_EACH(k) {
    w[k.value] = load(weight + k.value * weight_step);
    pin(w[k.value]);
  });
  const int64_t column_stride = t.column_stride;
  [[maybe_unused]] const uint64_t width = t.width;
  constexpr int kColumns = (Width - 1) * Step + Taps;
  constexpr int kParts = Width < 10 ? 1 : Taps >= 5 ? 2 : 3;
  constexpr int kPart = (kColumns + kParts - 1) / kParts;
  const T* p = row + x * column_stride;
  for_each<kPart>(FASTCONV_EACH(j) {
    for_each<kParts>(FASTCONV_EACH(part) {
      constexpr int i = part.value * kPart + j.value;
      // The second leaves out columns that no output uses.
      if constexpr (i < kColumns && (Taps >= Step || i % Step < Taps)) {
        if (Edge && static_cast<uint64_t>(x + i) >= width) return;
        Vec<A> v = load_column<Partial, Lanes::kSame>(t, p + part.value * kPart * column_stride);
        pin(v);
        for_each<Taps>(FASTCONV_EACH(k) {
          constexpr int o = i - k.value;
          if constexpr (o >= 0 && o % Step == 0 && o / Step < Width) {
            acc[o / Step] = multiply_add<T>(v, w[k.value], acc[o / Step]);
          }
        });
      }
    });
    p += column_stride;
  });
}

// What stands for a column outside the image, where weights are finite.
template <class T>
alignas(64) inline const T kZeroColumn[kLanes<Accum<T>>] = {};

// One tap, any step: one load per FMA.  Each tap of a dilated filter leaves out other columns,
// which no branch prediction follows: zeros take their place.  (3x3, dilation 2, on 8x64x28x28, one
// thread: 141 us with branches, 127 so.)
template <int Width, bool Edge, bool Zeros, bool Partial, Lanes L, class T>
FASTCONV_INLINE void single_tap(const ChannelTile<T>& t, const T* row, int64_t x,
                                const Accum<T>* weight, Vec<Accum<T>> (&acc)[Width]) {
  const Vec<Accum<T>> w = load(weight);
  const int64_t step = t.step, stride = step * t.column_stride;
  [[maybe_unused]] const uint64_t width = t.width;
  const T* p = row + x * t.column_stride;
  for_each<Width>(FASTCONV_EACH(o) {
    const bool outside = Edge && static_cast<uint64_t>(x + o.value * step) >= width;
    const T* column = Zeros && outside ? kZeroColumn<T> : p;
    if (Edge && Zeros) asm("" : "+r"(column));  // GCC otherwise branches
    if (Zeros || !outside) {
      acc[o.value] = multiply_add<T>(load_column<Partial, L>(t, column), w, acc[o.value]);
    }
    p += stride;
  });
}

// Accumulates the tile whose first output column is number `o` of the phase.  Step 0 stands for
// any step and any dilation.
template <int Step, int Width, bool Edge, bool Partial, Lanes L, class T>
FASTCONV_INLINE void accumulate(const ChannelTile<T>& t, int64_t o, Vec<Accum<T>> (&acc)[Width]) {
  constexpr int kV = kLanes<Accum<T>>;
  const int64_t weight_step = t.run.tap_step * kV;
  for_each<Width>(FASTCONV_EACH(i) { acc[i.value] = t.bias; });
  for (int64_t r = 0; r < t.row_count; ++r) {
    const T* row = t.x + t.rows[r].row;
    const Accum<T>* weight = t.weight + (t.rows[r].weight + t.run.tap) * kV;
    int64_t x = t.step * o + t.run.offset;
    int64_t left = t.run.count;
    if constexpr (Step == 0) {
      for (; left > 0; --left, x += t.run.offset_step, weight += weight_step) {
        if (Edge && t.finite) {
          single_tap<Width, Edge, true, Partial, L>(t, row, x, weight, acc);
        } else {
          single_tap<Width, Edge, false, Partial, L>(t, row, x, weight, acc);
        }
      }
    } else {
      while (left > 0) {
        int taps = 1;
        if (left >= 7) {
          dense_taps<7, Step, Width, Edge, Partial>(t, row, x, weight, weight_step, acc);
          taps = 7;
        } else if (left >= 5) {
          dense_taps<5, Step, Width, Edge, Partial>(t, row, x, weight, weight_step, acc);
          taps = 5;
        } else if (left >= 3) {
          dense_taps<3, Step, Width, Edge, Partial>(t, row, x, weight, weight_step, acc);
          taps = 3;
        } else {
          single_tap<Width, Edge, false, Partial, L>(t, row, x, weight, acc);
        }
        left -= taps;
        x += taps;
        weight += taps * weight_step;
      }
    }
  }
}

// Where a tile's outputs go: the tensor, or fp32 scratch when channels are summed afterwards.
template <class T>
struct ChannelSink {
  Result<T>* y;
  Accum<T>* sums;
  int64_t column_stride, row_stride;
  int lanes;
};

// What the tile below will read for the first time, and write.  The hardware does not see it
// coming: neighbouring columns are a pixel apart.  (8x144x56x56, 3x3: 1.8 -> 1.3 ms.)
template <int Width, class T>
FASTCONV_INLINE void prefetch_next_row(const ChannelTile<T>& t, int64_t o,
                                       const ChannelSink<T>& sink) {
  // A filter narrower than its step leaves columns out.
  const int64_t used = t.run.offset_step == 1 ? min_of(t.run.count, t.step) : t.step;
  const T* ahead = t.x + t.rows[t.row_count - 1].row + t.ahead;
  for (int64_t r = 0; r < t.ahead_rows; ++r) {
    const T* p = ahead + r * t.row_stride + o * t.step * t.column_stride;
    for (int64_t i = 0; i < Width; ++i, p += t.step * t.column_stride) {
      for (int64_t k = 0; k < used; ++k) __builtin_prefetch(p + k * t.column_stride);
    }
  }
  if (sink.sums != nullptr) return;
  const Result<T>* y = sink.y + sink.row_stride + o * sink.column_stride;
#pragma GCC unroll 16
  for (int i = 0; i < Width; ++i) __builtin_prefetch(y + i * sink.column_stride, 1);
}

template <int Step, int Width, bool Edge, bool Partial, Lanes L, class T>
void channel_tile(const ChannelTile<T>& t, int64_t o, const ChannelSink<T>& sink) {
  Vec<Accum<T>> acc[Width];
  accumulate<Step, Width, Edge, Partial, L>(t, o, acc);
  if (t.prefetch && t.row_count > 0) prefetch_next_row<Width>(t, o, sink);
  if (__builtin_expect(t.activation != Activation::kNone, false)) {
    Vec<Accum<T>> done[Width];  // so that only this branch has the sums in memory
    for_each<Width>(FASTCONV_EACH(i) { done[i.value] = acc[i.value]; });
    finish_sums<Result<T>, Tile::kEvery>(t.activation, done);
    for_each<Width>(FASTCONV_EACH(i) { acc[i.value] = done[i.value]; });
  }
  const int64_t column_stride = sink.column_stride;
  if (sink.sums != nullptr) {
    Accum<T>* sums = sink.sums + o * column_stride;
    for_each<Width>(FASTCONV_EACH(i) { store(sums + i.value * column_stride, acc[i.value]); });
    return;
  }
  Result<T>* y = sink.y + o * column_stride;
  const int lanes = sink.lanes;
  for_each<Width>(FASTCONV_EACH(i) {
    if constexpr (Partial) {
      store_n(y + i.value * column_stride, acc[i.value], lanes);
    } else {
      store(y + i.value * column_stride, acc[i.value]);
    }
  });
}

// A tile's columns go down the band's rows before the next columns: one row after the other skips
// the same columns then, as the branches' prediction expects.  (7x7 on 8x64x24x24, one thread: 214
// us row by row, 191 so.)
template <int Step, int Width, bool Partial, Lanes L, class T>
void channel_tile_at(ChannelTile<T> t, int64_t o, ChannelSink<T> sink) {
  const int64_t first = t.step * o + t.run.offset;
  const int64_t last = first + t.step * (Width - 1) + (t.run.count - 1) * t.run.offset_step;
  const bool edge = first < 0 || last >= t.width;
  for (int64_t i = 0; i < t.band; ++i, t.rows += t.rows_apart, sink.y += sink.row_stride) {
    t.row_count = t.row_counts[i];
    (edge ? channel_tile<Step, Width, true, Partial, L, T>
          : channel_tile<Step, Width, false, Partial, L, T>)(t, o, sink);
  }
}

// Tiles of one width over outputs [o, end), at least one tile; the last one overlaps the one
// before.
template <int Step, int Width, bool Partial, Lanes L, class T>
void channel_tiles(const ChannelTile<T>& t, int64_t o, int64_t end, const ChannelSink<T>& sink) {
  for (; o < end; o += Width) {
    channel_tile_at<Step, Width, Partial, L>(t, min_of(o, end - Width), sink);
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
