// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last correlation with filters of one column: 5x1, 3x1x1, 5x1x1.
//
// An output row is a sum of whole input rows, each times its tap.  So lanes run over the channels
// of all pixels of a row as if they were one long line: no vector is partly empty, whatever the
// number of channels, and all memory is read and written in order.  The weights are repeated over
// the fewest pixels that fill whole vectors.  Where a plane's rows lie one behind the other, a
// filter with planes alone takes planes for rows.
//
// kFlatRows output rows share each load of a weight: with two vectors of each that is 10 loads for
// 8 FMAs, most of them from L1, as the rows of a task's few pixels stay there.
#pragma once

#include "ops/depthwise_conv/cpu_channels_driver-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

constexpr int kFlatRows = 4;

template <class T>
struct FlatScratch {
  using A = Accum<T>;
  A* weight;            // [vector of the period][tap][lane]
  A* bias;              // [vector of the period][lane]
  RowTap* rows;         // [output row of the task][kd * kh]
  int64_t* row_counts;  // [output row of the task]
  Correlation::Task geometry{};

  int64_t carve(const Correlation& p, char* base) {
    char* at = base;
    const auto take = [&at](int64_t size) {
      char* piece = at;
      at += round_up(size, 64);
      return piece;
    };
    const int64_t lanes = flat_period(p.out_channels), rows_ = p.plane_chunk * p.row_chunk;
    weight = reinterpret_cast<A*>(take(lanes * p.taps * sizeof(A)));
    bias = reinterpret_cast<A*>(take(lanes * sizeof(A)));
    rows = reinterpret_cast<RowTap*>(take(rows_ * p.taps * sizeof(RowTap)));
    row_counts = reinterpret_cast<int64_t*>(take(rows_ * sizeof(int64_t)));
    return at - base;
  }

  void pack(const Correlation& p) {
    constexpr int kV = kLanes<A>;
    const int64_t channels = p.out_channels;
    const T* const w = static_cast<const T*>(p.weight);
    const T* const b = static_cast<const T*>(p.bias);
    for (int64_t i = 0, c = 0; i < flat_period(channels); ++i, c = c + 1 == channels ? 0 : c + 1) {
      A* packed = weight + i / kV * p.taps * kV + i % kV;
      for (int64_t tap = 0; tap < p.taps; ++tap) packed[tap * kV] = to_float(w[c * p.taps + tap]);
      bias[i] = b == nullptr ? A{0} : to_float(b[c]);
    }
  }
};

// Neighbouring output rows that meet the same taps.
template <class T>
struct FlatRows {
  const T* x;  // where the lists of rows begin to count, at the first column
  T* y;
  const RowTap* rows;  // of the first output row
  int64_t row_count;
  int64_t x_step, y_step;  // from one output row to the next
  const Accum<T>* weight;
  const Accum<T>* bias;
  int64_t taps, period;   // vectors of weights
  int64_t length;         // elements of a row
  Activation activation;  // of sums in registers
};

// U vectors of each of R rows, from element `at` on, which vector v of the period meets; returns
// the one after them.
template <int R, int U, bool Whole, class T>
FASTCONV_INLINE int64_t flat_vectors(const FlatRows<T>& t, int64_t at, int64_t v) {
  using V = Vec<Accum<T>>;
  constexpr int kV = kLanes<Accum<T>>;
  static_assert(Whole || U == 1);
  const int left = static_cast<int>(t.length - at);
  const Accum<T>* weight[U];
  V sums[R][U];
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u) {
    weight[u] = t.weight + v * t.taps * kV;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[r][u] = load(t.bias + v * kV);
    if (++v == t.period) v = 0;
  }
  for (int64_t i = 0; i < t.row_count; ++i) {
    const T* const x = t.x + t.rows[i].row + at;
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) {
      V w = load(weight[u] + t.rows[i].weight * kV);
      pin(w);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const T* const p = x + r * t.x_step + u * kV;
        sums[r][u] = fma(Whole ? load(p) : load_n(p, left), w, sums[r][u]);
      }
    }
  }
  finish_sums<T, Tile::kEvery>(t.activation, sums);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) {
      T* const p = t.y + r * t.y_step + at + u * kV;
      Whole ? store(p, sums[r][u]) : store_n(p, sums[r][u], left);
    }
  }
  return v;
}

template <int R, int U, class T>
void flat_rows(const FlatRows<T>& t) {
  constexpr int kV = kLanes<Accum<T>>;
  int64_t at = 0, v = 0;
  for (; at + U * kV <= t.length; at += U * kV) v = flat_vectors<R, U, true>(t, at, v);
  for (; at + kV <= t.length; at += kV) v = flat_vectors<R, 1, true>(t, at, v);
  if (at < t.length) flat_vectors<R, 1, false>(t, at, v);
}

// Whether the rows after row i of the task meet the same taps, each `step` elements further on.
inline bool same_taps(const RowTap* rows, const int64_t* counts, int64_t taps, int64_t step) {
  for (int r = 1; r < kFlatRows; ++r) {
    if (counts[r] != counts[0]) return false;
    for (int64_t i = 0; i < counts[0]; ++i) {
      const RowTap &first = rows[i], &other = rows[r * taps + i];
      if (other.weight != first.weight || other.row != first.row + r * step) return false;
    }
  }
  return true;
}

template <class T>
void flat_task(const Correlation& p, FlatScratch<T>& s, const Correlation::Task& task, const T* x,
               T* y) {
  prepare_rows(p, task, s);
  FlatRows<T> t;
  t.x = x + task.x0 * p.x_strides.sp[2];
  t.x_step = p.axis[1].step * p.x_strides.sp[1];
  t.y_step = p.y_strides.sp[1];
  t.weight = s.weight;
  t.bias = s.bias;
  t.taps = p.taps;
  t.period = flat_period(p.out_channels) / kLanes<Accum<T>>;
  t.length = (task.x1 - task.x0) * p.out_channels;
  t.activation = p.activation;
  const int64_t rows = task.y1 - task.y0;
  for (int64_t z = task.z0; z < task.z1; ++z) {
    T* out = y + z * p.y_strides.sp[0] + task.y0 * t.y_step + task.x0 * p.y_strides.sp[2];
    for (int64_t row = 0; row < rows;) {
      const int64_t i = (z - task.z0) * rows + row;
      t.y = out + row * t.y_step;
      t.rows = s.rows + i * p.taps;
      t.row_count = s.row_counts[i];
      const bool several =
          rows - row >= kFlatRows && same_taps(t.rows, s.row_counts + i, p.taps, t.x_step);
      several ? flat_rows<kFlatRows, 2>(t) : flat_rows<1, 4>(t);
      row += several ? kFlatRows : 1;
    }
  }
}

template <class T>
void flat_tasks(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  FlatScratch<T> s;
  s.carve(p, static_cast<char*>(scratch));
  s.pack(p);
  TaskGrid(p).each(begin, end, [&](const Correlation::Task& task) {
    flat_task<T>(p, s, task, static_cast<const T*>(p.x) + task.n * p.x_strides.n,
                 static_cast<T*>(p.y) + task.n * p.y_strides.n);
  });
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
