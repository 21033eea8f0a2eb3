// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What a thread keeps for a channels-last correlation: packed weights, and the geometry of a task.
#pragma once

#include "common/transpose-inl.h"
#include "ops/depthwise_conv/cpu_channels-inl.h"
#include "ops/depthwise_conv/cpu_scatter-inl.h"
#include "ops/depthwise_conv/cpu_stream-inl.h"
#include "ops/depthwise_conv/cpu_window_rows-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// The outputs of one column phase within a task.
struct ColumnPhase {
  TapRun run;
  int64_t first, last;
};

// Scratch of one thread: packed weights and biases of a channel block; the task's geometry, kept
// from task to task while it stays the same; and one output row of sums before its channels are
// added (fan_in > 1) or take turns (planar).
template <class T>
struct ChannelScratch {
  using A = Accum<T>;
  A* weight;            // [vector][tap][lane]
  A* pairs;             // a window's, by pairs: [vector][kd][kh + 1][kw][lane]
  A* bias;              // [vector][lane]
  RowTap* rows;         // [output row of the task][kd * kh]
  int64_t* row_counts;  // [output row of the task]
  ColumnPhase* phases;
  A* sums;           // [column][channel of x in the block]; planar: [filter][column][lane]
  PlaneTap* planes;  // [kd]
  bool finite;       // all of the block's weights
  Correlation::Task geometry{};

  // Vectors that cover a channel block; with fan_in > 1 they run over the channels of x.
  static int64_t vectors(const Correlation& p) {
    const int64_t most =
        min_of(p.channel_block + (p.overlaps() ? p.unit() - 1 : 0), p.out_channels);
    if (p.planar) return ceil_div(most / p.fan_out, kLanes<A>) * p.fan_out;
    return ceil_div(most * p.fan_in, kLanes<A>);
  }
  static int64_t pair_taps(const Correlation& p) {
    return p.axis[0].kernel * (p.axis[1].kernel + 1) * p.axis[2].kernel;
  }
  static int64_t bytes(const Correlation& p) { return ChannelScratch().carve(p, nullptr); }

  int64_t carve(const Correlation& p, char* base) {
    char* at = base;
    const auto take = [&at](int64_t size) {
      char* piece = at;
      at += round_up(size, 64);
      return piece;
    };
    const int64_t lanes = vectors(p) * kLanes<A>;
    // Windows need no lists of rows, volumes those of one plane.
    const int64_t task_planes = p.window ? 0 : p.volume ? 1 : p.plane_chunk;
    const int64_t task_rows = task_planes * p.row_chunk;
    const int64_t planes_listed = p.volume ? 1 : p.axis[0].kernel;
    weight = reinterpret_cast<A*>(take(lanes * p.taps * sizeof(A)));
    const bool paired = kHasPairs<T> && p.window;
    pairs = reinterpret_cast<A*>(take(paired ? lanes * pair_taps(p) * sizeof(A) : 0));
    bias = reinterpret_cast<A*>(take(lanes * sizeof(A)));
    rows = reinterpret_cast<RowTap*>(
        take(task_rows * planes_listed * p.axis[1].kernel * sizeof(RowTap)));
    row_counts = reinterpret_cast<int64_t*>(take(task_rows * sizeof(int64_t)));
    phases = reinterpret_cast<ColumnPhase*>(take(p.axis[2].phases * sizeof(ColumnPhase)));
    const int64_t summed = p.planar ? p.fan_out * kLanes<A> : p.fan_in > 1 ? lanes : 0;
    sums = reinterpret_cast<A*>(take(summed * p.column_chunk * sizeof(A)));
    planes = reinterpret_cast<PlaneTap*>(take(p.axis[0].kernel * sizeof(PlaneTap)));
    return at - base;
  }
};

// First channel of vector `v` of a block.  The last vector overlaps the one before where it can: to
// compute some channels twice takes less than masks.  (8x40x56x56, 7x7: 442 -> 367 us.)
inline int64_t vector_start(const Correlation& p, int64_t v, int64_t lanes, int64_t channels) {
  const bool tiles = !p.window && !p.volume && p.fan_in == 1 && p.fan_out == 1 && channels >= lanes;
  return p.overlaps() || tiles ? min_of(v * lanes, channels - lanes) : v * lanes;
}

// Weights and biases of `count` filters from `first` on; missing lanes are zero.  Planar vectors
// take each fan_out-th filter.  For a window or a line the taps of backward-data are reversed: they
// then meet the input in its own order.  Returns whether all weights are finite.
template <class T, class Scratch>
bool pack_weights(const Correlation& p, int64_t first, int64_t count, const Scratch& s) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  const bool reversed = p.reversed();
  Vec<A> zeros{};
  const int64_t step = p.planar ? p.fan_out : 1, channels = count / step;
  const int64_t vectors = ceil_div(channels, kV) * step;
  for (int64_t v = 0; v < vectors; ++v) {
    const int64_t start = vector_start(p, v / step, kV, channels);
    const int64_t filter = first + start * step + v % step;
    const int lanes = static_cast<int>(min_of(kV, channels - start));
    A* packed = s.weight + v * p.taps * kV;
    gather_transposed<T>(reversed ? packed + (p.taps - 1) * kV : packed, reversed ? -kV : kV,
                         static_cast<const T*>(p.weight) + filter * p.taps, step * p.taps, lanes,
                         p.taps);
    for (int64_t tap = 0; tap < p.taps; ++tap) zeros += load(packed + tap * kV) * A{0};
    const T* bias = p.bias == nullptr ? nullptr : static_cast<const T*>(p.bias) + filter;
    store(s.bias + v * kV, Vec<A>{});
    for (int i = 0; bias != nullptr && i < lanes; ++i)
      s.bias[v * kV + i] = to_float(bias[i * step]);
  }
  return reduce_add<A>(zeros) == 0;
}

#if FASTCONV_LEVEL >= 3
// The packed weights of `vectors` vectors once more, as windows meet them by pairs of rows.
inline void pair_window_weights(const Correlation& p, int64_t vectors,
                                const ChannelScratch<bf16>& s) {
  const int64_t rows = p.axis[1].kernel, row = p.axis[2].kernel * kLanes<float>;
  float* to = s.pairs;
  for (int64_t plane = 0; plane < vectors * p.axis[0].kernel; ++plane) {
    for (int64_t i = -1; i < rows; ++i, to += row) {
      pair_rows(s.weight + plane * rows * row, rows, row, p.axis[2].kernel, i, to);
    }
  }
}
#endif

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
