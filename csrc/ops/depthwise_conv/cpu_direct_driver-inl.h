// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Walks the task grid of a correlation that reads contiguous images in place: lists the input rows
// of each band of output rows, and hands it to the tiles.
//
// Output row t meets tap i in input row  step * t + offset + i * offset_step.  Two output rows
// share input rows for different taps where the two steps have a common multiple: rows of a band
// are `stride` outputs apart, and the taps fall into `residues` classes, such that within a class
// one output row further is one tap further.  A 3x3 filter at stride 2 has residues {0, 2} and {1};
// dilation 2 at stride 1 has bands of every second row.  Columns have one phase and step 1.
#pragma once

#include "ops/depthwise_conv/cpu_direct-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

#if FASTCONV_LEVEL >= 1

// One set of DirectRows, for whatever channel.
struct DirectSet {
  int64_t row;   // element offset of its first input row from the channel's first plane
  int64_t rows;  // input rows, of which [first, last) are inside the image
  int64_t first, last;
  int64_t row_stride;  // elements from one to the next
  int64_t weight, weight_row, taps;
};

// Output rows that share a tile.
struct DirectRowBand {
  int64_t y;             // element offset of the first from the output plane's start
  int64_t y_row_stride;  // to the next
  int64_t rows;
  int64_t sets;  // how many of them, listed one band after the other
};

template <class T>
struct DirectScratch {
  static constexpr int kRows = 8;  // of the highest tile
  using A = Accum<T>;
  DirectRowBand* bands;  // of a task
  DirectSet* band_sets;  //
  int64_t band_count;
  Correlation::Task geometry;  // the task they were listed for
  const T** rows;              // of one band and channel
  DirectRows<T>* sets;         //
  A* weight;                   // of one output channel, where T is narrower
  T* zeros;                    // a row outside the image
  int64_t zero_columns;

  int64_t carve(const Correlation& p, char* base) {
    char* at = base;
    const auto take = [&at]<class E>(E*& array, int64_t count) {
      array = reinterpret_cast<E*>(at);
      at += round_up(count * static_cast<int64_t>(sizeof(E)), 64);
    };
    const int64_t depth = p.axis[0].kernel, kernel = p.axis[1].kernel;
    const int64_t residues = min_of(p.axis[1].step, kernel);
    const auto [lo, hi] = p.axis[2].reads(0, p.column_chunk);
    zero_columns = min_of(p.axis[2].in, hi - lo + 4 * kLanes<A>);
    take(bands, p.row_chunk);
    take(band_sets, p.row_chunk * depth * residues);
    take(rows, p.fan_in * depth * (kernel + residues * kRows));
    take(sets, p.fan_in * depth * residues);
    take(weight, sizeof(T) < sizeof(A) ? p.fan_in * p.taps : 0);
    take(zeros, zero_columns);
    geometry = {-1, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    return at - base;
  }
};

// Lists a task's bands, unless the one before had the same.
template <class T>
class DirectGeometry {
 public:
  DirectGeometry(const Correlation& p, DirectScratch<T>& s, const Correlation::Task& task)
      : p_(p), s_(s), task_(task), set_(s.band_sets) {}

  void list() {
    const Correlation::Task& g = s_.geometry;
    if (g.block >= 0 && g.z0 == task_.z0 && g.y0 == task_.y0 && g.y1 == task_.y1) return;
    s_.geometry = task_;
    s_.band_count = 0;
    const CorrelationAxis& depth = p_.axis[0];
    const CorrelationAxis& height = p_.axis[1];
    tz_ = task_.z0 / depth.phases;
    dz_ = depth.taps(task_.z0 % depth.phases);
    planes_ = depth.valid(dz_, tz_);
    for (int64_t phase = 0; phase < height.phases; ++phase) {
      const TapRun run = height.taps(phase);
      const int64_t t0 = height.outputs(phase, task_.y0), t1 = height.outputs(phase, task_.y1);
      const int64_t stride = run.offset_step / common_divisor(height.step, run.offset_step);
      for (int64_t t = t0; t < min_of(t1, t0 + stride); ++t) {
        list_rows(run, phase, t, stride, ceil_div(t1 - t, stride));
      }
    }
  }

 private:
  // Output rows t, t + stride, ... of one phase, `count` of them.
  void list_rows(const TapRun& run, int64_t phase, int64_t t, int64_t stride, int64_t count) {
    for (int64_t done = 0; done < count;) {
      const int64_t left = count - done;
      // A remainder is covered by a tile that overlaps the one before.
      const int64_t rows = left > 4 && count >= 8 ? 8 : left > 1 && count >= 4 ? 4 : 1;
      const int64_t row = t + min_of(done, count - rows) * stride;
      DirectRowBand& band = s_.bands[s_.band_count++];
      band.y = (phase + row * p_.axis[1].phases) * p_.y_strides.sp[1];
      band.y_row_stride = stride * p_.axis[1].phases * p_.y_strides.sp[1];
      band.rows = rows;
      band.sets = list_sets(run, row, stride, rows);
      done = min_of(done, count - rows) + rows;
    }
  }

  int64_t list_sets(const TapRun& run, int64_t t, int64_t stride, int64_t rows) {
    const DirectSet* begin = set_;
    const CorrelationAxis& height = p_.axis[1];
    const int64_t step = height.step * stride, residues = step / run.offset_step;
    const int64_t pitch = p_.x_strides.sp[1], kw = p_.axis[2].kernel;
    for (int64_t d = planes_.first; d < planes_.last; ++d) {
      const int64_t z = tz_ * p_.axis[0].step + dz_.offset + d * dz_.offset_step;
      const int64_t kd = dz_.tap + d * dz_.tap_step;
      for (int64_t i = 0; i < min_of(residues, run.count); ++i) {
        // Input rows base, base + step, ...; tap m meets those from number m on.
        const int64_t base = t * height.step + run.offset + i * run.offset_step;
        const int64_t taps = ceil_div(run.count - i, residues);
        const int64_t first = base >= 0 ? 0 : ceil_div(-base, step);
        const int64_t last = base >= height.in ? 0 : ceil_div(height.in - base, step);
        const int64_t tap = max_of(0, first - rows + 1), tap_end = min_of(taps, last);
        if (tap >= tap_end) continue;
        set_->row = z * p_.x_strides.sp[0] + (base + tap * step) * pitch;
        set_->rows = tap_end - tap + rows - 1;
        set_->first = max_of(0, first - tap);
        set_->last = min_of(set_->rows, last - tap);
        set_->row_stride = step * pitch;
        set_->weight = (kd * height.kernel + run.tap + (i + tap * residues) * run.tap_step) * kw;
        set_->weight_row = residues * run.tap_step * kw;
        set_->taps = tap_end - tap;
        ++set_;
      }
    }
    return set_ - begin;
  }

  static int64_t common_divisor(int64_t a, int64_t b) {
    return b == 0 ? a : common_divisor(b, a % b);
  }

  const Correlation& p_;
  DirectScratch<T>& s_;
  const Correlation::Task& task_;
  DirectSet* set_;
  TapRun dz_;
  int64_t tz_;
  CorrelationAxis::Range planes_;
};

template <class T>
class DirectTask {
 public:
  using A = Accum<T>;
  static constexpr int kV = kLanes<A>;

  DirectTask(const Correlation& p, void* scratch) : p_(p) {
    s_.carve(p, static_cast<char*>(scratch));
    std::memset(s_.zeros, 0, s_.zero_columns * sizeof(T));
    const CorrelationAxis& width = p.axis[2];
    const TapRun columns = width.taps(0);
    band_.columns = columns;
    band_.width = width.in;
    band_.activation = brief<T, Tile::kRoomy>(p.activation);
    band_.first_inside = -columns.offset;
    band_.last_inside = width.in - kV - columns.offset - (columns.count - 1) * columns.offset_step;
  }

  void run(const Correlation::Task& task) {
    task_ = task;
    DirectGeometry<T>(p_, s_, task).list();
    // The row of zeros stands for columns from the first on that the task can read.
    zero_row_ = s_.zeros - max_of(0, min_of(p_.axis[2].reads(task.x0, task.x1).first,
                                            p_.axis[2].in - s_.zero_columns));
    for (int64_t channel = task.c0; channel < task.c1; ++channel) {
      load_filter(channel);
      run_bands(input(channel), output(channel));
    }
  }

 private:
  const T* input(int64_t channel) const {
    return static_cast<const T*>(p_.x) + task_.n * p_.x_strides.n +
           channel / p_.fan_out * p_.fan_in * p_.x_strides.c;
  }
  T* output(int64_t channel) const {
    return static_cast<T*>(p_.y) + task_.n * p_.y_strides.n + channel * p_.y_strides.c +
           task_.z0 * p_.y_strides.sp[0];
  }
  void load_filter(int64_t channel) {
    const int64_t count = p_.fan_in * p_.taps;
    const T* weight = static_cast<const T*>(p_.weight) + channel * count;
    if constexpr (sizeof(T) == sizeof(A)) {
      filter_ = weight;
    } else {
      widen_all(s_.weight, weight, count);
      filter_ = s_.weight;
    }
    band_.bias = p_.bias == nullptr ? A{0} : to_float(static_cast<const T*>(p_.bias)[channel]);
  }

  void run_bands(const T* x, T* y) {
    const DirectSet* sets = s_.band_sets;
    for (int64_t i = 0; i < s_.band_count; ++i) {
      const DirectRowBand& band = s_.bands[i];
      list_rows(x, sets, band.sets);
      sets += band.sets;
      band_.y = y + band.y;
      band_.y_row_stride = band.y_row_stride;
      switch (band.rows) {
        case 8:
          direct_columns<8>(band_, task_.x0, task_.x1);
          break;
        case 4:
          direct_columns<4>(band_, task_.x0, task_.x1);
          break;
        default:
          direct_columns<1>(band_, task_.x0, task_.x1);
      }
      finish_rows<Tile::kRoomy>(p_, band_.y + task_.x0, 1, 0, band.rows, band.y_row_stride,
                                task_.x1 - task_.x0);
    }
  }

  void list_rows(const T* x, const DirectSet* sets, int64_t count) {
    const T** table = s_.rows;
    DirectRows<T>* out = s_.sets;
    for (int64_t j = 0; j < p_.fan_in; ++j, x += p_.x_strides.c) {
      const A* filter = filter_ + j * p_.taps;
      for (int64_t i = 0; i < count; ++i, ++out) {
        const DirectSet& set = sets[i];
        *out = {table, filter + set.weight, set.weight_row, set.taps};
        const T* row = x + set.row;
        for (int64_t r = 0; r < set.rows; ++r, row += set.row_stride) {
          *table++ = r >= set.first && r < set.last ? row : zero_row_;
        }
      }
    }
    band_.sets = s_.sets;
    band_.set_count = out - s_.sets;
  }

  const Correlation& p_;
  DirectScratch<T> s_;
  Correlation::Task task_;
  const T* zero_row_;
  const A* filter_;
  DirectBand<T> band_;
};

template <class T>
void direct_tasks(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  DirectTask<T> worker(p, scratch);
  TaskGrid(p).each(begin, end, [&](const Correlation::Task& task) { worker.run(task); });
}

#endif

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
