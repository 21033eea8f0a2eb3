// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Walks the task grid of a channels-last correlation, and hands rows to the tiles, or bands to the
// windows.
#pragma once

#include "ops/depthwise_conv/cpu_channels_rows-inl.h"
#include "ops/depthwise_conv/cpu_line-inl.h"
#include "ops/depthwise_conv/cpu_volume-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

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

// One task; x and y point at the image's origin.  A vector of channels goes down a band of rows
// before the next one starts: the input rows that its outputs share then come from L1, where the
// rows of all channels together would not fit.  (8x576x14x14, 3x3: 200 -> 170 us.)
template <class T>
void channels_task(const Correlation& p, ChannelScratch<T>& s, const Correlation::Task& task,
                   const T* x, T* y) {
  constexpr int64_t kBand = 8;
  prepare_geometry(p, task, s);
  const int64_t wide = (task.c1 - task.c0) * p.fan_in;
  const int64_t vectors = ceil_div(p.planar ? wide / p.fan_out : wide, kLanes<Accum<T>>);
  const int64_t band = p.fan_in > 1 ? 1 : kBand;  // sums hold one row
  const int64_t rows = task.y1 - task.y0;
  for (int64_t z = task.z0; z < task.z1; ++z) {
    for (int64_t row = 0; row < rows; row += band) {
      T* out = y + z * p.y_strides.sp[0] + (task.y0 + row) * p.y_strides.sp[1];
      for (int64_t v = 0; v < vectors; ++v) {
        const int64_t count = min_of(band, rows - row);
        (p.planar ? planar_rows<T> : channel_rows<T>)(p, s, task, x, out, v,
                                                      (z - task.z0) * rows + row, count);
      }
      if (p.fan_in > 1) {
        sum_channels<T>(p, s.sums, round_up(wide, kLanes<Accum<T>>), task, out);
      }
    }
  }
}

// A task whose filter has a window.
template <class T>
void window_task(const Correlation& p, ChannelScratch<T>& s, const Correlation::Task& task,
                 const T* x, T* y) {
  const auto& [depth, height, width] = p.axis;
  WindowBlock<T> b;
  b.problem = &p;
  b.bias = s.bias;
  b.channels = task.c1 - task.c0;
  b.weight_stride = p.taps * kLanes<Accum<T>>;
  b.pairs_stride = ChannelScratch<T>::pair_taps(p) * kLanes<Accum<T>>;
  SlidingWindow<T>& t = b.window;
  t.x = x + task.c0;
  t.weight = s.weight;
  t.pairs = s.pairs;
  t.planes = s.planes;
  t.row_stride = p.x_strides.sp[1];
  t.column_stride = p.x_strides.sp[2];
  t.height = height.in;
  t.width = width.in;
  const bool scatter = width.phases > 1;
  t.pad_rows = scatter ? height.axis.pad : -height.taps(0).offset;
  t.pad = scatter ? width.axis.pad : -width.taps(0).offset;
  t.y_row_stride = p.y_strides.sp[1];
  t.y_column_stride = p.y_strides.sp[2];
  t.x0 = task.x0;
  t.x1 = task.x1;
  t.activation = brief<T, Tile::kTight>(p.activation);
  t.finite = s.finite;
  t.ahead = t.y_ahead = 0;
  const bool stream = p.stream && s.finite;
  t.plane_ahead = depth.kernel > 1 ? depth.step * p.x_strides.sp[0] : 0;
  if (stream) {
    // Its tiles know what they read next.
    t.y_ahead = p.prefetch ? kStreamAhead * t.y_column_stride : 0;
  } else if (p.narrow) {
    t.ahead = t.y_ahead = kBytesAhead / static_cast<int64_t>(sizeof(T));
  } else if (p.prefetch) {
    t.ahead = kColumnsAhead * width.step * t.column_stride;
    t.y_ahead = kColumnsAhead * t.y_column_stride;
  }
  for (int64_t z = task.z0; z < task.z1; ++z) {
    const TapRun run = depth.taps(z % depth.phases);
    const int64_t tz = z / depth.phases;
    const auto [first, last] = depth.valid(run, tz);
    t.plane_count = 0;
    t.newest_plane = 0;
    for (int64_t d = first; d < last; ++d) {
      const int64_t tap = run.tap + d * run.tap_step;
      const int64_t plane = tz * depth.step + run.offset + d * run.offset_step;
      s.planes[t.plane_count++] = {plane * p.x_strides.sp[0],
                                   p.reversed() ? depth.kernel - 1 - tap : tap};
      t.newest_plane = max_of(t.newest_plane, plane * p.x_strides.sp[0]);
    }
    t.y = y + task.c0 + z * p.y_strides.sp[0];
    const bool flat = depth.kernel == 1 && t.plane_count == 1;
    if (stream) {
      (width.step == 1 ? stream_rows<1, T> : stream_rows<2, T>)(b, task.y0, task.y1);
    } else if (scatter) {
      scatter_rows_of(b, width.kernel, flat, task.y0, task.y1);
    } else if (width.step == 1) {
      window_rows_of<1>(b, width.kernel, flat, task.y0, task.y1);
    } else {
      window_rows_of<2>(b, width.kernel, flat, task.y0, task.y1);
    }
  }
}

// One task by whichever kernel the plan has chosen.
template <class T>
void channels_last_task(const Correlation& p, ChannelScratch<T>& s, const Correlation::Task& task,
                        const T* x, T* y) {
  if (p.line) {
    line_task<T>(p, s, task, x, y);
  } else if (p.volume) {
    volume_task<T>(p, s, task, x, y);
  } else if (p.window) {
    window_task<T>(p, s, task, x, y);
  } else {
    channels_task<T>(p, s, task, x, y);
  }
}

template <class T>
void channels_tasks(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  ChannelScratch<T> s;
  s.carve(p, static_cast<char*>(scratch));
  int64_t packed_block = -1;
  TaskGrid(p).each(begin, end, [&](const Correlation::Task& task) {
    if (task.block != packed_block) {
      s.finite = pack_weights<T>(p, task.c0 * p.fan_in, (task.c1 - task.c0) * p.fan_in, s);
      if constexpr (kHasPairs<T>) {
        const int64_t vectors = ceil_div(task.c1 - task.c0, kLanes<Accum<T>>);
        if (p.window && s.finite) pair_window_weights(p, vectors, s);
      }
      packed_block = task.block;
    }
    const T* x = static_cast<const T*>(p.x) + task.n * p.x_strides.n;
    T* y = static_cast<T*>(p.y) + task.n * p.y_strides.n;
    channels_last_task<T>(p, s, task, x, y);
  });
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
