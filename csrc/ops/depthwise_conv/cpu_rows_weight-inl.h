// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Contiguous (NCHW-like) weight gradient: vector lanes are output columns.
//
// A task owns the filters of one input channel.  Per unit it stages x (padded, widened) and dy
// (widened), then takes filter rows one by one: a run of taps stays in registers while it sweeps
// all rows of the unit.  Lanes are added up once, at the end of the task.
#pragma once

#include "ops/depthwise_conv/cpu_rows-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

template <class T>
class RowsWeightTask {
 public:
  using A = Accum<T>;
  static constexpr int kV = kLanes<A>;

  RowsWeightTask(const WeightPlan& p, void* scratch) : p_(p) { carve(static_cast<char*>(scratch)); }
  static int64_t scratch_bytes(const WeightPlan& p) { return RowsWeightTask(p).carve(nullptr); }

  void run(int64_t task) {
    const int64_t channel = task / p_.groups, group = task % p_.groups;
    const int64_t m = p_.multiplier;
    std::memset(sums_, 0, m * p_.columns() * kVectorBytes);
    const int64_t last = min_of((group + 1) * p_.units_per_group, p_.units());
    for (int64_t u = group * p_.units_per_group; u < last; ++u) unit(p_.unit(u), channel);
    A* part =
        static_cast<A*>(p_.workspace) + (group * p_.out_channels() + channel * m) * p_.columns();
    for (int64_t i = 0; i < m * p_.columns(); ++i) part[i] = reduce_add<A>(load(sums_ + i * kV));
  }

 private:
  explicit RowsWeightTask(const WeightPlan& p) : p_(p) {}

  int64_t carve(char* base) {
    const CorrelationAxis& height = p_.reads[1];
    const CorrelationAxis& width = p_.reads[2];
    const auto [row_lo, row_hi] = height.reads(0, min_of(p_.row_chunk, height.out));
    const auto [column_lo, column_hi] = width.reads(0, min_of(p_.column_chunk, width.out));
    window_ = row_hi - row_lo;
    sparse_ = window_ > 2 * height.kernel + 2 * p_.row_chunk * height.step + 16;
    slots_ = sparse_ ? p_.row_chunk : window_;
    stage_.step = width.step;
    stage_.residue_pitch = round_up(ceil_div(column_hi - column_lo, width.step) + kV, kV);
    dy_pitch_ = round_up(min_of(p_.column_chunk, width.out), kV);
    char* at = base;
    const auto take = [&at](int64_t size) {
      char* piece = at;
      at += round_up(size, 64);
      return reinterpret_cast<A*>(piece);
    };
    sums_ = take(p_.multiplier * p_.columns() * kVectorBytes);
    x_ = take(slots_ * stage_.row_pitch() * sizeof(A));
    dy_ = take(p_.multiplier * p_.row_chunk * dy_pitch_ * sizeof(A));
    return at - base;
  }

  void unit(const WeightPlan::Unit& u, int64_t channel) {
    unit_ = u;
    stage_dy(channel * p_.multiplier);
    const TapRun depth = p_.reads[0].taps(0), height = p_.reads[1].taps(0);
    const auto [d_first, d_last] = p_.reads[0].valid(depth, u.z);
    stage_.column0 = p_.reads[2].reads(u.x0, u.x1).first;
    stage_.row0 = p_.reads[1].reads(u.y0, u.y1).first;
    for (int64_t d = d_first; d < d_last; ++d) {
      const int64_t z = u.z * p_.axis[0].stride + depth.offset + d * depth.offset_step;
      const T* plane = static_cast<const T*>(p_.x) + u.n * p_.x_strides.n +
                       channel * p_.x_strides.c + z * p_.x_strides.sp[0];
      if (!sparse_) {
        const int64_t rows = p_.reads[1].reads(u.y0, u.y1).last - stage_.row0;
        stage_x(plane, stage_.row0, 1, rows);
      }
      for (int64_t h = 0; h < height.count; ++h) {
        // Output rows whose tap h is inside the image.
        const int64_t at = height.offset + h * height.offset_step, step = p_.axis[1].stride;
        const int64_t first = max_of(u.y0, at >= 0 ? 0 : ceil_div(-at, step));
        const int64_t last =
            min_of(u.y1, p_.axis[1].in > at ? ceil_div(p_.axis[1].in - at, step) : 0);
        if (first >= last) continue;
        if (sparse_) stage_x(plane, first * step + at, step, last - first);
        const A* x = x_ + (sparse_ ? 0 : first * step + at - stage_.row0) * stage_.row_pitch();
        const int64_t x_rows = (sparse_ ? 1 : step) * stage_.row_pitch();
        for (int64_t j = 0; j < p_.multiplier; ++j) {
          const A* dy = dy_ + (j * p_.row_chunk + first - u.y0) * dy_pitch_;
          A* sums = sums_ + (j * p_.columns() + (d * height.count + h) * p_.axis[2].kernel) * kV;
          filter_row(x, x_rows, dy, last - first, sums);
        }
      }
    }
  }

  void stage_x(const T* plane, int64_t row, int64_t row_step, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i, row += row_step) {
      if (row < 0 || row >= p_.axis[1].in) continue;  // never read: taps outside are skipped
      stage_row(stage_, x_ + i * stage_.row_pitch(), plane + row * p_.x_strides.sp[1],
                p_.x_strides.sp[2], p_.axis[2].in);
    }
  }

  // dy rows of every filter of the channel, and their sums for the bias.
  void stage_dy(int64_t first_filter) {
    const int64_t columns = unit_.x1 - unit_.x0;
    for (int64_t j = 0; j < p_.multiplier; ++j) {
      const T* dy = static_cast<const T*>(p_.dy) + unit_.n * p_.dy_strides.n +
                    (first_filter + j) * p_.dy_strides.c + unit_.z * p_.dy_strides.sp[0] +
                    unit_.x0 * p_.dy_strides.sp[2];
      A* bias = sums_ + (j * p_.columns() + p_.taps()) * kV;
      Vec<A> sum = load(bias);
      for (int64_t y = unit_.y0; y < unit_.y1; ++y) {
        A* row = dy_ + (j * p_.row_chunk + y - unit_.y0) * dy_pitch_;
        store(row + round_up(columns, kV) - kV, Vec<A>{});  // lanes past the end add nothing
        stage_strided(row, dy + y * p_.dy_strides.sp[1], p_.dy_strides.sp[2], columns);
        for (int64_t x = 0; x < columns; x += kV) sum = sum + load(row + x);
      }
      store(bias, sum);
    }
  }

  void filter_row(const A* x, int64_t x_rows, const A* dy, int64_t rows, A* sums) {
    const int64_t kernel = p_.axis[2].kernel;
    int64_t k = 0;
    while (k < kernel) {
      const int64_t left = kernel - k;
      int n = 1;
      if (left >= 7) {
        taps<7>(k, x, x_rows, dy, rows, sums);
        n = 7;
      } else if (left >= 5) {
        taps<5>(k, x, x_rows, dy, rows, sums);
        n = 5;
      } else if (left >= 3) {
        taps<3>(k, x, x_rows, dy, rows, sums);
        n = 3;
      } else {
        taps<1>(k, x, x_rows, dy, rows, sums);
      }
      k += n;
      sums += n * kV;
    }
  }

  // sums[i] += dy * x shifted by tap k + i, over `rows` rows; two rows at a time.
  template <int Taps>
  void taps(int64_t k, const A* x, int64_t x_rows, const A* dy, int64_t rows, A* sums) {
    const int64_t columns = unit_.x1 - unit_.x0;
    int64_t at[Taps];
    Vec<A> even[Taps], odd[Taps];
#pragma GCC unroll 8
    for (int i = 0; i < Taps; ++i) {
      at[i] =
          stage_.at(unit_.x0 * p_.axis[2].stride - p_.axis[2].pad + (k + i) * p_.axis[2].dilation);
      even[i] = load(sums + i * kV);
      odd[i] = Vec<A>{};
    }
    const int64_t whole = columns / kV * kV;
    const int tail = static_cast<int>(columns - whole);
    for (int64_t r = 0; r < rows; r += 2) {
      const A* x0 = x + r * x_rows;
      const A* dy0 = dy + r * dy_pitch_;
      if (r + 1 < rows) {
        const A* x1 = x0 + x_rows;
        const A* dy1 = dy0 + dy_pitch_;
        for (int64_t c = 0; c < whole; c += kV) {
          const Vec<A> a = load(dy0 + c), b = load(dy1 + c);
#pragma GCC unroll 8
          for (int i = 0; i < Taps; ++i) {
            even[i] = fma(a, load(x0 + at[i] + c), even[i]);
            odd[i] = fma(b, load(x1 + at[i] + c), odd[i]);
          }
        }
        if (tail > 0) row_tail<Taps>(x1 + whole, dy1 + whole, at, tail, odd);
      } else {
        for (int64_t c = 0; c < whole; c += kV) {
          const Vec<A> a = load(dy0 + c);
#pragma GCC unroll 8
          for (int i = 0; i < Taps; ++i) even[i] = fma(a, load(x0 + at[i] + c), even[i]);
        }
      }
      if (tail > 0) row_tail<Taps>(x0 + whole, dy0 + whole, at, tail, even);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Taps; ++i) store(sums + i * kV, even[i] + odd[i]);
  }

  // The last, partial vector of a row: x past the end may be inf or NaN, so it is masked as well.
  template <int Taps>
  FASTCONV_INLINE void row_tail(const A* x, const A* dy, const int64_t (&at)[Taps], int tail,
                                Vec<A> (&sums)[Taps]) {
    const Vec<A> a = load(dy);
#pragma GCC unroll 8
    for (int i = 0; i < Taps; ++i) sums[i] = fma(a, load_n(x + at[i], tail), sums[i]);
  }

  const WeightPlan& p_;
  WeightPlan::Unit unit_{};
  Stage stage_{};
  int64_t window_ = 0, slots_ = 0, dy_pitch_ = 0;
  bool sparse_ = false;
  A* sums_ = nullptr;  // [filter][tap, bias last][lane]
  A* x_ = nullptr;     // [slot][step][residue_pitch]
  A* dy_ = nullptr;    // [filter][row][dy_pitch]
};

template <class T>
void rows_weight_tasks(const WeightPlan& p, int64_t begin, int64_t end, void* scratch) {
  RowsWeightTask<T> worker(p, scratch);
  for (int64_t task = begin; task < end; ++task) worker.run(task);
}

// Stage two: the groups' sums in order.
template <class T>
void reduce_weight_of(const WeightPlan& p, int64_t begin, int64_t end) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  const int64_t taps = p.taps(), columns = p.columns(), part = p.out_channels() * columns;
  const A* sums = static_cast<const A*>(p.workspace) + begin * columns;
  for (int64_t c = begin; c < end; ++c, sums += columns) {
    for (int64_t i = 0; p.dw != nullptr && i < taps; i += kV) {
      const int count = static_cast<int>(min_of(kV, taps - i));
      Vec<A> sum{};
      for (int64_t g = 0; g < p.groups; ++g) sum = sum + load_n(sums + g * part + i, count);
      store_n(static_cast<T*>(p.dw) + c * taps + i, sum, count);
    }
    if (p.db != nullptr) {
      A sum = 0;
      for (int64_t g = 0; g < p.groups; ++g) sum += sums[g * part + taps];
      static_cast<T*>(p.db)[c] = from_float<T>(sum);
    }
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
