// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Walks the task grid of a contiguous correlation: stages inputs, then runs bands of output rows.
#pragma once

#include "ops/depthwise_conv/cpu_rows-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// How a task stages its input.  Usually the rows of all its outputs at once ("window"): neighbours
// share them.  With a wide dilation that window would be mostly rows nobody reads; then each output
// row stages just its own filter rows ("sparse").
struct RowsLayout {
  bool sparse;
  int64_t slots;          // staged rows per plane
  int64_t residue_pitch;  // see Stage
  int64_t planes;         // at most: input channels x filter depth
};

template <class A>
RowsLayout rows_layout(const Correlation& p) {
  const CorrelationAxis& height = p.axis[1];
  const CorrelationAxis& width = p.axis[2];
  const auto span = [](const CorrelationAxis& axis, int64_t outputs) {
    const auto [lo, hi] = axis.reads(0, outputs);
    return hi - lo + 1;  // one more: floor divisions depend on where a chunk starts
  };
  const int64_t window = span(height, p.row_chunk);
  RowsLayout layout;
  layout.sparse = window > 2 * height.kernel + 2 * p.row_chunk * height.step + 16;
  layout.slots = layout.sparse ? height.kernel : window;
  // Lanes past the last output still load: room for a vector more.
  layout.residue_pitch =
      round_up(ceil_div(span(width, p.column_chunk), width.step) + kLanes<A>, kLanes<A>);
  layout.planes = p.fan_in * p.axis[0].kernel;
  return layout;
}

template <class T>
struct RowsScratch {
  using A = Accum<T>;
  A* stage;          // [plane][slot][step][residue_pitch]
  A* weight;         // the filters of one output channel, or of `fan_in` of them
  A* phases;         // one band of rows per column phase, before they are interleaved
  const A** plane;   // see RowTaps
  const A** filter;  //
  int32_t* column;
  int32_t* tap;

  static constexpr int64_t kBand = 8;

  static int64_t phase_pitch(const Correlation& p) {
    return round_up(ceil_div(p.column_chunk, p.axis[2].phases), kLanes<A>);
  }
  int64_t carve(const Correlation& p, const RowsLayout& layout, char* base) {
    char* at = base;
    const auto take = [&at](int64_t size) {
      char* piece = at;
      at += round_up(size, 64);
      return piece;
    };
    const int64_t row = p.axis[2].step * layout.residue_pitch;
    stage = reinterpret_cast<A*>(take(layout.planes * layout.slots * row * sizeof(A)));
    weight = reinterpret_cast<A*>(take(p.fan_in * p.taps * sizeof(A)));
    phases = reinterpret_cast<A*>(
        take(p.axis[2].phases > 1 ? p.axis[2].phases * kBand * phase_pitch(p) * sizeof(A) : 0));
    plane = reinterpret_cast<const A**>(take(layout.planes * sizeof(A*)));
    filter = reinterpret_cast<const A**>(take(layout.planes * sizeof(A*)));
    column = reinterpret_cast<int32_t*>(take(p.axis[2].kernel * sizeof(int32_t)));
    tap = reinterpret_cast<int32_t*>(take(p.axis[2].kernel * sizeof(int32_t)));
    return at - base;
  }
};

template <class T>
class RowsTask {
 public:
  using A = Accum<T>;
  static constexpr int kV = kLanes<A>;

  RowsTask(const Correlation& p, void* scratch) : p_(p), layout_(rows_layout<A>(p)) {
    s_.carve(p, layout_, static_cast<char*>(scratch));
  }

  void run(const Correlation::Task& task) {
    task_ = task;
    const CorrelationAxis& depth = p_.axis[0];
    tz_ = task.z0 / depth.phases;
    dz_ = depth.taps(task.z0 % depth.phases);
    const auto [first, last] = depth.valid(dz_, tz_);
    d_first_ = first;
    d_count_ = max_of(0, last - first);
    const auto [column_lo, column_hi] = p_.axis[2].reads(task.x0, task.x1);
    static_cast<void>(column_hi);
    stage_ = {0, layout_.slots, column_lo, p_.axis[2].step, layout_.residue_pitch};
    if (!layout_.sparse) {
      stage_.row0 = p_.axis[1].reads(task.y0, task.y1).first;
      stage_planes([&](int64_t slot) { return stage_.row0 + slot; }, layout_.slots);
    }
    // All outputs of one input channel share its staged rows.
    for (int64_t channel = task.c0; channel < task.c1; ++channel) run_channel(channel);
  }

 private:
  // Stages `slots` rows of every plane in reach; `row_of` maps a slot to an input row.
  template <class RowOf>
  void stage_planes(const RowOf& row_of, int64_t slots) {
    const CorrelationAxis& depth = p_.axis[0];
    const T* x = static_cast<const T*>(p_.x) + task_.n * p_.x_strides.n +
                 task_.c0 / p_.fan_out * p_.fan_in * p_.x_strides.c;
    for (int64_t j = 0; j < p_.fan_in; ++j) {
      for (int64_t d = 0; d < d_count_; ++d) {
        const int64_t z = tz_ * depth.step + dz_.offset + (d_first_ + d) * dz_.offset_step;
        const T* plane = x + j * p_.x_strides.c + z * p_.x_strides.sp[0];
        for (int64_t slot = 0; slot < slots; ++slot) {
          A* row = staged_plane(j * d_count_ + d) + slot * stage_.row_pitch();
          const int64_t y = row_of(slot);
          if (y < 0 || y >= p_.axis[1].in) {
            std::memset(row, 0, stage_.row_pitch() * sizeof(A));
          } else {
            stage_row(stage_, row, plane + y * p_.x_strides.sp[1], p_.x_strides.sp[2],
                      p_.axis[2].in);
          }
        }
      }
    }
  }

  A* staged_plane(int64_t q) const { return s_.stage + q * layout_.slots * stage_.row_pitch(); }

  void run_channel(int64_t channel) {
    const int64_t taps = p_.taps;
    const int64_t filter = channel * p_.fan_in;
    const T* weight = static_cast<const T*>(p_.weight) + filter * taps;
    for (int64_t i = 0; i < p_.fan_in * taps; ++i) s_.weight[i] = to_float(weight[i]);
    bias_ = p_.bias == nullptr ? A{0} : to_float(static_cast<const T*>(p_.bias)[channel]);
    y_ = static_cast<T*>(p_.y) + task_.n * p_.y_strides.n + channel * p_.y_strides.c +
         task_.z0 * p_.y_strides.sp[0];
    const CorrelationAxis& height = p_.axis[1];
    for (int64_t phase = 0; phase < height.phases; ++phase) {
      const TapRun run = height.taps(phase);
      int64_t t = height.outputs(phase, task_.y0);
      const int64_t end = height.outputs(phase, task_.y1);
      while (t < end) {
        const int64_t rows = layout_.sparse ? 1 : band_rows(end - t);
        run_band(run, phase, t, rows);
        t += rows;
      }
    }
  }

  // Rows of a band: enough for eight accumulators, given the width.
  int64_t band_rows(int64_t left) const {
    const int64_t columns = ceil_div(task_.x1 - task_.x0, p_.axis[2].phases);
    int64_t rows = columns > 4 * kV ? 1 : columns > 2 * kV ? 2 : columns > kV ? 4 : 8;
    while (rows > left) rows /= 2;
    return rows;
  }

  // Output rows t, t + 1, ... of one height phase.
  void run_band(const TapRun& run, int64_t phase, int64_t t, int64_t rows) {
    const CorrelationAxis& height = p_.axis[1];
    const CorrelationAxis& width = p_.axis[2];
    RowTaps<A> taps;
    taps.plane = s_.plane;
    taps.weight = s_.filter;
    taps.planes = p_.fan_in * d_count_;
    // A filter row is skipped only where no row of the band needs it: elsewhere it meets zeros.
    taps.kh_first = height.valid(run, t + rows - 1).first;
    taps.kh_last = height.valid(run, t).last;
    taps.weight_row = run.tap_step * width.kernel;
    taps.column = s_.column;
    taps.tap = s_.tap;
    taps.output_row = height.step * stage_.row_pitch();
    taps.activation = brief<T, Tile::kRoomy>(p_.activation);
    const int64_t in_row = t * height.step + run.offset;
    if (layout_.sparse) {
      stage_planes([&](int64_t i) { return in_row + i * run.offset_step; }, run.count);
      taps.row_step = stage_.row_pitch();
    } else {
      taps.row_step = run.offset_step * stage_.row_pitch();
    }
    const int64_t slot = layout_.sparse ? 0 : in_row - stage_.row0;
    for (int64_t j = 0; j < p_.fan_in; ++j) {
      for (int64_t d = 0; d < d_count_; ++d) {
        const int64_t q = j * d_count_ + d;
        const int64_t kd = dz_.tap + (d_first_ + d) * dz_.tap_step;
        s_.plane[q] = staged_plane(q) + slot * stage_.row_pitch();
        s_.filter[q] = s_.weight + j * p_.taps + (kd * height.kernel + run.tap) * width.kernel;
      }
    }
    T* y = y_ + (phase + t * height.phases) * p_.y_strides.sp[1];
    const int64_t row_stride = height.phases * p_.y_strides.sp[1];
    const int64_t pitch = RowsScratch<T>::phase_pitch(p_);
    for (int64_t w = 0; w < width.phases; ++w) {
      const int64_t first = width.outputs(w, task_.x0);
      const int64_t count = width.outputs(w, task_.x1) - first;
      const TapRun columns = width.taps(w);
      taps.kw = columns.count;
      for (int64_t i = 0; i < columns.count; ++i) {
        s_.tap[i] = static_cast<int32_t>(columns.tap + i * columns.tap_step);
        s_.column[i] = static_cast<int32_t>(
            stage_.at(first * width.step + columns.offset + i * columns.offset_step));
      }
      if (width.phases == 1) {
        band(taps, rows, count, y + task_.x0, row_stride);
      } else {
        band(taps, rows, count, s_.phases + w * RowsScratch<T>::kBand * pitch, pitch);
      }
    }
    if (width.phases > 1) interleave(rows, pitch, y, row_stride);
    finish_rows<Tile::kRoomy>(p_, y + task_.x0, 1, 0, rows, row_stride, task_.x1 - task_.x0);
  }

  template <class Out>
  void band(const RowTaps<A>& taps, int64_t rows, int64_t count, Out* y, int64_t row_stride) {
    if (rows == 8) {
      row_band<8>(taps, count, bias_, y, row_stride);
    } else if (rows == 4) {
      row_band<4>(taps, count, bias_, y, row_stride);
    } else if (rows == 2) {
      row_band<2>(taps, count, bias_, y, row_stride);
    } else {
      row_band<1>(taps, count, bias_, y, row_stride);
    }
  }

  void interleave(int64_t rows, int64_t pitch, T* y, int64_t row_stride) {
    const int64_t phases = p_.axis[2].phases;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t w = 0; w < phases; ++w) {
        const A* row = s_.phases + (w * RowsScratch<T>::kBand + r) * pitch;
        T* out = y + r * row_stride;
        for (int64_t x = task_.x0 + w; x < task_.x1; x += phases) out[x] = from_float<T>(*row++);
      }
    }
  }

  const Correlation& p_;
  RowsLayout layout_;
  RowsScratch<T> s_;
  Correlation::Task task_;
  Stage stage_;
  TapRun dz_;
  int64_t tz_, d_first_, d_count_;
  A bias_;
  T* y_;
};

template <class T>
void rows_tasks(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  RowsTask<T> worker(p, scratch);
  TaskGrid(p).each(begin, end, [&](const Correlation::Task& task) { worker.run(task); });
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
