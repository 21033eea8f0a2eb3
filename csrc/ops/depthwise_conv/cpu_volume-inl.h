// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last filters of 3 or 5 planes at stride 2 along the rows: tiles that roll along the
// planes.
//
// A tile is `Width` output columns x one vector of channels x the `Depth` output planes that an
// input plane contributes to, all in registers.  It goes through the input planes in order: each
// column is loaded once and meets the taps of every plane of the filter, then the oldest output
// plane is stored and the others move up.  Width 7 and 3x3x3 taps: 45 loads and 27 weights for 189
// FMAs a plane, where one output plane at a time takes three times the loads.
#pragma once

#include "ops/depthwise_conv/cpu_channels_scratch-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// One vector of channels and one row of outputs, over planes.
template <class T>
struct VolumeTile {
  static constexpr int kTaps = 3, kStep = 2;  // along the row

  const T* x;              // image n, first channel of the vector, plane 0, row 0, column 0
  T* y;                    // the same of the outputs
  const Accum<T>* weight;  // the vector's packed weights: [tap][lane]
  const RowTap* rows;      // filter rows that meet the outputs, in a plane
  int64_t row_count;
  int64_t plane_stride, column_stride, y_plane_stride, y_column_stride;
  int64_t width, depth;          // input columns and planes
  int64_t z0, z1;                // output planes
  int64_t plane_offset, offset;  // input plane and column of the first tap of output 0
  int64_t plane_taps;            // taps of one plane of the filter
  Vec<Accum<T>> bias;
  Activation activation;
};

// What one input plane adds to the output planes that it meets: sums[d] is met by plane d of the
// filter.
template <int Depth, int Width, bool Edge, class T>
FASTCONV_INLINE void add_plane(const VolumeTile<T>& t, const T* plane, int64_t x,
                               Vec<Accum<T>> (&sums)[Depth][Width]) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>, kTaps = VolumeTile<T>::kTaps, kStep = VolumeTile<T>::kStep;
  const int64_t column_stride = t.column_stride, plane_step = t.plane_taps * kV;
  [[maybe_unused]] const uint64_t width = t.width;
  for (int64_t r = 0; r < t.row_count; ++r) {
    const A* weight = t.weight + t.rows[r].weight * kV;
    Vec<A> w[Depth][kTaps];
#pragma GCC unroll 8
    for (int d = 0; d < Depth; ++d) {
#pragma GCC unroll 8
      for (int k = 0; k < kTaps; ++k) {
        w[d][k] = load(weight + d * plane_step + k * kV);
        pin(w[d][k]);
      }
    }
    const T* p = plane + t.rows[r].row + x * column_stride;
#pragma GCC unroll 32
    for (int i = 0; i < (Width - 1) * kStep + kTaps; ++i, p += column_stride) {
      if (Edge && static_cast<uint64_t>(x + i) >= width) continue;
      Vec<A> v = load(p);
      pin(v);
#pragma GCC unroll 8
      for (int d = 0; d < Depth; ++d) {
#pragma GCC unroll 8
        for (int k = i % kStep; k < kTaps; k += kStep) {
          const int o = (i - k) / kStep;
          if (i >= k && o < Width) sums[d][o] = fma(v, w[d][k], sums[d][o]);
        }
      }
    }
  }
}

// The tile whose first output column is `o`.
template <int Depth, int Width, bool Edge, class T>
void volume_tile(const VolumeTile<T>& t, int64_t o) {
  Vec<Accum<T>> sums[Depth][Width];
#pragma GCC unroll 8
  for (int d = 0; d < Depth; ++d) {
#pragma GCC unroll 8
    for (int i = 0; i < Width; ++i) sums[d][i] = t.bias;
  }
  const int64_t x = t.kStep * o + t.offset;
  T* y = t.y + o * t.y_column_stride;
  // Output plane z is met by plane d of the filter at input plane z + plane_offset + d.
  const int64_t end = t.z1 + t.plane_offset + Depth - 1;
  for (int64_t plane = t.z0 + t.plane_offset; plane < end; ++plane) {
    if (plane >= 0 && plane < t.depth) {
      add_plane<Depth, Width, Edge>(t, t.x + plane * t.plane_stride, x, sums);
    }
    const int64_t z = plane - t.plane_offset - (Depth - 1);
    if (z >= t.z0) {
      T* out = y + z * t.y_plane_stride;
      finish_sums<T, Tile::kEvery>(t.activation, sums[Depth - 1]);
#pragma GCC unroll 8
      for (int i = 0; i < Width; ++i) store(out + i * t.y_column_stride, sums[Depth - 1][i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Width; ++i) {
#pragma GCC unroll 8
      for (int d = Depth - 1; d > 0; --d) sums[d][i] = sums[d - 1][i];
      sums[0][i] = t.bias;
    }
  }
}

// Tiles of one width over output columns [o, end); the last one overlaps the one before.
template <int Depth, int Width, class T>
void volume_tiles(const VolumeTile<T>& t, int64_t o, int64_t end) {
  for (; o < end; o += Width) {
    const int64_t at = min_of(o, end - Width), first = t.kStep * at + t.offset;
    if (first >= 0 && first + t.kStep * (Width - 1) + t.kTaps <= t.width) {
      volume_tile<Depth, Width, false>(t, at);
    } else {
      volume_tile<Depth, Width, true>(t, at);
    }
  }
}

// Tiles of as many columns as there are registers for, and as divide the row with little left.
template <int Depth, class T>
void volume_row(const VolumeTile<T>& t, int64_t o, int64_t end) {
  const int64_t columns = end - o;
  if constexpr (kVectorRegisters < 32) {
    columns > 1 ? volume_tiles<Depth, 2>(t, o, end) : volume_tiles<Depth, 1>(t, o, end);
  } else if (columns < 3) {
    volume_tiles<Depth, 1>(t, o, end);
  } else if (Depth == 5 || columns < 5) {
    volume_tiles<Depth, 3>(t, o, end);
  } else if constexpr (Depth == 3) {
    const bool sevens = columns >= 7 && round_up(columns, 7) <= round_up(columns, 5);
    sevens ? volume_tiles<Depth, 7>(t, o, end) : volume_tiles<Depth, 5>(t, o, end);
  }
}

// One task; x and y point at the image's origin.  All vectors and rows of a task's columns come
// before the next task's: what rows and vectors share is then in L1 or L2.
template <class T>
void volume_task(const Correlation& p, ChannelScratch<T>& s, const Correlation::Task& task,
                 const T* x, T* y) {
  constexpr int kV = kLanes<Accum<T>>;
  const auto& [depth, height, width] = p.axis;
  const TapRun down = height.taps(0);
  for (int64_t row = task.y0; row < task.y1; ++row) {
    const auto [first, last] = height.valid(down, row);
    RowTap* rows = s.rows + (row - task.y0) * height.kernel;
    s.row_counts[row - task.y0] = max_of(0, last - first);
    for (int64_t h = first; h < last; ++h) {
      const int64_t at = row * height.step + down.offset + h * down.offset_step;
      *rows++ = {at * p.x_strides.sp[1], h * width.kernel};
    }
  }
  VolumeTile<T> t;
  t.plane_stride = p.x_strides.sp[0];
  t.column_stride = p.x_strides.sp[2];
  t.y_plane_stride = p.y_strides.sp[0];
  t.y_column_stride = p.y_strides.sp[2];
  t.width = width.in;
  t.depth = depth.in;
  t.z0 = task.z0;
  t.z1 = task.z1;
  t.plane_offset = depth.taps(0).offset;
  t.offset = width.taps(0).offset;
  t.plane_taps = height.kernel * width.kernel;
  t.activation = p.activation;
  const int64_t channels = task.c1 - task.c0;
  for (int64_t v = 0; v * kV < channels; ++v) {
    const int64_t start = task.c0 + vector_start(p, v, kV, channels);
    t.x = x + start;
    t.weight = s.weight + v * p.taps * kV;
    t.bias = load(s.bias + v * kV);
    for (int64_t row = task.y0; row < task.y1; ++row) {
      t.rows = s.rows + (row - task.y0) * height.kernel;
      t.row_count = s.row_counts[row - task.y0];
      t.y = y + start + row * p.y_strides.sp[1];
      depth.kernel == 3 ? volume_row<3>(t, task.x0, task.x1) : volume_row<5>(t, task.x0, task.x1);
    }
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
