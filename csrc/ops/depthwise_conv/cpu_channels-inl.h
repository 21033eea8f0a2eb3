// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last correlation: vector lanes are channels.
//
// A tile is `Width` output columns x one vector of channels, all in registers.  Per filter row each
// input column is loaded once and meets every tap that needs it: for Width 14 and 3 taps that is
// 16 + 3 loads for 42 FMAs.  Border tiles skip the columns outside the image, one test per column.
#pragma once

#include "common/simd-inl.h"
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
  const RowTap* rows;
  int64_t row_count;
  bool prefetch;
  // The input rows that the next output row adds.
  const T* ahead;
  int64_t ahead_rows, row_stride;
  int64_t column_stride;  // elements between input columns
  int64_t width;          // input columns
  TapRun run;             // taps along the row
  int64_t step;           // input columns per output column
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
// cycles, and each waits 4 for the one before.  So several parts of the row take turns.  (7x7 on
// 8x384x14x14: 200 us in order, 185 by turns; 5x51 on 128x28x28 119 and 97.)
template <int Taps, int Step, int Width, bool Edge, bool Partial, Lanes L, class T>
FASTCONV_INLINE void dense_taps(const ChannelTile<T>& t, const T* row, int64_t x,
                                const Accum<T>* weight, int64_t weight_step,
                                Vec<Accum<T>> (&acc)[Width]) {
  using A = Accum<T>;
  Vec<A> w[Taps];
#pragma GCC unroll 8
  for (int k = 0; k < Taps; ++k) {
    w[k] = load(weight + k * weight_step);
    pin(w[k]);
  }
  const int64_t column_stride = t.column_stride;
  [[maybe_unused]] const uint64_t width = t.width;
  constexpr int kColumns = (Width - 1) * Step + Taps;
  constexpr int kParts = kColumns < 2 * Taps ? 1 : Taps * 2 >= 10 * Step ? 2 : 3;
  constexpr int kPart = (kColumns + kParts - 1) / kParts;
  const T* p = row + x * column_stride;
#pragma GCC unroll 64
  for (int j = 0; j < kPart; ++j, p += column_stride) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const int i = part * kPart + j;
      if (i >= kColumns) continue;
      if (Taps < Step && i % Step >= Taps) continue;  // a column that no output uses
      if (Edge && static_cast<uint64_t>(x + i) >= width) continue;
      Vec<A> v = load_column<Partial, L>(t, p + part * kPart * column_stride);
      pin(v);
#pragma GCC unroll 8
      for (int k = 0; k < Taps; ++k) {
        const int o = i - k;
        if (o >= 0 && o % Step == 0 && o / Step < Width) {
          acc[o / Step] = fma(v, w[k], acc[o / Step]);
        }
      }
    }
  }
}

// One tap, any step: one load per FMA.
template <int Width, bool Edge, bool Partial, Lanes L, class T>
FASTCONV_INLINE void single_tap(const ChannelTile<T>& t, const T* row, int64_t x,
                                const Accum<T>* weight, Vec<Accum<T>> (&acc)[Width]) {
  const Vec<Accum<T>> w = load(weight);
  const int64_t step = t.step, stride = step * t.column_stride;
  [[maybe_unused]] const uint64_t width = t.width;
  const T* p = row + x * t.column_stride;
#pragma GCC unroll 16
  for (int o = 0; o < Width; ++o, p += stride) {
    if (Edge && static_cast<uint64_t>(x + o * step) >= width) continue;
    acc[o] = fma(load_column<Partial, L>(t, p), w, acc[o]);
  }
}

// Accumulates the tile whose first output column is number `o` of the phase.  Step 0 stands for
// any step and any dilation.
template <int Step, int Width, bool Edge, bool Partial, Lanes L, class T>
FASTCONV_INLINE void accumulate(const ChannelTile<T>& t, int64_t o, Vec<Accum<T>> (&acc)[Width]) {
  constexpr int kV = kLanes<Accum<T>>;
  const int64_t weight_step = t.run.tap_step * kV;
#pragma GCC unroll 16
  for (int i = 0; i < Width; ++i) acc[i] = t.bias;
  for (int64_t r = 0; r < t.row_count; ++r) {
    const T* row = t.x + t.rows[r].row;
    const Accum<T>* weight = t.weight + (t.rows[r].weight + t.run.tap) * kV;
    int64_t x = t.step * o + t.run.offset;
    int64_t left = t.run.count;
    if constexpr (Step == 0) {
      for (; left > 0; --left, x += t.run.offset_step, weight += weight_step) {
        single_tap<Width, Edge, Partial, L>(t, row, x, weight, acc);
      }
    } else {
      while (left > 0) {
        int taps = 1;
        if (left >= 7) {
          dense_taps<7, Step, Width, Edge, Partial, L>(t, row, x, weight, weight_step, acc);
          taps = 7;
        } else if (left >= 5) {
          dense_taps<5, Step, Width, Edge, Partial, L>(t, row, x, weight, weight_step, acc);
          taps = 5;
        } else if (left >= 3) {
          dense_taps<3, Step, Width, Edge, Partial, L>(t, row, x, weight, weight_step, acc);
          taps = 3;
        } else {
          single_tap<Width, Edge, Partial, L>(t, row, x, weight, acc);
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
  T* y;
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
  for (int64_t r = 0; r < t.ahead_rows; ++r) {
    const T* p = t.ahead + r * t.row_stride + o * t.step * t.column_stride;
    for (int64_t i = 0; i < Width; ++i, p += t.step * t.column_stride) {
      for (int64_t k = 0; k < used; ++k) __builtin_prefetch(p + k * t.column_stride);
    }
  }
  if (sink.sums != nullptr) return;
  const T* y = sink.y + sink.row_stride + o * sink.column_stride;
#pragma GCC unroll 16
  for (int i = 0; i < Width; ++i) __builtin_prefetch(y + i * sink.column_stride, 1);
}

template <int Step, int Width, bool Edge, bool Partial, Lanes L, class T>
void channel_tile(const ChannelTile<T>& t, int64_t o, const ChannelSink<T>& sink) {
  Vec<Accum<T>> acc[Width];
  accumulate<Step, Width, Edge, Partial, L>(t, o, acc);
  if (t.prefetch) prefetch_next_row<Width>(t, o, sink);
  finish_sums<T, Tile::kEvery>(t.activation, acc);
#pragma GCC unroll 16
  for (int i = 0; i < Width; ++i) {
    const int64_t at = (o + i) * sink.column_stride;
    if (sink.sums != nullptr) {
      store(sink.sums + at, acc[i]);
    } else if constexpr (Partial) {
      store_n(sink.y + at, acc[i], sink.lanes);
    } else {
      store(sink.y + at, acc[i]);
    }
  }
}

template <int Step, int Width, bool Partial, Lanes L, class T>
FASTCONV_INLINE void channel_tile_at(const ChannelTile<T>& t, int64_t o,
                                     const ChannelSink<T>& sink) {
  const int64_t first = t.step * o + t.run.offset;
  const int64_t last = first + t.step * (Width - 1) + (t.run.count - 1) * t.run.offset_step;
  if (first >= 0 && last < t.width) {
    channel_tile<Step, Width, false, Partial, L>(t, o, sink);
  } else {
    channel_tile<Step, Width, true, Partial, L>(t, o, sink);
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

// Outputs [o, end) of a phase.  Tile widths divide the widths of the usual networks (multiples of
// 7, and with dense taps of 12 and 16, whichever computes fewest columns twice).
template <int Step, bool Partial, Lanes L, class T>
void channel_row(const ChannelTile<T>& t, int64_t o, int64_t end, const ChannelSink<T>& sink) {
  constexpr int kWide = kVectorRegisters >= 32 ? 14 : 7;
  const int64_t count = end - o;
  if constexpr (Step == 1 && !Partial && kWide == 14) {
    const int64_t sevens = round_up(count, 7);  // 14 columns or 7 each
    if (count >= 16 && round_up(count, 16) < sevens) {
      return channel_tiles<Step, 16, Partial, L>(t, o, end, sink);
    }
    if (count >= 12 && round_up(count, 12) < sevens) {
      return channel_tiles<Step, 12, Partial, L>(t, o, end, sink);
    }
  }
  for (; end - o >= kWide; o += kWide) channel_tile_at<Step, kWide, Partial, L>(t, o, sink);
  if (kWide > 7 && end - o > 7 && count >= kWide) {
    channel_tile_at<Step, kWide, Partial, L>(t, end - kWide, sink);
  } else if (count >= 7) {
    channel_tiles<Step, 7, Partial, L>(t, o, end, sink);
  } else if (count >= 3) {
    channel_tiles<Step, 3, Partial, L>(t, o, end, sink);
  } else {
    channel_tiles<Step, 1, Partial, L>(t, o, end, sink);
  }
}

template <int Step, Lanes L, class T>
void channel_row_masked(const ChannelTile<T>& t, int64_t o, int64_t end,
                        const ChannelSink<T>& sink) {
  constexpr int kV = kLanes<Accum<T>>;
  if (t.lanes < kV || sink.lanes < kV) {
    channel_row<Step, true, L>(t, o, end, sink);
  } else {
    channel_row<Step, false, L>(t, o, end, sink);
  }
}

template <Lanes L, class T>
void channel_row_of(const ChannelTile<T>& t, int64_t o, int64_t end, const ChannelSink<T>& sink) {
  const bool dense = t.run.offset_step == 1 || t.run.count == 1;
  if (dense && t.step == 1) {
    channel_row_masked<1, L>(t, o, end, sink);
  } else if (dense && t.step == 2) {
    channel_row_masked<2, L>(t, o, end, sink);
  } else {
    channel_row_masked<0, L>(t, o, end, sink);
  }
}

template <class T>
void channel_row_dispatch(const ChannelTile<T>& t, int64_t o, int64_t end,
                          const ChannelSink<T>& sink, bool expanded) {
  (expanded ? channel_row_of<Lanes::kExpanded, T> : channel_row_of<Lanes::kSame, T>)(t, o, end,
                                                                                     sink);
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
