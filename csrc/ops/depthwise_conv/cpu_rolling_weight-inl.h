// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Contiguous (NCHW-like) weight gradient of small square filters, strides 1 and 2: lanes are
// columns, and a strip of one vector of dy rolls down the image.
//
// The sums of up to 21 taps stay in registers for the whole plane.  Each row of x is loaded once
// and its shifts meet the rows of dy that the filter rows pair it with: 3 rows of 5 taps, 15 FMAs
// for 5 loads and 4 shifts.  Lanes are added up at the end of a task.
#pragma once

#include "common/transpose-inl.h"
#include "ops/depthwise_conv/cpu_rolling-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

#if FASTCONV_LEVEL >= 1

// One plane of x, and the plane of dy that one (kd) of the filter pairs it with.
template <class T>
struct RollingGradient {
  const T* x;
  const T* dy;
  int64_t x_row, dy_row;  // strides
  int64_t height, width;  // of x
  int64_t pad_rows, pad;
  int64_t y0, y1, x0, x1;     // of dy
  int64_t x_ahead, dy_ahead;  // elements by which to prefetch, or none
};

template <int Taps, int Rows>
struct GradientSums {
  VecF32 tap[Rows][Taps];
};
template <int Step>
struct GradientColumns {
  LaneRange<float> inside[Step + 1];  // of the vectors of x under a vector of dy
  LaneRange<float> outputs;
};

// The columns of x that meet a vector of dy, tap by tap.
template <int... C>
FASTCONV_INLINE void shift_taps(const VecF32 (&v)[2], VecF32 (&x)[sizeof...(C)], Ints<C...>) {
  ((x[C] = shift_lanes<C>(v[0], v[1])), ...);
}
template <int... C>
FASTCONV_INLINE void shift_taps(const VecF32 (&v)[3], VecF32 (&x)[sizeof...(C)], Ints<C...>) {
  VecF32 low[2], high[2];
  split_pairs(v[0], v[1], low[0], low[1]);
  split_pairs(v[2], VecF32{}, high[0], high[1]);
  ((x[C] = shift_lanes<C / 2>(low[C % 2], high[C % 2])), ...);
}

// Group g of input rows: Step of them, of which row u pairs with filter rows u, u + Step, ...
template <int Taps, int Step, int Rows, bool Edge, class T>
FASTCONV_INLINE void gradient_group(const RollingGradient<T>& t, const GradientColumns<Step>& c,
                                    int64_t x0, int64_t g, GradientSums<Taps, Rows>& sums) {
  constexpr int kV = kLanes<float>;
  constexpr int kResidues = Step < Rows ? Step : Rows;
#pragma GCC unroll 2
  for (int u = 0; u < kResidues; ++u) {
    const int64_t row = g * Step + u - t.pad_rows;
    if (Edge && static_cast<uint64_t>(row) >= static_cast<uint64_t>(t.height)) continue;
    const T* p = t.x + row * t.x_row + x0 * Step - t.pad;
    VecF32 v[Step + 1], x[Taps];
#pragma GCC unroll 4
    for (int i = 0; i <= Step; ++i) v[i] = load_range(p + i * kV, c.inside[i]);
    if (t.x_ahead != 0) prefetch_vectors<Step, false>(p + t.x_ahead);
    shift_taps(v, x, Count<Taps>());
#pragma GCC unroll 4
    for (int h = u; h < Rows; h += Step) {
      const int64_t y = g - h / Step;
      if (Edge && (y < t.y0 || y >= t.y1)) continue;
      VecF32 dy = load_range(t.dy + y * t.dy_row + x0, c.outputs);
      pin(dy);
      if (h == 0 && t.dy_ahead != 0)
        prefetch_vectors<1, false>(t.dy + y * t.dy_row + x0 + t.dy_ahead);
#pragma GCC unroll 8
      for (int k = 0; k < Taps; ++k) {
        sums.tap[h][k] = fma_range(x[k], dy, sums.tap[h][k], c.outputs);
      }
    }
  }
}

// Adds the first `Rows` filter rows and `Taps` filter columns to sums, [row][tap][lane].
template <int Taps, int Step, int Rows, class T>
void rolling_gradient(const RollingGradient<T>& gradient, float* sums, int64_t sums_row) {
  constexpr int kV = kLanes<float>, kReach = (Rows - 1) / Step;
  const RollingGradient<T> t = gradient;
  GradientSums<Taps, Rows> s;
#pragma GCC unroll 4
  for (int h = 0; h < Rows; ++h) {
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k) s.tap[h][k] = load(sums + h * sums_row + k * kV);
  }
  // Groups that any row of dy takes part in; of these [whole, whole_end) with all their rows.
  const int64_t end = t.y1 + kReach;
  const int64_t whole = min_of(end, max_of(t.y0 + kReach, ceil_div(t.pad_rows, Step)));
  const int64_t whole_end = min_of(t.y1, floor_div(t.height + t.pad_rows, Step));
  for (int64_t x0 = t.x0; x0 < t.x1; x0 += kV) {
    GradientColumns<Step> c;
#pragma GCC unroll 4
    for (int i = 0; i <= Step; ++i) {
      c.inside[i] = columns_inside<float>(x0 * Step - t.pad + i * kV, t.width);
    }
    c.outputs = lane_range<float>(0, static_cast<int>(min_of(kV, t.x1 - x0)));
    int64_t g = t.y0;
    for (; g < whole; ++g) gradient_group<Taps, Step, Rows, true>(t, c, x0, g, s);
    for (; g < whole_end; ++g) gradient_group<Taps, Step, Rows, false>(t, c, x0, g, s);
    for (; g < end; ++g) gradient_group<Taps, Step, Rows, true>(t, c, x0, g, s);
  }
#pragma GCC unroll 4
  for (int h = 0; h < Rows; ++h) {
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k) store(sums + h * sums_row + k * kV, s.tap[h][k]);
  }
}

// Adds all taps of a K x K filter plane to sums, [kh][kw][lane], so many rows at a time that their
// sums and the shifts of x fit the registers: 5 rows are 3 and 2, 7 are 3, 2 and 2.
template <int K, int Step, class T>
void gradient_taps(RollingGradient<T> t, float* sums) {
  constexpr int kRow = K * kLanes<float>;
  if constexpr (Step == 1 || K == 3) {
    rolling_gradient<K, Step, 3>(t, sums, kRow);
    t.pad_rows -= 3;
    sums += 3 * kRow;
    for (int h = 3; h < K; h += 2, t.pad_rows -= 2, sums += 2 * kRow) {
      rolling_gradient<K, Step, 2>(t, sums, kRow);
    }
  } else {  // runs start at even rows
    for (int h = 0; h < K - 3; h += 2, t.pad_rows -= 2, sums += 2 * kRow) {
      rolling_gradient<K, Step, 2>(t, sums, kRow);
    }
    rolling_gradient<K, Step, 3>(t, sums, kRow);
  }
}

template <int Step, class T>
void gradient_plane(const RollingGradient<T>& t, int64_t kernel, float* sums) {
  if (kernel == 3) {
    gradient_taps<3, Step>(t, sums);
  } else if constexpr (kRollsLarge) {
    kernel == 5 ? gradient_taps<5, Step>(t, sums) : gradient_taps<7, Step>(t, sums);
  }
}

// Adds a plane of dy to `sum`, one vector.
template <class T>
void rolling_bias(const RollingGradient<T>& t, float* sum) {
  constexpr int kV = kLanes<float>;
  VecF32 s = load(sum);
  for (int64_t y = t.y0; y < t.y1; ++y) {
    const T* row = t.dy + y * t.dy_row;
    int64_t x = t.x0;
    for (; x + kV <= t.x1; x += kV) s = s + load(row + x);
    if (x < t.x1) s = s + load_n(row + x, static_cast<int>(t.x1 - x));
  }
  store(sum, s);
}

// parts[i] = the lanes of sums[i][lane], added up in a fixed order.
inline void add_lanes(float* parts, const float* sums, int64_t count) {
  constexpr int kV = kLanes<float>;
  for (int64_t i = 0; i < count; i += kV) {
    const int left = static_cast<int>(min_of(kV, count - i));
    VecF32 v[kV];
#pragma GCC unroll 16
    for (int j = 0; j < kV; ++j) v[j] = j < left ? load(sums + (i + j) * kV) : VecF32{};
    transpose<float>(v);
#pragma GCC unroll 4
    for (int half = kV / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
      for (int j = 0; j < half; ++j) v[j] = v[j] + v[j + half];
    }
    store_n(parts + i, v[0], left);
  }
}

template <class T>
void rolling_weight_tasks(const WeightPlan& p, int64_t begin, int64_t end, void* scratch) {
  constexpr int kV = kLanes<float>;
  float* sums = static_cast<float*>(scratch);
  const int64_t plane_taps = p.axis[1].kernel * p.axis[2].kernel;
  const TapRun depth = p.reads[0].taps(0);
  RollingGradient<T> t;
  t.x_row = p.x_strides.sp[1];
  t.dy_row = p.dy_strides.sp[1];
  t.height = p.axis[1].in;
  t.width = p.axis[2].in;
  t.pad_rows = p.axis[1].pad;
  t.pad = p.axis[2].pad;
  t.x_ahead = elements_ahead(p.prefetch, t.x_row, t.height);
  t.dy_ahead = elements_ahead(p.prefetch, t.dy_row, p.axis[1].out);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t c0 = task / p.groups * p.channel_block, group = task % p.groups;
    const int64_t last = min_of((group + 1) * p.units_per_group, p.units());
    for (int64_t c = c0; c < min_of(c0 + p.channel_block, p.out_channels()); ++c) {
      std::memset(sums, 0, p.columns() * kVectorBytes);
      for (int64_t i = group * p.units_per_group; i < last; ++i) {
        const WeightPlan::Unit u = p.unit(i);
        const T* x =
            static_cast<const T*>(p.x) + u.n * p.x_strides.n + c / p.multiplier * p.x_strides.c;
        t.dy = static_cast<const T*>(p.dy) + u.n * p.dy_strides.n + c * p.dy_strides.c +
               u.z * p.dy_strides.sp[0];
        t.y0 = u.y0;
        t.y1 = u.y1;
        t.x0 = u.x0;
        t.x1 = u.x1;
        const auto [first, d_end] = p.reads[0].valid(depth, u.z);
        for (int64_t d = first; d < d_end; ++d) {
          const int64_t z = u.z * p.axis[0].stride + depth.offset + d * depth.offset_step;
          t.x = x + z * p.x_strides.sp[0];
          float* out = sums + d * plane_taps * kV;
          if (p.axis[2].stride == 2) {
            gradient_plane<2>(t, p.axis[2].kernel, out);
          } else {
            gradient_plane<1>(t, p.axis[2].kernel, out);
          }
        }
        if (p.db != nullptr) rolling_bias(t, sums + p.taps() * kV);
      }
      add_lanes(static_cast<float*>(p.workspace) + (group * p.out_channels() + c) * p.columns(),
                sums, p.columns());
    }
  }
}

#endif

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
