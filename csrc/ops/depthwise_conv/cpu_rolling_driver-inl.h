// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Walks the task grid of a correlation whose strips roll down contiguous images.
#pragma once

#include "ops/depthwise_conv/cpu_rolling-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

#if FASTCONV_LEVEL >= 1

// A pair of channels whose rows are one vector.
template <int K, int Step, class T>
void rolling_pair(const RollingStrip<T>& t) {
  if (K == 3 && t.plane_count == 1) {
    rolling_strip<RollingShape<K, 2, K == 3, true, Step>>(t);
  } else {
    rolling_strip<RollingShape<K, 2, false, true, Step>>(t);
  }
}

// Strips of as many vectors as leave the sums under way in registers.
template <int K, bool Flat, int Step, class T>
void rolling_strips(RollingStrip<T> t) {
  constexpr int kMany = Step == 2 ? 2 : K == 7 ? 3 : 4, kFew = Step == 2 ? 1 : 3;
  constexpr int kV = kLanes<float>, kMost = kRollsLarge ? kMany : kFew;
  const int64_t end = t.x1;
  int64_t vectors = ceil_div(end - t.x0, kV);
  for (int64_t strips = ceil_div(vectors, kMost); strips > 0; --strips) {
    const int64_t v = ceil_div(vectors, strips);
    t.x1 = min_of(end, t.x0 + v * kV);
    switch (v) {
      case 1:
        rolling_strip<RollingShape<K, 1, Flat, false, Step>>(t);
        break;
      case 2:
        if constexpr (kMost >= 2) rolling_strip<RollingShape<K, 2, Flat, false, Step>>(t);
        break;
      case 3:
        if constexpr (kMost >= 3) rolling_strip<RollingShape<K, 3, Flat, false, Step>>(t);
        break;
      default:
        if constexpr (kMost >= 4) rolling_strip<RollingShape<K, 4, Flat, false, Step>>(t);
    }
    vectors -= v;
    t.x0 = t.x1;
  }
}
// Only a 3x3 filter of one plane has code of its own: its weights are held.
template <int K, int Step, class T>
void rolling_channel(const RollingStrip<T>& t) {
  if (K == 3 && t.plane_count == 1) {
    rolling_strips<K, K == 3, Step>(t);
  } else {
    rolling_strips<K, false, Step>(t);
  }
}

template <class T>
struct RollingScratch {
  RollingPlane* planes;
  float* weight;  // of a pair of output channels, widened or turned around

  int64_t carve(const Correlation& p, char* base) {
    const int64_t bytes = round_up(p.axis[0].kernel * int64_t{sizeof(RollingPlane)}, 64);
    planes = reinterpret_cast<RollingPlane*>(base);
    weight = reinterpret_cast<float*>(base + bytes);
    return bytes + 2 * p.taps * int64_t{sizeof(float)};
  }
};

template <class T>
class RollingTask {
 public:
  RollingTask(const Correlation& p, void* scratch) : p_(p) {
    const CorrelationAxis& height = p.axis[1];
    s_.carve(p, static_cast<char*>(scratch));
    t_.planes = s_.planes;
    t_.row_stride = p.x_strides.sp[1];
    t_.height = height.in;
    t_.width = p.axis[2].in;
    t_.activation = brief<T, Tile::kTight>(p.activation);
    t_.pad_rows = -height.taps(0).offset;
    t_.pad = -p.axis[2].taps(0).offset;
    t_.y_row_stride = p.y_strides.sp[1];
    t_.x_channel = p.x_strides.c;
    t_.y_channel = p.y_strides.c;
    t_.weight_channel = p.taps;
    t_.ahead = elements_ahead(p.prefetch, t_.row_stride, t_.height);
    t_.y_ahead = elements_ahead(p.prefetch, t_.y_row_stride, height.out);
  }

  void run(const Correlation::Task& task) {
    t_.x0 = task.x0;
    t_.x1 = task.x1;
    t_.plane_count = list_planes(task.z0);
    // Channels that share their input would need a stride of zero for every other pair.
    const bool pairs = task.x1 - task.x0 <= kLanes<float> && p_.fan_out == 1;
    const T* x = static_cast<const T*>(p_.x) + task.n * p_.x_strides.n;
    T* y = static_cast<T*>(p_.y) + task.n * p_.y_strides.n + task.z0 * p_.y_strides.sp[0];
    const int64_t rows = task.y1 - task.y0;
    int64_t first = task.c0;  // of the channels that are complete and not finished
    for (int64_t channel = task.c0; channel < task.c1;) {
      const int64_t count = pairs && channel + 1 < task.c1 ? 2 : 1, piece = piece_rows(task, count);
      t_.x = x + (p_.fan_out == 1 ? channel : channel / p_.fan_out) * p_.x_strides.c;
      t_.y = y + channel * p_.y_strides.c;
      load_filters(channel, count);
      for (t_.y0 = task.y0; t_.y0 < task.y1; t_.y0 = t_.y1) {
        t_.y1 = min_of(task.y1, t_.y0 + piece);
        run_rows(count);
        if (piece < rows) finish(t_.y, count);
      }
      channel += count;
      if (piece < rows) {
        first = channel;
      } else if (channel == task.c1 || (channel - first) * bytes(rows) >= kPieceBytes) {
        t_.y0 = task.y0;
        finish(y + first * p_.y_strides.c, channel - first);
        first = channel;
      }
    }
  }

 private:
  int64_t bytes(int64_t rows) const {
    return rows * (t_.x1 - t_.x0) * static_cast<int64_t>(sizeof(T));
  }

  // Output rows that are computed, and finished, at once.
  int64_t piece_rows(const Correlation::Task& task, int64_t channels) const {
    const int64_t rows = task.y1 - task.y0;
    if (t_.activation == p_.activation) return rows;
    // A piece begins with the rows above it: not for fewer than eight times as many.
    const int64_t most = max_of(kPieceBytes / bytes(channels), 8 * p_.axis[1].kernel);
    return ceil_div(rows, ceil_div(rows, most));
  }

  void run_rows(int64_t count) {
    p_.axis[2].step == 1 ? run_rows_of<1>(count) : run_rows_of<2>(count);
  }
  template <int Step>
  void run_rows_of(int64_t count) {
    const int64_t kernel = p_.axis[2].kernel;
    if (kernel == 3) {
      count == 2 ? rolling_pair<3, Step>(t_) : rolling_channel<3, Step>(t_);
    } else if constexpr (kRollsLarge) {
      if (kernel == 5) {
        count == 2 ? rolling_pair<5, Step>(t_) : rolling_channel<5, Step>(t_);
      } else {
        count == 2 ? rolling_pair<7, Step>(t_) : rolling_channel<7, Step>(t_);
      }
    }
  }

  // The rows from t_.y0 to t_.y1 of `channels`, of which `y` is the first.
  void finish(T* y, int64_t channels) const {
    y += t_.y0 * t_.y_row_stride + t_.x0;
    finish_rows<Tile::kTight>(p_, y, channels, t_.y_channel, t_.y1 - t_.y0, t_.y_row_stride,
                              t_.x1 - t_.x0);
  }

  // The input planes that output plane z reads, with their filter planes.
  int64_t list_planes(int64_t z) const {
    const CorrelationAxis& depth = p_.axis[0];
    const TapRun run = depth.taps(z % depth.phases);
    const int64_t tz = z / depth.phases;
    const auto [first, last] = depth.valid(run, tz);
    int64_t count = 0;
    for (int64_t d = first; d < last; ++d) {
      const int64_t plane = tz * depth.step + run.offset + d * run.offset_step;
      const int64_t tap = run.tap + d * run.tap_step;
      const int64_t kd = depth.backward ? depth.kernel - 1 - tap : tap;
      s_.planes[count++] = {plane * p_.x_strides.sp[0], kd * p_.axis[1].kernel * p_.axis[2].kernel};
    }
    return count;
  }

  // The filters and biases of `count` output channels.  Those of backward-data meet the input from
  // the last tap to the first.
  void load_filters(int64_t channel, int64_t count) {
    const T* weight = static_cast<const T*>(p_.weight) + channel * p_.taps;
    t_.weight = s_.weight;
    if (p_.axis[2].backward) {
      for (int64_t c = 0; c < count; ++c) {
        for (int64_t i = 0; i < p_.taps; ++i) {
          s_.weight[c * p_.taps + i] = to_float(weight[(c + 1) * p_.taps - 1 - i]);
        }
      }
    } else if constexpr (sizeof(T) == sizeof(float)) {
      t_.weight = weight;
    } else {
      widen_all(s_.weight, weight, count * p_.taps);
    }
    for (int64_t c = 0; c < count; ++c) {
      t_.bias[c] = p_.bias == nullptr ? 0.f : to_float(static_cast<const T*>(p_.bias)[channel + c]);
    }
  }

  const Correlation& p_;
  RollingScratch<T> s_;
  RollingStrip<T> t_;
};

template <class T>
void rolling_tasks(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  RollingTask<T> worker(p, scratch);
  TaskGrid(p).each(begin, end, [&](const Correlation::Task& task) { worker.run(task); });
}

#endif

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
