// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Output rows of a channels-last correlation: lists the filter rows that meet each, and cuts it
// into tiles, a vector of channels after the other.
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
  tile.finite = s.finite;
  tile.activation = p.activation;
  tile.ahead = (max_of(0, p.axis[1].step - p.axis[1].kernel) + 1) * p.x_strides.sp[1];
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

// The tile's band: `count` output rows from row number `i` of the task on.
template <class T>
void set_rows(const Correlation& p, const ChannelScratch<T>& s, int64_t i, int64_t count,
              ChannelTile<T>& tile) {
  tile.rows_apart = p.axis[0].kernel * p.axis[1].kernel;
  tile.rows = s.rows + i * tile.rows_apart;
  tile.row_counts = s.row_counts + i;
  tile.band = count;
  tile.prefetch = p.prefetch;
}

// The width of dense tiles that takes least: a tile's own time is that of some two columns.
// (8x384x8x8, 7x7, one thread: two tiles of 7 columns 182 us, one of 8 117.)
inline int dense_width(int64_t columns) {
  constexpr int kWidths[] = {14, 16, 12, 10, 8, 7};
  int best = 7;
  for (const int width : kWidths) {
    const auto cost = [&](int w) { return ceil_div(columns, w) * (w + 2); };
    if (width <= columns && cost(width) < cost(best)) best = width;
  }
  return best;
}

// Outputs [o, end) of a phase.  Tile widths divide those of the usual networks.
template <int Step, bool Partial, Lanes L, class T>
void channel_row(const ChannelTile<T>& t, int64_t o, int64_t end, const ChannelSink<T>& sink) {
  constexpr int kWide = kVectorRegisters >= 32 && !Partial ? 14 : 7;
  const int64_t count = end - o;
  if constexpr (Step == 1 && kWide == 14) {
    switch (count < 7 ? 0 : dense_width(count)) {
      case 16:
        return channel_tiles<Step, 16, Partial, L>(t, o, end, sink);
      case 12:
        return channel_tiles<Step, 12, Partial, L>(t, o, end, sink);
      case 10:
        return channel_tiles<Step, 10, Partial, L>(t, o, end, sink);
      case 8:
        return channel_tiles<Step, 8, Partial, L>(t, o, end, sink);
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
  if constexpr (!kPaired<T>) {  // pairs come in whole vectors
    if (t.lanes < kV || sink.lanes < kV) return channel_row<Step, true, L>(t, o, end, sink);
  }
  channel_row<Step, false, L>(t, o, end, sink);
}

template <class T>
void channel_row_dispatch(const ChannelTile<T>& t, int64_t o, int64_t end,
                          const ChannelSink<T>& sink, bool expanded) {
  const bool dense = t.run.offset_step == 1 || t.run.count == 1;
  if constexpr (!kPaired<T>) {
    if (expanded) return channel_row_masked<0, Lanes::kExpanded>(t, o, end, sink);
  }
  if (dense && t.step == 1) {
    channel_row_masked<1, Lanes::kSame>(t, o, end, sink);
  } else if (dense && t.step == 2) {
    channel_row_masked<2, Lanes::kSame>(t, o, end, sink);
  } else {
    channel_row_masked<0, Lanes::kSame>(t, o, end, sink);
  }
}

// Outputs [first, last) of a phase.  Dilated taps of neighbouring outputs share no columns, but
// those of outputs a dilation apart do: with the columns between left out, they are a dense filter.
template <class T>
void channel_columns(const ChannelTile<T>& tile, int64_t first, int64_t last,
                     const ChannelSink<T>& sink, bool expanded) {
  constexpr int64_t kDense = 5;  // fewer taps are faster one by one
  const int64_t apart = tile.run.offset_step;
  // Large images are better read in order.  (5x5, dilation 2, on 8x64x112x112: 3.6 ms, and 4.2 so.)
  constexpr int64_t kLongRow = 64;
  if (tile.step != 1 || apart == 1 || tile.run.count < kDense || tile.width > kLongRow) {
    return channel_row_dispatch(tile, first, last, sink, expanded);
  }
  for (int64_t r = 0; r < min_of(apart, last); ++r) {
    const int64_t column = floor_mod(r + tile.run.offset, apart);
    ChannelTile<T> t = tile;
    t.x += column * tile.column_stride;
    t.column_stride *= apart;
    t.width = max_of(0, ceil_div(tile.width - column, apart));
    t.run.offset = floor_div(r + tile.run.offset, apart);
    t.run.offset_step = 1;
    ChannelSink<T> s = sink;
    if (s.sums != nullptr) {
      s.sums += r * sink.column_stride;
    } else {
      s.y += r * sink.column_stride;
    }
    s.column_stride *= apart;
    const int64_t begin = ceil_div(first - r, apart), end = ceil_div(last - r, apart);
    channel_row_dispatch(t, begin, end, s, expanded);
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
    set_rows(p, s, i, 1, tile);
    for (int64_t j = 0; j < m; ++j) {
      tile.weight = s.weight + (v * m + j) * p.taps * kV;
      tile.bias = load(s.bias + (v * m + j) * kV);
      for (int64_t phase = 0; phase < phases; ++phase) {
        tile.run = s.phases[phase].run;
        const ChannelSink<T> sink{nullptr, s.sums + (j * columns + phase - task.x0) * kV,
                                  phases * kV, 0, kV};
        channel_columns(tile, s.phases[phase].first, s.phases[phase].last, sink, false);
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
                  const T* x, Result<T>* y, int64_t v, int64_t row, int64_t count) {
  constexpr int kV = kLanes<Accum<T>>;
  ChannelTile<T> tile = channel_vector<T>(p, s, task, x, v);
  const int64_t wide = (task.c1 - task.c0) * p.fan_in, padded = round_up(wide, kV);
  const int64_t start = vector_start(p, v, kV, wide);
  const int lanes = static_cast<int>(min_of(kV, wide - start));
  const int64_t phases = p.axis[2].phases;
  // Large tensors are read and written row by row.  (3x3, dilation 2, on 8x64x112x112, one thread:
  // 3.0 ms in bands, 2.0 so.)
  const int64_t band = p.prefetch ? 1 : count;
  for (int64_t i = row; i < row + count; i += band, y += band * p.y_strides.sp[1]) {
    set_rows(p, s, i, band, tile);
    for (int64_t phase = 0; phase < phases; ++phase) {
      tile.run = s.phases[phase].run;
      ChannelSink<T> sink{y + task.c0 + start + phase * p.y_strides.sp[2], nullptr,
                          phases * p.y_strides.sp[2], p.y_strides.sp[1], lanes};
      if (p.fan_in > 1) {
        sink.sums = s.sums + (phase - task.x0) * padded + v * kV;
        sink.column_stride = phases * padded;
      }
      channel_columns(tile, s.phases[phase].first, s.phases[phase].last, sink, p.fan_out > 1);
    }
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
