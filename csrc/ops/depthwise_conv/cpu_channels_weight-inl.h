// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last weight gradient: vector lanes are channels.
//
// Each task owns a block of channels and keeps a vector of sums per tap in L1; a run of taps lives
// in registers while it walks one output row.
#pragma once

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

template <class T>
void bias_row(const WeightRow<T>& r, Accum<T>* sums) {
  using A = Accum<T>;
  Vec<A> sum = load(sums);
  for (int64_t o = r.first; o < r.last; ++o) sum = sum + load_n(r.dy + o * r.dy_stride, r.lanes);
  store(sums, sum);
}

// Scratch: [vector][tap, bias last][lane].
template <class T>
int64_t channels_weight_scratch_of(const WeightPlan& p) {
  using A = Accum<T>;
  const int64_t vectors = ceil_div(min_of(p.channel_block, p.out_channels()), kLanes<A>);
  return vectors * p.columns() * kVectorBytes;
}

// One unit; x and dy point at the image's origin.
template <class T>
void channels_weight_unit(const WeightPlan& p, const WeightPlan::Unit& u, const T* x, const T* dy,
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
      bias_row(row, vector_sums + p.taps() * kV);
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
          } else if (kAlwaysMasked || row.lanes < kV) {
            weight_filter_row<true, Lanes::kSame>(row, offset, taps, filter_row);
          } else {
            weight_filter_row<kAlwaysMasked, Lanes::kSame>(row, offset, taps, filter_row);
          }
        }
      }
    }
  }
}

// A task's sums into its part of the workspace.
template <class A>
void store_weight_sums(const WeightPlan& p, const A* sums, int64_t c0, int64_t channels,
                       int64_t group) {
  constexpr int kV = kLanes<A>;
  A* part = static_cast<A*>(p.workspace) + (group * p.out_channels() + c0) * p.columns();
  for (int64_t c = 0; c < channels; ++c) {
    const A* lane = sums + c / kV * p.columns() * kV + c % kV;
    for (int64_t i = 0; i < p.columns(); ++i) part[c * p.columns() + i] = lane[i * kV];
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
