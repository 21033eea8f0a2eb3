// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last weight gradient: vector lanes are channels.
//
// Each task owns a block of channels and keeps a vector of sums per tap in L1; a run of taps lives
// in registers while it walks one output row.
#pragma once

#include "common/transpose-inl.h"
#include "ops/depthwise_conv/cpu_channels-inl.h"
#include "ops/depthwise_conv/cpu_window_weight-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// One output row against one input row, for one vector of channels.
template <class T>
struct WeightRow {
  const T* dy;  // column 0
  int64_t dy_stride;
  const T* x;  // column 0
  int64_t x_stride, width;
  int64_t first, last;  // output columns
  int64_t step, dilation;
  int lanes, x_lanes;
  VecI32 expand;
};

template <bool Partial, Lanes L, class T>
FASTCONV_INLINE Vec<Accum<T>> load_x(const WeightRow<T>& r, int64_t column) {
  Vec<Accum<T>> v = load_lanes<Partial>(r.x + column * r.x_stride, r.x_lanes);
  if constexpr (L == Lanes::kExpanded) v = expand_lanes<Accum<T>>(v, r.expand);
  return v;
}

// sums[k] += dy[o] * x[o*step + offset + k*dilation] for Taps taps; sums are kV apart.
template <int Taps, bool Partial, Lanes L, class T>
FASTCONV_INLINE void weight_taps(const WeightRow<T>& r, int64_t offset, Accum<T>* sums) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  // Outputs for which every tap is inside the image; the others go tap by tap.
  const int64_t reach = offset + (Taps - 1) * r.dilation;
  int64_t lo = offset >= 0 ? 0 : ceil_div(-offset, r.step);
  int64_t hi = r.width > reach ? ceil_div(r.width - reach, r.step) : 0;
  lo = min_of(max_of(lo, r.first), r.last);
  hi = max_of(lo, min_of(hi, r.last));

  Vec<A> even[Taps], odd[Taps];  // two chains per tap hide the FMA latency
#pragma GCC unroll 8
  for (int k = 0; k < Taps; ++k) {
    even[k] = load(sums + k * kV);
    odd[k] = Vec<A>{};
  }
  int64_t o = lo;
  for (; o + 2 <= hi; o += 2) {
    const Vec<A> dy0 = load_lanes<Partial>(r.dy + o * r.dy_stride, r.lanes);
    const Vec<A> dy1 = load_lanes<Partial>(r.dy + (o + 1) * r.dy_stride, r.lanes);
    const int64_t x = o * r.step + offset;
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k) {
      even[k] = fma(dy0, load_x<Partial, L>(r, x + k * r.dilation), even[k]);
      odd[k] = fma(dy1, load_x<Partial, L>(r, x + r.step + k * r.dilation), odd[k]);
    }
  }
  if (o < hi) {
    const Vec<A> dy = load_lanes<Partial>(r.dy + o * r.dy_stride, r.lanes);
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k) {
      even[k] = fma(dy, load_x<Partial, L>(r, o * r.step + offset + k * r.dilation), even[k]);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < Taps; ++k) store(sums + k * kV, even[k] + odd[k]);

  for (int k = 0; k < Taps; ++k) {
    const int64_t at = offset + k * r.dilation;
    const int64_t k_lo = max_of(r.first, at >= 0 ? 0 : ceil_div(-at, r.step));
    const int64_t k_hi = min_of(r.last, r.width > at ? ceil_div(r.width - at, r.step) : 0);
    Vec<A> sum = load(sums + k * kV);
    const auto border = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Vec<A> dy = load_lanes<Partial>(r.dy + i * r.dy_stride, r.lanes);
        sum = fma(dy, load_x<Partial, L>(r, i * r.step + at), sum);
      }
    };
    border(k_lo, min_of(lo, k_hi));
    border(max_of(hi, k_lo), k_hi);
    store(sums + k * kV, sum);
  }
}

template <bool Partial, Lanes L, class T>
void weight_filter_row(const WeightRow<T>& r, int64_t offset, int64_t taps, Accum<T>* sums) {
  constexpr int kV = kLanes<Accum<T>>;
  while (taps > 0) {
    int n = 1;
    if (taps >= 7) {
      weight_taps<7, Partial, L>(r, offset, sums);
      n = 7;
    } else if (taps >= 5) {
      weight_taps<5, Partial, L>(r, offset, sums);
      n = 5;
    } else if (taps >= 3) {
      weight_taps<3, Partial, L>(r, offset, sums);
      n = 3;
    } else {
      weight_taps<1, Partial, L>(r, offset, sums);
    }
    taps -= n;
    offset += n * r.dilation;
    sums += n * kV;
  }
}

// ---- dense taps: step 1 or 2, no dilation ----

// A strip of output rows against the input rows of Rows neighbouring filter rows.
template <class T>
struct WeightStrip {
  const T* dy;  // row `y0`, column 0
  const T* x;   // the row that output row y0 meets with the first filter row, column 0
  int64_t dy_row, dy_column, x_row, x_column;  // strides between outputs, and input columns
  int64_t x_tap;                               // between the filter rows
  int64_t rows, width;
  int64_t first, last;            // output columns
  int64_t offset;                 // input column of output column 0 and tap 0
  int64_t row, height, row_step;  // number of x's row, rows of the image, rows per output
  int lanes;
};

// sums += Width columns of dy against the x columns they meet, Taps wide.  The dy stay in
// registers; each column of x is loaded once.
template <int Rows, int Taps, int Step, int Width, bool Partial, class T>
FASTCONV_INLINE void strip_tile(const WeightStrip<T>& s, const T* dy, const T* x, int64_t row,
                                int64_t o, Vec<Accum<T>> (&sums)[Rows][Taps]) {
  using A = Accum<T>;
  Vec<A> g[Width];
#pragma GCC unroll 16
  for (int i = 0; i < Width; ++i) {
    g[i] = load_lanes<Partial>(dy + (o + i) * s.dy_column, s.lanes);
    pin(g[i]);
  }
  const int64_t column = o * Step + s.offset;
  const int64_t x_column = s.x_column, width = s.width;
#pragma GCC unroll 4
  for (int h = 0; h < Rows; ++h) {
    if (Rows > 1 && static_cast<uint64_t>(row + h) >= static_cast<uint64_t>(s.height)) continue;
    const T* p = x + h * s.x_tap + column * x_column;
#pragma GCC unroll 32
    for (int i = 0; i < (Width - 1) * Step + Taps; ++i, p += x_column) {
      if (Taps < Step && i % Step >= Taps) continue;
      if (static_cast<uint64_t>(column + i) >= static_cast<uint64_t>(width)) continue;
      Vec<A> v = load_lanes<Partial>(p, s.lanes);
      pin(v);
#pragma GCC unroll 8
      for (int k = 0; k < Taps; ++k) {
        const int j = i - k;
        if (j >= 0 && j % Step == 0 && j / Step < Width) {
          sums[h][k] = fma(v, g[j / Step], sums[h][k]);
        }
      }
    }
  }
}

template <int Rows, int Taps, int Step, bool Partial, class T>
void weight_strip(const WeightStrip<T>& s, Accum<T>* out, int64_t out_row) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  constexpr int kWide = kVectorRegisters >= 32 ? 7 : 4;
  Vec<A> sums[Rows][Taps];
#pragma GCC unroll 4
  for (int h = 0; h < Rows; ++h) {
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k) sums[h][k] = load(out + h * out_row + k * kV);
  }
  for (int64_t y = 0; y < s.rows; ++y) {
    const T* dy = s.dy + y * s.dy_row;
    const T* x = s.x + y * s.x_row;
    const int64_t row = s.row + y * s.row_step;
    int64_t o = s.first;
    for (; o + kWide <= s.last; o += kWide) {
      strip_tile<Rows, Taps, Step, kWide, Partial>(s, dy, x, row, o, sums);
    }
    for (; o < s.last; ++o) strip_tile<Rows, Taps, Step, 1, Partial>(s, dy, x, row, o, sums);
  }
#pragma GCC unroll 4
  for (int h = 0; h < Rows; ++h) {
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k) store(out + h * out_row + k * kV, sums[h][k]);
  }
}

// Filter row by filter row, with the 3x3 filter whole: its nine sums and a tile fit the registers.
template <int Step, bool Partial, class T>
void weight_filter(const WeightPlan& p, WeightStrip<T> s, int64_t y0, int64_t y1, Accum<T>* sums) {
  constexpr int kV = kLanes<Accum<T>>;
  const int64_t kh = p.axis[1].kernel, kw = p.axis[2].kernel, step = p.axis[1].stride;
  const T* dy = s.dy;
  const T* x = s.x;
  if (kh == 3 && kw == 3 && p.axis[1].dilation == 1) {
    s.row = y0 * step - p.axis[1].pad;
    s.dy = dy + y0 * s.dy_row;
    s.x = x + s.row * s.x_tap;
    s.rows = y1 - y0;
    weight_strip<3, 3, Step, Partial>(s, sums, 3 * kV);
    return;
  }
  for (int64_t h = 0; h < kh; ++h) {
    // Output rows whose tap h is inside the image.
    const int64_t at = h * p.axis[1].dilation - p.axis[1].pad;
    const int64_t first = max_of(y0, at >= 0 ? 0 : ceil_div(-at, step));
    const int64_t last = min_of(y1, p.axis[1].in > at ? ceil_div(p.axis[1].in - at, step) : 0);
    if (first >= last) continue;
    s.dy = dy + first * s.dy_row;
    s.x = x + (first * step + at) * s.x_tap;
    s.rows = last - first;
    s.offset = -p.axis[2].pad;
    for (int64_t k = 0; k < kw;) {
      Accum<T>* row = sums + (h * kw + k) * kV;
      const int64_t left = kw - k;
      const int taps = left >= 7 ? 7 : left >= 5 ? 5 : left >= 3 ? 3 : 1;
      if (taps == 7) {
        weight_strip<1, 7, Step, Partial>(s, row, 0);
      } else if (taps == 5) {
        weight_strip<1, 5, Step, Partial>(s, row, 0);
      } else if (taps == 3) {
        weight_strip<1, 3, Step, Partial>(s, row, 0);
      } else {
        weight_strip<1, 1, Step, Partial>(s, row, 0);
      }
      k += taps;
      s.offset += taps;
    }
  }
}

// Scratch: [vector][tap, bias last][lane].
template <class T>
int64_t channels_weight_scratch_of(const WeightPlan& p) {
  using A = Accum<T>;
  const int64_t vectors = ceil_div(min_of(p.channel_block, p.out_channels()), kLanes<A>);
  return vectors * p.columns() * kVectorBytes;
}

// Adds the unit's dy to the last column of the sums.
template <class T>
void bias_unit(const WeightPlan& p, const WeightPlan::Unit& u, const T* dy, int64_t c0, int64_t c1,
               Accum<T>* sums) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  for (int64_t v = 0; v * kV < c1 - c0; ++v) {
    const int lanes = static_cast<int>(min_of(kV, c1 - c0 - v * kV));
    A* bias = sums + (v * p.columns() + p.taps()) * kV;
    Vec<A> even = load(bias), odd{};
    for (int64_t y = u.y0; y < u.y1; ++y) {
      const T* row = dy + u.z * p.dy_strides.sp[0] + y * p.dy_strides.sp[1] + c0 + v * kV;
      int64_t x = u.x0;
      for (; x + 2 <= u.x1; x += 2) {
        even = even + load_n(row + x * p.dy_strides.sp[2], lanes);
        odd = odd + load_n(row + (x + 1) * p.dy_strides.sp[2], lanes);
      }
      if (x < u.x1) even = even + load_n(row + x * p.dy_strides.sp[2], lanes);
    }
    store(bias, even + odd);
  }
}

// Whether gradient_rows() serves a unit, in the vectors that are full.
inline bool has_gradient_window(const WeightPlan& p) {
  const auto& [depth, height, width] = p.axis;
  return kVectorRegisters >= 32 && depth.kernel == 1 && height.kernel == 3 && width.kernel == 3 &&
         height.dilation == 1 && height.stride == width.stride;
}

// One unit, dense taps; x and dy point at the image's origin.
template <class T>
void dense_weight_unit(const WeightPlan& p, const WeightPlan::Unit& u, const T* x, const T* dy,
                       int64_t c0, int64_t c1, Accum<T>* sums) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  const TapRun depth = p.reads[0].taps(0);
  const auto [d_first, d_last] = p.reads[0].valid(depth, u.z);
  WeightStrip<T> s;
  s.dy_row = p.dy_strides.sp[1];
  s.dy_column = p.dy_strides.sp[2];
  s.x_row = p.axis[1].stride * p.x_strides.sp[1];
  s.x_column = p.x_strides.sp[2];
  s.x_tap = p.x_strides.sp[1];
  s.width = p.axis[2].in;
  s.height = p.axis[1].in;
  s.row_step = p.axis[1].stride;
  s.first = u.x0;
  s.last = u.x1;
  s.offset = -p.axis[2].pad;
  for (int64_t v = 0; v * kV < c1 - c0; ++v) {
    s.lanes = static_cast<int>(min_of(kV, c1 - c0 - v * kV));
    if (has_gradient_window(p) && s.lanes == kV && d_first < d_last) {
      const GradientWindow<T> t{
          x + c0 + v * kV + (u.z * p.axis[0].stride + depth.offset) * p.x_strides.sp[0],
          dy + c0 + v * kV + u.z * p.dy_strides.sp[0],
          p.x_strides.sp[1],
          p.x_strides.sp[2],
          p.dy_strides.sp[1],
          p.dy_strides.sp[2],
          p.axis[1].in,
          p.axis[2].in,
          p.axis[1].pad,
          p.axis[2].pad,
          u.x0,
          u.x1};
      A* filter = sums + v * p.columns() * kV;
      gradient_rows(t, p.axis[2].stride, u.y0, u.y1, filter, filter + p.taps() * kV);
      continue;
    }
    if (p.db != nullptr)
      bias_unit(p, u, dy, c0 + v * kV, c0 + v * kV + s.lanes, sums + v * p.columns() * kV);
    for (int64_t d = d_first; d < d_last; ++d) {
      s.dy = dy + u.z * p.dy_strides.sp[0] + c0 + v * kV;
      s.x = x + c0 + v * kV +
            (u.z * p.axis[0].stride + depth.offset + d * depth.offset_step) * p.x_strides.sp[0];
      Accum<T>* filter = sums + (v * p.columns() + d * p.axis[1].kernel * p.axis[2].kernel) * kV;
      const bool partial = s.lanes < kV;
      if (p.axis[2].stride == 1) {
        partial ? weight_filter<1, true>(p, s, u.y0, u.y1, filter)
                : weight_filter<1, false>(p, s, u.y0, u.y1, filter);
      } else {
        partial ? weight_filter<2, true>(p, s, u.y0, u.y1, filter)
                : weight_filter<2, false>(p, s, u.y0, u.y1, filter);
      }
    }
  }
}

// The same for any step, dilation and multiplier: output row by output row.
template <class T>
void any_weight_unit(const WeightPlan& p, const WeightPlan::Unit& u, const T* x, const T* dy,
                     int64_t c0, int64_t c1, Accum<T>* sums) {
  constexpr int kV = kLanes<Accum<T>>;
  dy += u.z * p.dy_strides.sp[0];
  const TapRun depth = p.reads[0].taps(0), height = p.reads[1].taps(0);
  const auto [d_first, d_last] = p.reads[0].valid(depth, u.z);
  WeightRow<T> row;
  row.dy_stride = p.dy_strides.sp[2];
  row.x_stride = p.x_strides.sp[2];
  row.width = p.axis[2].in;
  row.first = u.x0;
  row.last = u.x1;
  row.step = p.axis[2].stride;
  row.dilation = p.axis[2].dilation;
  for (int64_t y = u.y0; y < u.y1; ++y) {
    const auto [h_first, h_last] = p.reads[1].valid(height, y);
    for (int64_t v = 0; v * kV < c1 - c0; ++v) {
      const int64_t first = c0 + v * kV, x_first = first / p.multiplier;
      row.lanes = static_cast<int>(min_of(kV, c1 - first));
      row.x_lanes = static_cast<int>((first + row.lanes - 1) / p.multiplier - x_first + 1);
      for (int i = 0; p.multiplier > 1 && i < kV; ++i) {
        row.expand[i] =
            i < row.lanes ? static_cast<int32_t>((first + i) / p.multiplier - x_first) : 0;
      }
      row.dy = dy + y * p.dy_strides.sp[1] + first;
      Accum<T>* vector_sums = sums + v * p.columns() * kV;
      for (int64_t d = d_first; d < d_last; ++d) {
        const T* plane =
            x + x_first +
            (u.z * p.axis[0].stride + depth.offset + d * depth.offset_step) * p.x_strides.sp[0];
        for (int64_t h = h_first; h < h_last; ++h) {
          row.x = plane + (y * p.axis[1].stride + height.offset + h * height.offset_step) *
                              p.x_strides.sp[1];
          Accum<T>* filter_row = vector_sums + (d * p.axis[1].kernel + h) * p.axis[2].kernel * kV;
          const int64_t offset = -p.axis[2].pad, taps = p.axis[2].kernel;
          if (p.multiplier > 1) {
            weight_filter_row<true, Lanes::kExpanded>(row, offset, taps, filter_row);
          } else if (row.lanes < kV) {
            weight_filter_row<true, Lanes::kSame>(row, offset, taps, filter_row);
          } else {
            weight_filter_row<false, Lanes::kSame>(row, offset, taps, filter_row);
          }
        }
      }
    }
  }
}

template <class T>
void channels_weight_unit(const WeightPlan& p, const WeightPlan::Unit& u, const T* x, const T* dy,
                          int64_t c0, int64_t c1, Accum<T>* sums) {
  const bool dense = p.multiplier == 1 && p.axis[2].stride <= 2 &&
                     (p.axis[2].dilation == 1 || p.axis[2].kernel == 1);
  if (p.dw == nullptr) return bias_unit(p, u, dy, c0, c1, sums);
  if (dense) return dense_weight_unit(p, u, x, dy, c0, c1, sums);
  any_weight_unit(p, u, x, dy, c0, c1, sums);
  if (p.db != nullptr) bias_unit(p, u, dy, c0, c1, sums);
}

// A task's sums into its part of the workspace.
template <class A>
void store_weight_sums(const WeightPlan& p, const A* sums, int64_t c0, int64_t channels,
                       int64_t group) {
  constexpr int kV = kLanes<A>;
  A* part = static_cast<A*>(p.workspace) + (group * p.out_channels() + c0) * p.columns();
  for (int64_t c = 0; c < channels; c += kV) {
    scatter_transposed<A>(part + c * p.columns(), p.columns(), sums + c * p.columns(), kV,
                          static_cast<int>(min_of(kV, channels - c)), p.columns());
  }
}

template <class T>
void channels_weight_tasks(const WeightPlan& p, int64_t begin, int64_t end, void* scratch) {
  using A = Accum<T>;
  A* sums = static_cast<A*>(scratch);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t block = task / p.groups, group = task % p.groups;
    const int64_t c0 = block * p.channel_block;
    const int64_t c1 = min_of(c0 + p.channel_block, p.out_channels());
    std::memset(sums, 0, channels_weight_scratch_of<T>(p));
    const int64_t last = min_of((group + 1) * p.units_per_group, p.units());
    for (int64_t u = group * p.units_per_group; u < last; ++u) {
      const WeightPlan::Unit unit = p.unit(u);
      channels_weight_unit<T>(p, unit, static_cast<const T*>(p.x) + unit.n * p.x_strides.n,
                              static_cast<const T*>(p.dy) + unit.n * p.dy_strides.n, c0, c1, sums);
    }
    store_weight_sums<A>(p, sums, c0, c1 - c0, group);
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
