// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last correlation in the order of memory: filters of 2 to 8 taps along a line of pixels
// (causal and other one-dimensional filters, 1xk), and any small filter of a tensor that does not
// fit in L2.
//
// A tile is a few neighbouring output pixels, of which all channels are visited before the next
// ones.  A filter row without gaps, at stride 1, is one run of taps: its inputs are loaded once a
// tile and its weights stay in registers, so that 8 outputs of 4 taps take 11 loads, and 4 of
// weights, for 32 FMAs.  With a stride or dilation every tap is a run of its own, of one load for
// each FMA, which the wait for memory hides.  Of short runs a tile has two vectors of channels,
// which use up a cache line of 16-bit numbers: pixels that are a multiple of 4 KiB apart all fall
// into one set of L1, and what is left for later is evicted.
#pragma once

#include "ops/depthwise_conv/cpu_channels_scratch-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

template <int Kernel_>
struct LineShape {
  static constexpr int kKernel = Kernel_;  // taps of a run
  static constexpr int kVectors = kVectorRegisters >= 32 && kKernel <= 4 ? 2 : 1;
  static constexpr int kColumns = kVectorRegisters >= 32 ? 8 : 4;  // outputs of a tile
  static constexpr int kInputs = kColumns + kKernel - 1;           // that a run reads
  static constexpr uint32_t kAll = (1u << kInputs) - 1;
};

// The pixels of an output row, and what they are made of.
template <class T>
struct Line {
  const T* x;              // of the image, first channel of the block
  T* y;                    // of the output row
  const Accum<T>* weight;  // [vector][tap][lane]
  const Accum<T>* bias;    // [vector][lane]
  const RowTap* rows;      // filter rows that meet the image
  int64_t row_count;
  TapRun columns;         // the taps of a filter row; of a run without gaps only the first counts
  int64_t last_tap;       // of the filter where its taps are reversed; else zero
  int64_t column_stride;  // of the inputs of neighbouring outputs
  int64_t x_column_stride, y_column_stride;
  int64_t width, step, channels, weight_stride;
  Activation activation;
  bool prefetch;
  int64_t fresh;  // last runs of a filter row, whose pixels the ones before have not met
};

struct LineTile {
  static constexpr int kMostRuns = 32;
  int64_t column;  // of the first output
  int count;       // outputs that are wanted
  int runs;        // of a filter row
  // Bits say which inputs of a run are in the image.
  uint32_t inside[kMostRuns];
};

// What the next tile reads or writes of these channels, into L2: of all channels it would not fit
// in L1.
template <class S, int Channels, bool Write, class T>
FASTCONV_INLINE void prefetch_pixels(const T* at, int64_t column_stride) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  for (int q = 0; q < S::kColumns; ++q, at += column_stride) {
    for (int i = 0; i < Channels; i += kLine) __builtin_prefetch(at + i, Write, kToL2);
  }
}

// `Vectors` vectors of channels from `channel` on, number `v` of the block.
template <class S, int Vectors, bool Inside, class T>
FASTCONV_INLINE void line_vectors(const Line<T>& t, const LineTile& tile, int64_t channel,
                                  int64_t v) {
  using V = Vec<Accum<T>>;
  constexpr int K = S::kKernel, kV = kLanes<Accum<T>>;
  V sums[Vectors][S::kColumns];
  for_each<Vectors>(FASTCONV_EACH(u) {
    const V bias = load(t.bias + (v + u.value) * kV);
    for_each<S::kColumns>(FASTCONV_EACH(q) { sums[u.value][q.value] = bias; });
  });
  const int64_t first = (tile.column * t.step + t.columns.offset) * t.x_column_stride + channel;
  const int64_t apart = t.columns.offset_step * t.x_column_stride;
  for (int64_t row = 0; row < t.row_count; ++row) {
    const T* x = t.x + t.rows[row].row + first;
    int64_t tap = t.rows[row].weight + t.columns.tap;
    for (int run = 0; run < (K > 1 ? 1 : tile.runs); ++run, x += apart, tap += t.columns.tap_step) {
      const int64_t at = v * t.weight_stride + (t.last_tap != 0 ? t.last_tap - tap : tap) * kV;
      V held[Vectors][K];
      for_each<Vectors>(FASTCONV_EACH(u) {
        const Accum<T>* const weight = t.weight + at + u.value * t.weight_stride;
        for_each<K>(FASTCONV_EACH(k) { held[u.value][k.value] = load(weight + k.value * kV); });
      });
      for_each<S::kInputs>(FASTCONV_EACH(i) {
        constexpr int I = decltype(i)::value;
        // The same for all channels: a branch that is predicted.
        if (!Inside && !(tile.inside[run] >> I & 1)) return;
        for_each<Vectors>(FASTCONV_EACH(u) {
          V in = load(x + I * t.column_stride + u.value * kV);
          pin(in);
          for_each<K>(FASTCONV_EACH(k) {
            constexpr int q = I - decltype(k)::value;
            if constexpr (q >= 0 && q < S::kColumns) {
              V& sum = sums[u.value][q];
              sum = fma(in, held[u.value][k.value], sum);
            }
          });
        });
      });
    }
    if (t.prefetch) {
      const T* next = x - t.fresh * apart + S::kInputs * t.column_stride;
      for (int64_t run = 0; run < t.fresh; ++run, next += apart) {
        prefetch_pixels<S, Vectors * kV, false>(next, t.column_stride);
      }
    }
  }
  T* const y = t.y + tile.column * t.y_column_stride + channel;
  if (t.prefetch) {
    prefetch_pixels<S, Vectors * kV, true>(y + S::kColumns * t.y_column_stride, t.y_column_stride);
  }
  finish_sums<T, Tile::kEvery>(t.activation, sums);
  for_each<S::kColumns>(FASTCONV_EACH(q) {
    if (!Inside && q.value >= tile.count) return;
    for_each<Vectors>(FASTCONV_EACH(u) {
      store(y + q.value * t.y_column_stride + u.value * kV, sums[u.value][q.value]);
    });
  });
}

// All channels of a tile; the last vector overlaps the one before.  By value: stores cannot alias
// what no one else knows.
template <class S, bool Inside, class T>
void line_tile(const Line<T> t, const LineTile tile) {
  constexpr int kV = kLanes<Accum<T>>, kWide = S::kVectors * kV;
  int64_t c = 0;
  for (; c + kWide <= t.channels; c += kWide) {
    line_vectors<S, S::kVectors, Inside>(t, tile, c, c / kV);
  }
  for (; c < t.channels; c += kV) {
    line_vectors<S, 1, Inside>(t, tile, min_of(c, t.channels - kV), c / kV);
  }
}

// Output columns [x0, x1).  The last tile overlaps the one before where there is one.
template <int Kernel, class T>
void line_columns(const Line<T>& t, int64_t x0, int64_t x1) {
  using S = LineShape<Kernel>;
  LineTile tile;
  tile.runs = Kernel > 1 ? 1 : static_cast<int>(t.columns.count);
  for (int64_t x = x0; x < x1; x += S::kColumns) {
    tile.column = max_of(x0, min_of(x, x1 - S::kColumns));
    tile.count = static_cast<int>(min_of(S::kColumns, x1 - tile.column));
    bool inside = tile.count == S::kColumns;
    for (int run = 0; run < tile.runs; ++run) {
      const int64_t first = tile.column * t.step + t.columns.offset + run * t.columns.offset_step;
      tile.inside[run] = inputs_inside(first, S::kInputs, t.width, t.step);
      inside = inside && tile.inside[run] == S::kAll;
    }
    (inside ? line_tile<S, true, T> : line_tile<S, false, T>)(t, tile);
  }
}

// One task; x and y point at the image's origin.
template <class T>
void line_task(const Correlation& p, ChannelScratch<T>& s, const Correlation::Task& task,
               const T* x, T* y) {
  prepare_rows(p, task, s);
  const CorrelationAxis& width = p.axis[2];
  Line<T> t;
  t.x = x + task.c0;
  t.weight = s.weight;
  t.bias = s.bias;
  t.columns = width.taps(0);
  t.last_tap = p.reversed() ? p.taps - 1 : 0;
  t.x_column_stride = p.x_strides.sp[2];
  t.y_column_stride = p.y_strides.sp[2];
  t.step = width.step;
  t.column_stride = t.step * t.x_column_stride;
  t.width = width.in;
  t.channels = task.c1 - task.c0;
  t.weight_stride = p.taps * kLanes<Accum<T>>;
  t.activation = p.activation;
  t.prefetch = p.prefetch;
  // At a stride, taps of as many residues meet pixels of their own.
  t.fresh = p.line_run() > 1 ? 1 : min_of(width.kernel, width.step);
  using Columns = void(const Line<T>&, int64_t, int64_t);
  constexpr Columns* kColumns[Correlation::kMostLine] = {
      line_columns<1, T>, line_columns<2, T>, line_columns<3, T>, line_columns<4, T>,
      line_columns<5, T>, line_columns<6, T>, line_columns<7, T>, line_columns<8, T>};
  const int64_t per_row = p.axis[0].kernel * p.axis[1].kernel;
  int64_t i = 0;
  for (int64_t z = task.z0; z < task.z1; ++z) {
    for (int64_t row = task.y0; row < task.y1; ++row, ++i) {
      t.rows = s.rows + i * per_row;
      t.row_count = s.row_counts[i];
      t.y = y + task.c0 + z * p.y_strides.sp[0] + row * p.y_strides.sp[1];
      kColumns[p.line_run() - 1](t, task.x0, task.x1);
    }
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
