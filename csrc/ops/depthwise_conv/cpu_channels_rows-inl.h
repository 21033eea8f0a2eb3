// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Output rows of a channels-last correlation: lists the filter rows that meet each, and hands it to
// the tiles, a vector of channels after the other.
#pragma once

#include "ops/depthwise_conv/cpu_channels_scratch-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// The (kd, kh) that meet output (z, y), as offsets into x.
inline int64_t list_rows(const Correlation& p, int64_t z, int64_t y, RowTap* rows) {
  const CorrelationAxis& depth = p.axis[0];
  const CorrelationAxis& height = p.axis[1];
  const int64_t tz = z / depth.phases, ty = y / height.phases;
  const TapRun dz = depth.taps(z % depth.phases), dy = height.taps(y % height.phases);
  const auto [d_first, d_last] = depth.valid(dz, tz);
  const auto [h_first, h_last] = height.valid(dy, ty);
  int64_t count = 0;
  for (int64_t d = d_first; d < d_last; ++d) {
    const int64_t plane = (tz * depth.step + dz.offset + d * dz.offset_step) * p.x_strides.sp[0];
    for (int64_t h = h_first; h < h_last; ++h) {
      const int64_t row = ty * height.step + dy.offset + h * dy.offset_step;
      const int64_t tap = (dz.tap + d * dz.tap_step) * height.kernel + dy.tap + h * dy.tap_step;
      rows[count++] = {plane + row * p.x_strides.sp[1], tap * p.axis[2].kernel};
    }
  }
  return count;
}

// The row lists of a task, unless the one before had the same; returns whether they are new.
template <class Scratch>
bool prepare_rows(const Correlation& p, const Correlation::Task& task, Scratch& s) {
  const Correlation::Task& g = s.geometry;
  if (g.z0 == task.z0 && g.z1 == task.z1 && g.y0 == task.y0 && g.y1 == task.y1) return false;
  const int64_t per_row = p.axis[0].kernel * p.axis[1].kernel;
  int64_t i = 0;
  for (int64_t z = task.z0; z < task.z1; ++z) {
    for (int64_t y = task.y0; y < task.y1; ++y, ++i) {
      s.row_counts[i] = list_rows(p, z, y, s.rows + i * per_row);
    }
  }
  s.geometry = task;
  return true;
}

// Row lists and column phases of a task, unless the one before had the same.
template <class T>
void prepare_geometry(const Correlation& p, const Correlation::Task& task, ChannelScratch<T>& s) {
  const bool same_columns = s.geometry.x0 == task.x0 && s.geometry.x1 == task.x1;
  prepare_rows(p, task, s);
  if (same_columns) return;
  s.geometry.x0 = task.x0;
  s.geometry.x1 = task.x1;
  const CorrelationAxis& columns = p.axis[2];
  for (int64_t phase = 0; phase < columns.phases; ++phase) {
    s.phases[phase] = {columns.taps(phase), columns.outputs(phase, task.x0),
                       columns.outputs(phase, task.x1)};
  }
}

// y = sums over groups of `fan_in` neighbouring channels, in order.
template <class T>
void sum_channels(const Correlation& p, const Accum<T>* sums, int64_t lanes,
                  const Correlation::Task& task, T* y) {
  constexpr int kV = kLanes<Accum<T>>;
  for (int64_t column = task.x0; column < task.x1; ++column, sums += lanes) {
    T* out = y + task.c0 + column * p.y_strides.sp[2];
    int64_t c = 0;
    for (; p.fan_in == 2 && c + kV <= task.c1 - task.c0; c += kV) {
      Vec<Accum<T>> even, odd;
      split_pairs(load(sums + 2 * c), load(sums + 2 * c + kV), even, odd);
      store(out + c, even + odd);
    }
    for (; c < task.c1 - task.c0; ++c) {
      Accum<T> sum = 0;
      for (int64_t j = 0; j < p.fan_in; ++j) sum += sums[c * p.fan_in + j];
      out[c] = from_float<T>(sum);
    }
  }
}

// Vector `v` of the block's filters, as a tile that still lacks its rows and columns.
template <class T>
ChannelTile<T> channel_vector(const Correlation& p, const ChannelScratch<T>& s,
                              const Correlation::Task& task, const T* x, int64_t v) {
  constexpr int kV = kLanes<Accum<T>>;
  const int64_t wide = (task.c1 - task.c0) * p.fan_in;  // filters of this block
  const int64_t start = p.planar ? vector_start(p, v / p.fan_out, kV, wide / p.fan_out)
                                 : vector_start(p, v, kV, wide);
  const int lanes = p.planar ? kV : static_cast<int>(min_of(kV, wide - start));
  // Filters c0*fan_in + start ...: with fan_out > 1 they read fewer input channels.
  const int64_t first = task.c0 * p.fan_in + start;
  int64_t x_first = first;
  ChannelTile<T> tile;
  tile.lanes = lanes;
  if (p.planar) {
    x_first = task.c0 / p.fan_out + start;
  } else if (p.fan_out > 1) {
    x_first = first / p.fan_out;
    tile.lanes = static_cast<int>((first + lanes - 1) / p.fan_out - x_first + 1);
    for (int i = 0; i < kV; ++i) {
      tile.expand[i] = i < lanes ? static_cast<int32_t>((first + i) / p.fan_out - x_first) : 0;
    }
  }
  tile.x = x + x_first;
  tile.weight = s.weight + v * p.taps * kV;
  tile.bias = load(s.bias + v * kV);
  tile.column_stride = p.x_strides.sp[2];
  tile.row_stride = p.x_strides.sp[1];
  tile.width = p.axis[2].in;
  tile.step = p.axis[2].step;
  tile.activation = p.activation;
  tile.ahead = nullptr;
  tile.ahead_rows = min_of(min_of(p.axis[1].step, p.axis[1].kernel), 2);
  return tile;
}

// An output row of fan_out filters for each of a vector's channels, which take turns.
template <class T>
void store_planar(const Accum<T>* sums, int64_t fan_out, int64_t columns, T* y,
                  int64_t column_stride) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  for (int64_t column = 0; column < columns; ++column, sums += kV, y += column_stride) {
    if (fan_out == 2) {
      const Vec<A> a = load(sums), b = load(sums + columns * kV);
      store(y, interleave<false>(a, b));
      store(y + kV, interleave<true>(a, b));
      continue;
    }
    for (int64_t j = 0; j < fan_out; ++j) {
      for (int i = 0; i < kV; ++i) y[i * fan_out + j] = from_float<T>(sums[j * columns * kV + i]);
    }
  }
}

// The tile's rows and what it prefetches with them, of output row `i` of the task.
template <class T>
void set_rows(const Correlation& p, const ChannelScratch<T>& s, int64_t i, ChannelTile<T>& tile) {
  const int64_t skipped = max_of(0, p.axis[1].step - p.axis[1].kernel) + 1;
  tile.rows = s.rows + i * p.axis[0].kernel * p.axis[1].kernel;
  tile.row_count = s.row_counts[i];
  tile.prefetch = p.prefetch && tile.row_count > 0;
  if (tile.prefetch) {
    tile.ahead = tile.x + tile.rows[tile.row_count - 1].row + skipped * p.x_strides.sp[1];
  }
}

// As channel_rows, for whole vectors of input channels and all their filters.
template <class T>
void planar_rows(const Correlation& p, const ChannelScratch<T>& s, const Correlation::Task& task,
                 const T* x, T* y, int64_t v, int64_t row, int64_t count) {
  constexpr int kV = kLanes<Accum<T>>;
  const int64_t m = p.fan_out, channels = (task.c1 - task.c0) / m, phases = p.axis[2].phases;
  const int64_t columns = task.x1 - task.x0, start = vector_start(p, v, kV, channels);
  ChannelTile<T> tile = channel_vector<T>(p, s, task, x, v * m);
  for (int64_t i = row; i < row + count; ++i, y += p.y_strides.sp[1]) {
    set_rows(p, s, i, tile);
    for (int64_t j = 0; j < m; ++j) {
      tile.weight = s.weight + (v * m + j) * p.taps * kV;
      tile.bias = load(s.bias + (v * m + j) * kV);
      for (int64_t phase = 0; phase < phases; ++phase) {
        tile.run = s.phases[phase].run;
        const ChannelSink<T> sink{nullptr, s.sums + (j * columns + phase - task.x0) * kV,
                                  phases * kV, 0, kV};
        channel_row_dispatch(tile, s.phases[phase].first, s.phases[phase].last, sink, false);
      }
      tile.prefetch = false;
    }
    T* out = y + task.c0 + start * m + task.x0 * p.y_strides.sp[2];
    store_planar(s.sums, m, columns, out, p.y_strides.sp[2]);
  }
}

// One vector of channels over `count` output rows from row number `row` of the task on; `y` is the
// start of the first.
template <class T>
void channel_rows(const Correlation& p, const ChannelScratch<T>& s, const Correlation::Task& task,
                  const T* x, T* y, int64_t v, int64_t row, int64_t count) {
  constexpr int kV = kLanes<Accum<T>>;
  ChannelTile<T> tile = channel_vector<T>(p, s, task, x, v);
  const int64_t wide = (task.c1 - task.c0) * p.fan_in, padded = round_up(wide, kV);
  const int64_t start = vector_start(p, v, kV, wide);
  const int lanes = static_cast<int>(min_of(kV, wide - start));
  const int64_t phases = p.axis[2].phases;
  for (int64_t i = row; i < row + count; ++i, y += p.y_strides.sp[1]) {
    set_rows(p, s, i, tile);
    for (int64_t phase = 0; phase < phases; ++phase) {
      tile.run = s.phases[phase].run;
      ChannelSink<T> sink{y + task.c0 + start + phase * p.y_strides.sp[2], nullptr,
                          phases * p.y_strides.sp[2], p.y_strides.sp[1], lanes};
      if (p.fan_in > 1) {
        sink.sums = s.sums + (phase - task.x0) * padded + v * kV;
        sink.column_stride = phases * padded;
      }
      channel_row_dispatch(tile, s.phases[phase].first, s.phases[phase].last, sink, p.fan_out > 1);
    }
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
