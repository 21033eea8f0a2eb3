// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last 3x3 correlation of tensors that come from L3 or memory: tiles of a few output
// pixels, all channels of one before the next.
//
// A window (cpu_window-inl.h) takes one vector of channels down a band, whose lines lie a pixel
// apart and a row apart: of large pixels they fall into few sets of the caches, and no hardware
// prefetches them.  Here the rows that a tile reads are read in order, and what the tile eight
// columns on will read is brought into L2: of all channels, it would not fit in L1.  At stride 1 a
// tile of 4x2 pixels (2x2 with few registers) does 72 FMAs for 24 loads and 9 of weights; at stride
// 2 one of 2x2 takes 25 and 18 for 36 FMAs, which the wait for memory hides.  Tensors in L2 are
// faster with the window.  What is written to large ones is brought into L2 as well: stores wait
// for their lines one after another.  (In fp32, two threads of a Zen 4: stride 1, 1x128x112x112 570
// -> 250 us; stride 2, 8x144x56x56 890 -> 450.)
#pragma once

#include "ops/depthwise_conv/cpu_window-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

template <int Step_>
struct Stream {
  static constexpr int kKernel = 3, kStep = Step_;
  static constexpr bool kHoldWeights = kStep == 1 && kVectorRegisters >= 32;
  static constexpr int kRows = kHoldWeights ? 4 : 2, kColumns = 2;  // outputs of a tile
  static constexpr int kInputRows = (kRows - 1) * kStep + kKernel;
  static constexpr int kInputColumns = (kColumns - 1) * kStep + kKernel;
};

// Where a tile lies.
struct StreamTile {
  int64_t x, y;                  // elements from the first channel on
  int64_t ahead;                 // the same of what is prefetched
  int rows, columns;             // outputs
  uint32_t rows_in, columns_in;  // inputs inside the image, as masks
};

// One vector of channels of a tile, which reads `columns` elements from the first column of a row.
template <class S, bool Inside, class T>
FASTCONV_INLINE void stream_vector(const SlidingWindow<T>& t, const StreamTile& tile,
                                   const int64_t (&columns)[S::kInputColumns], int64_t channel,
                                   const Accum<T>* filter, Vec<Accum<T>> bias) {
  using V = Vec<Accum<T>>;
  constexpr int K = S::kKernel, kV = kLanes<Accum<T>>;
  V sums[S::kRows][S::kColumns];
  for_each<S::kRows>(FASTCONV_EACH(r) {
    for_each<S::kColumns>(FASTCONV_EACH(q) { sums[r.value][q.value] = bias; });
  });
  for (int64_t d = 0; d < t.plane_count; ++d) {
    const T* row = t.x + tile.x + t.planes[d].plane + channel;
    const Accum<T>* const weight = filter + t.planes[d].filter * K * K * kV;
    V held[S::kHoldWeights ? K * K : 1];
    if constexpr (S::kHoldWeights) {
      for_each<K * K>(FASTCONV_EACH(k) { held[k.value] = load(weight + k.value * kV); });
    }
    for_each<S::kInputRows>(FASTCONV_EACH(i) {
      const T* const from = row;
      row += t.row_stride;
      // The same for all channels: a branch that is predicted.
      if (!Inside && !(tile.rows_in >> i.value & 1)) return;
      V in[S::kInputColumns];
      for_each<S::kInputColumns>(FASTCONV_EACH(j) {
        constexpr int J = decltype(j)::value;
        in[J] = Inside ? load(from + J * t.column_stride)
                       : load_if((tile.columns_in >> J & 1) != 0, from + columns[J]);
        pin(in[J]);
      });
      for_each<S::kRows>(FASTCONV_EACH(r) {
        constexpr int kh = decltype(i)::value - decltype(r)::value * S::kStep;
        if constexpr (kh >= 0 && kh < K) {
          for_each<K>(FASTCONV_EACH(kw) {
            constexpr int kTap = kh * K + decltype(kw)::value;
            V w;
            if constexpr (S::kHoldWeights) {
              w = held[kTap];
            } else {
              w = load(weight + kTap * kV);
              pin(w);
            }
            for_each<S::kColumns>(FASTCONV_EACH(q) {
              V& sum = sums[r.value][q.value];
              sum = fma(in[q.value * S::kStep + kw.value], w, sum);
            });
          });
        }
      });
    });
  }
  finish_sums<T, Tile::kTight>(t.activation, sums);
  T* const y = t.y + tile.y + channel;
  for_each<S::kRows>(FASTCONV_EACH(r) {
    for_each<S::kColumns>(FASTCONV_EACH(q) {
      if (Inside || (r.value < tile.rows && q.value < tile.columns)) {
        store(y + r.value * t.y_row_stride + q.value * t.y_column_stride, sums[r.value][q.value]);
      }
    });
  });
}

// All vectors of channels of a tile; the last one overlaps the one before.  By value: stores cannot
// alias what no one else knows.
template <class S, bool Inside, class T>
void stream_tile(const WindowBlock<T>& b, const StreamTile tile) {
  constexpr int kV = kLanes<Accum<T>>;
  const SlidingWindow<T> t = b.window;
  // What is outside is masked, but the address stays inside: suppressing a fault costs more than
  // the rest of the tile.
  int64_t columns[S::kInputColumns];
  const int some = __builtin_ctz(tile.columns_in);
  for (int j = 0; j < S::kInputColumns; ++j) {
    columns[j] = (tile.columns_in >> j & 1 ? j : some) * t.column_stride;
  }
  for (int64_t c = 0, v = 0; c < b.channels; c += kV, ++v) {
    const int64_t at = min_of(c, b.channels - kV);
    stream_vector<S, Inside>(t, tile, columns, at, t.weight + v * b.weight_stride,
                             load(b.bias + v * kV));
    const T* row = t.x + tile.ahead + at;
    for (int i = 0; i < S::kInputRows; ++i, row += t.row_stride) {
      for_each<S::kColumns * S::kStep>(
          FASTCONV_EACH(j) { __builtin_prefetch(row + j.value * t.column_stride, 0, kToL2); });
    }
    const T* out = t.y + tile.y + t.y_ahead + at;
    for (int i = 0; t.y_ahead != 0 && i < S::kRows; ++i, out += t.y_row_stride) {
      for_each<S::kColumns>(
          FASTCONV_EACH(j) { __builtin_prefetch(out + j.value * t.y_column_stride, 1, kToL2); });
    }
  }
}

// Bits of `count` inputs from `at` on, `step` apart, that are inside.
inline uint32_t inputs_inside(int64_t at, int count, int64_t size, int64_t step = 1) {
  uint32_t mask = 0;
  for (int i = 0; i < count; ++i, at += step) mask |= uint32_t{at >= 0 && at < size} << i;
  return mask;
}

// Output rows [first, end), with finite weights.  The last tiles of rows and columns overlap those
// before where there are any.
template <int Step, class T>
void stream_rows(const WindowBlock<T>& b, int64_t first, int64_t end) {
  using S = Stream<Step>;
  constexpr uint32_t kAllRows = (1u << S::kInputRows) - 1;
  constexpr uint32_t kAllColumns = (1u << S::kInputColumns) - 1;
  const SlidingWindow<T>& t = b.window;
  const int64_t top = (first * S::kStep - t.pad_rows) * t.row_stride;
  for (int64_t y = first; y < end; y += S::kRows) {
    const int64_t y0 = max_of(first, min_of(y, end - S::kRows));
    const int64_t row = y0 * S::kStep - t.pad_rows;
    const int64_t below = (row + S::kRows * S::kStep) * t.row_stride;
    const int64_t next = t.plane_ahead != 0 && y + S::kRows >= end ? top + t.plane_ahead : below;
    StreamTile tile;
    tile.rows = static_cast<int>(min_of(S::kRows, end - y0));
    for (int64_t x = t.x0; x < t.x1; x += S::kColumns) {
      const int64_t x0 = max_of(t.x0, min_of(x, t.x1 - S::kColumns));
      const int64_t column = x0 * S::kStep - t.pad;
      tile.columns = static_cast<int>(min_of(S::kColumns, t.x1 - x0));
      tile.rows_in = inputs_inside(row, S::kInputRows, t.height);
      tile.columns_in = inputs_inside(column, S::kInputColumns, t.width);
      if (tile.columns_in == 0) {  // padding alone: no row is read
        tile.rows_in = 0;
        tile.columns_in = 1;
      }
      tile.x = row * t.row_stride + column * t.column_stride;
      tile.y = y0 * t.y_row_stride + x0 * t.y_column_stride;
      // Where the row ends, the first columns of the next tiles.
      const int64_t on = column + kColumnsAhead;
      tile.ahead = t.newest_plane + (on < t.width ? row * t.row_stride + on * t.column_stride
                                                  : next + (on - t.width) * t.column_stride);
      const bool inside = tile.rows == S::kRows && tile.columns == S::kColumns &&
                          tile.rows_in == kAllRows && tile.columns_in == kAllColumns;
      (inside ? stream_tile<S, true, T> : stream_tile<S, false, T>)(b, tile);
      finish_pixels<Tile::kTight>(*b.problem, t.y + tile.y, tile.rows, tile.columns, b.channels);
    }
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
