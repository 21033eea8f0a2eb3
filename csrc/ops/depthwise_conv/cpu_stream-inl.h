// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last 3x3 correlation at stride 2 of tensors that come from L3 or memory: tiles of 2x2
// output pixels, all channels of one before the next.
//
// A window (cpu_window-inl.h) takes one vector of channels down a band, whose lines lie a pixel
// apart and a row apart: of large pixels they fall into few sets of the caches, and no hardware
// prefetches them.  Here five rows are read in order.  That costs 18 more loads of weights for 36
// FMAs, which L1 and the wait for memory hide.  (1x384x96x96 in fp32, one thread: 600 -> 400 us;
// tensors in L2 are faster with the window.)
#pragma once

#include "ops/depthwise_conv/cpu_window-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

struct Stream {
  static constexpr int kKernel = 3, kStep = 2, kOutputs = 2;  // rows, and columns, of a tile
  static constexpr int kInputs = (kOutputs - 1) * kStep + kKernel;
  static constexpr int kColumnsAhead = 8;
};

// Where a tile lies.
struct StreamTile {
  int64_t x, y;                  // elements from the first channel on
  int rows, columns;             // outputs
  uint32_t rows_in, columns_in;  // inputs inside the image, as masks
};

// All vectors of channels of a tile.
template <bool Inside, class T>
void stream_tile(const WindowBlock<T>& b, const StreamTile& tile) {
  using V = Vec<Accum<T>>;
  constexpr int K = Stream::kKernel, N = Stream::kOutputs, kIn = Stream::kInputs;
  constexpr int kV = kLanes<Accum<T>>;
  const SlidingWindow<T>& t = b.window;
  const int64_t row_stride = t.row_stride, column_stride = t.column_stride;
  const int64_t y_row_stride = t.y_row_stride, y_column_stride = t.y_column_stride;
  const int64_t ahead = Inside ? t.newest_plane + t.ahead : 0, last = b.channels - kV;
  for (int64_t c = 0, v = 0; c < b.channels; c += kV, ++v) {
    const int64_t at = min_of(c, last);  // the last vector overlaps the one before
    V sums[N][N];
    const V bias = load(b.bias + v * kV);
#pragma GCC unroll 4
    for (int r = 0; r < N; ++r) {
#pragma GCC unroll 4
      for (int q = 0; q < N; ++q) sums[r][q] = bias;
    }
    const T* const x = t.x + tile.x + at;
    const Accum<T>* const filter = t.weight + v * b.weight_stride;
    for (int64_t d = 0; d < t.plane_count; ++d) {
      const T* row = x + t.planes[d].plane;
      const Accum<T>* const weight = filter + t.planes[d].weight * kV;
#pragma GCC unroll 8
      for (int i = 0; i < kIn; ++i, row += row_stride) {
        V in[kIn];
#pragma GCC unroll 8
        for (int j = 0; j < kIn; ++j) {
          if constexpr (Inside) {
            in[j] = load(row + j * column_stride);
          } else {
            const bool inside = (tile.rows_in >> i & tile.columns_in >> j & 1) != 0;
            in[j] = load_if(inside, inside ? row + j * column_stride : t.x);
          }
          pin(in[j]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < N; ++r) {
          const int kh = i - r * Stream::kStep;
          if (kh < 0 || kh >= K) continue;
#pragma GCC unroll 4
          for (int kw = 0; kw < K; ++kw) {
            V w = load(weight + (kh * K + kw) * kV);
            pin(w);
#pragma GCC unroll 4
            for (int q = 0; q < N; ++q) sums[r][q] = fma(in[q * Stream::kStep + kw], w, sums[r][q]);
          }
        }
      }
    }
    finish_sums<T, Tile::kTight>(t.activation, sums);
    T* const y = t.y + tile.y + at;
#pragma GCC unroll 4
    for (int r = 0; r < N; ++r) {
#pragma GCC unroll 4
      for (int q = 0; q < N; ++q) {
        if (Inside || (r < tile.rows && q < tile.columns)) {
          store(y + r * y_row_stride + q * y_column_stride, sums[r][q]);
        }
      }
    }
    if (Inside && ahead != 0) {
      const T* row = x + ahead;
#pragma GCC unroll 8
      for (int i = 0; i < kIn; ++i, row += row_stride) {
#pragma GCC unroll 4
        for (int j = 0; j < N * Stream::kStep; ++j) __builtin_prefetch(row + j * column_stride);
      }
    }
  }
}

// Bits [first, last) of the inputs from `at` on that are inside.
inline uint32_t inputs_inside(int64_t at, int64_t size) {
  uint32_t mask = 0;
  for (int i = 0; i < Stream::kInputs; ++i) mask |= uint32_t{at + i >= 0 && at + i < size} << i;
  return mask;
}

// Output rows [y, end), with finite weights.
template <class T>
void stream_rows(const WindowBlock<T>& b, int64_t y, int64_t end) {
  constexpr int N = Stream::kOutputs;
  constexpr uint32_t kAll = (1u << Stream::kInputs) - 1;
  const SlidingWindow<T>& t = b.window;
  for (; y < end; y += N) {
    const int64_t row = y * Stream::kStep - t.pad_rows;
    StreamTile tile;
    tile.rows = static_cast<int>(min_of(N, end - y));
    tile.rows_in = inputs_inside(row, t.height);
    for (int64_t x = t.x0; x < t.x1; x += N) {
      const int64_t column = x * Stream::kStep - t.pad;
      tile.columns = static_cast<int>(min_of(N, t.x1 - x));
      tile.columns_in = inputs_inside(column, t.width);
      tile.x = row * t.row_stride + column * t.column_stride;
      tile.y = y * t.y_row_stride + x * t.y_column_stride;
      const bool inside =
          tile.rows == N && tile.columns == N && tile.rows_in == kAll && tile.columns_in == kAll;
      inside ? stream_tile<true>(b, tile) : stream_tile<false>(b, tile);
      finish_pixels<Tile::kTight>(*b.problem, t.y + tile.y, tile.rows, tile.columns, b.channels);
    }
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
