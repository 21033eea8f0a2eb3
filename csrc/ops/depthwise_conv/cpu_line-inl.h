// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last correlation with filters of 2 to 8 taps along a line of pixels, at stride 1: causal
// and other one-dimensional filters, and 1xk.
//
// A tile is a few neighbouring output pixels, of which all channels are visited before the next
// ones, in the order of memory.  Each input is loaded once a tile, and the filters stay in
// registers: 8 outputs of 4 taps take 11 loads, and 4 of weights, for 32 FMAs.  Of short filters a
// tile has two vectors of channels, which use up a cache line of 16-bit numbers: pixels that are a
// multiple of 4 KiB apart all fall into one set of L1, and what is left for later is evicted.
#pragma once

#include "ops/depthwise_conv/cpu_channels_scratch-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

template <int Kernel_>
struct LineShape {
  static constexpr int kKernel = Kernel_;
  static constexpr int kVectors = kVectorRegisters >= 32 && kKernel <= 4 ? 2 : 1;
  static constexpr int kColumns = kVectorRegisters >= 32 ? 8 : 4;  // outputs of a tile
  static constexpr int kInputs = kColumns + kKernel - 1;
};

// The pixels of an output row, and what they are made of.
template <class T>
struct Line {
  const T* x;  // first pixel, first channel of the block
  T* y;
  const Accum<T>* weight;  // [vector][tap][lane], in input order
  const Accum<T>* bias;    // [vector][lane]
  int64_t column_stride, y_column_stride;
  int64_t width, pad;  // of x
  int64_t channels, weight_stride;
  Activation activation;
  bool prefetch;
};

// `Vectors` vectors of channels from `channel` on, number `v` of the block; `x` and `y` are the
// tile's first pixels.  Bits of `inside` say which inputs are in the image, `count` how many
// outputs are wanted.
template <class S, int Vectors, bool Inside, class T>
FASTCONV_INLINE void line_vectors(const Line<T>& t, const T* x, T* y, uint32_t inside, int count,
                                  int64_t channel, int64_t v) {
  using V = Vec<Accum<T>>;
  constexpr int K = S::kKernel, kV = kLanes<Accum<T>>;
  x += channel;
  y += channel;
  V sums[Vectors][S::kColumns], held[Vectors][K];
  for_each<Vectors>(FASTCONV_EACH(u) {
    const Accum<T>* const weight = t.weight + (v + u.value) * t.weight_stride;
    for_each<K>(FASTCONV_EACH(k) { held[u.value][k.value] = load(weight + k.value * kV); });
    const V bias = load(t.bias + (v + u.value) * kV);
    for_each<S::kColumns>(FASTCONV_EACH(q) { sums[u.value][q.value] = bias; });
  });
  for_each<S::kInputs>(FASTCONV_EACH(i) {
    constexpr int I = decltype(i)::value;
    // The same for all channels: a branch that is predicted.
    if (!Inside && !(inside >> I & 1)) return;
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
  if (t.prefetch) {
    // What the next tile reads and this one does not.
    constexpr int kLine = 64 / static_cast<int>(sizeof(T));
    const T* const next = x + S::kInputs * t.column_stride;
    for_each<S::kColumns>(FASTCONV_EACH(q) {
      for (int i = 0; i < Vectors * kV; i += kLine) {
        __builtin_prefetch(next + q.value * t.column_stride + i, 0, kToL2);
      }
    });
  }
  finish_sums<T, Tile::kEvery>(t.activation, sums);
  for_each<S::kColumns>(FASTCONV_EACH(q) {
    if (!Inside && q.value >= count) return;
    for_each<Vectors>(FASTCONV_EACH(u) {
      store(y + q.value * t.y_column_stride + u.value * kV, sums[u.value][q.value]);
    });
  });
}

// All channels of a tile; the last vector overlaps the one before.  By value: stores cannot alias
// what no one else knows.
template <class S, bool Inside, class T>
void line_tile(const Line<T> t, int64_t column, uint32_t inside, int count) {
  constexpr int kV = kLanes<Accum<T>>, kWide = S::kVectors * kV;
  const T* const x = t.x + (column - t.pad) * t.column_stride;
  T* const y = t.y + column * t.y_column_stride;
  int64_t c = 0;
  for (; c + kWide <= t.channels; c += kWide) {
    line_vectors<S, S::kVectors, Inside>(t, x, y, inside, count, c, c / kV);
  }
  for (; c < t.channels; c += kV) {
    line_vectors<S, 1, Inside>(t, x, y, inside, count, min_of(c, t.channels - kV), c / kV);
  }
}

// Output columns [x0, x1).  The last tile overlaps the one before where there is one.
template <int Kernel, class T>
void line_columns(const Line<T>& t, int64_t x0, int64_t x1) {
  using S = LineShape<Kernel>;
  constexpr uint32_t kAll = (1u << S::kInputs) - 1;
  for (int64_t x = x0; x < x1; x += S::kColumns) {
    const int64_t column = max_of(x0, min_of(x, x1 - S::kColumns));
    const int count = static_cast<int>(min_of(S::kColumns, x1 - column));
    const uint32_t inside = inputs_inside(column - t.pad, S::kInputs, t.width);
    (inside == kAll && count == S::kColumns ? line_tile<S, true, T>
                                            : line_tile<S, false, T>)(t, column, inside, count);
  }
}

// One task; x and y point at the image's origin.
template <class T>
void line_task(const Correlation& p, const ChannelScratch<T>& s, const Correlation::Task& task,
               const T* x, T* y) {
  const CorrelationAxis& width = p.axis[2];
  Line<T> t;
  t.weight = s.weight;
  t.bias = s.bias;
  t.column_stride = p.x_strides.sp[2];
  t.y_column_stride = p.y_strides.sp[2];
  t.width = width.in;
  t.pad = -width.taps(0).offset;
  t.channels = task.c1 - task.c0;
  t.weight_stride = p.taps * kLanes<Accum<T>>;
  t.activation = p.activation;
  t.prefetch = p.prefetch;
  using Columns = void(const Line<T>&, int64_t, int64_t);
  constexpr Columns* kColumns[Correlation::kMostLine - 1] = {
      line_columns<2, T>, line_columns<3, T>, line_columns<4, T>, line_columns<5, T>,
      line_columns<6, T>, line_columns<7, T>, line_columns<8, T>};
  for (int64_t z = task.z0; z < task.z1; ++z) {
    for (int64_t row = task.y0; row < task.y1; ++row) {
      t.x = x + task.c0 + z * p.x_strides.sp[0] + row * p.x_strides.sp[1];
      t.y = y + task.c0 + z * p.y_strides.sp[0] + row * p.y_strides.sp[1];
      kColumns[width.kernel - 2](t, task.x0, task.x1);
    }
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
