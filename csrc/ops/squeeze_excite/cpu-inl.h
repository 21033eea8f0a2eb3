// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernels of squeeze and excitation for one ISA level.  Planes: lanes run along the pixels
// of a channel.  Channels-last: lanes are channels, and several pixels are added to the running
// sums at a time, which live in L1 (a load and a store of a sum for eight loads of the input).
#pragma once

#include "common/math-inl.h"
#include "common/transpose-inl.h"

namespace fastconv::squeeze_excite::FASTCONV_ISA {

using namespace fastconv::FASTCONV_ISA;

template <class T>
FASTCONV_INLINE Vec<Accum<T>> get(const T* p, int n) {
  return n == kLanes<Accum<T>> ? load(p) : load_n(p, n);
}
template <class T>
FASTCONV_INLINE void put(T* p, Vec<Accum<T>> v, int n) {
  if (n == kLanes<Accum<T>>) {
    store(p, v);
  } else {
    store_n(p, v, n);
  }
}

// n elements that lie side by side; `s` is what each is multiplied by, or is.
template <class T, Pass kPass>
FASTCONV_INLINE void visit(const T* x, const T* dy, T* y, Vec<Accum<T>> s, Vec<Accum<T>>& sum,
                           int n) {
  if constexpr (kPass == Pass::kMean) {
    sum += get(x, n);
  } else if constexpr (kPass == Pass::kGate) {
    put(y, get(x, n) * s, n);
  } else if constexpr (kPass == Pass::kMeanGradient) {
    put(y, s, n);
  } else {
    const Vec<Accum<T>> d = get(dy, n);
    sum = fma(get(x, n), d, sum);
    put(y, d * s, n);
  }
}

// What a pass multiplies `count` channels by, at factors.
template <class T, Pass kPass>
void factors_of(const Params& p, int64_t plane, int64_t count, Accum<T>* factors) {
  if constexpr (kPass != Pass::kMean) {
    using A = Accum<T>;
    const T* from = static_cast<const T*>(p.per_channel) + plane;
    for (int64_t i = 0; i < count; i += kLanes<A>) {
      const int n = static_cast<int>(min_of(kLanes<A>, count - i));
      const Vec<A> v = get(from + i, n);
      put(factors + i, has_gate(kPass) ? logistic(v).value : v / set1<A>(static_cast<A>(p.pixels)),
          n);
    }
  }
}

// Writes the results of `count` channels whose sums are complete.
template <class T, Pass kPass>
void finish(const Params& p, int64_t plane, int64_t count, const Accum<T>* sums) {
  using A = Accum<T>;
  T* out = static_cast<T*>(p.sums) + plane;
  for (int64_t i = 0; i < count; i += kLanes<A>) {
    const int n = static_cast<int>(min_of(kLanes<A>, count - i));
    const Vec<A> sum = get(sums + i, n);
    if constexpr (kPass == Pass::kMean) {
      put(out + i, sum / set1<A>(static_cast<A>(p.pixels)), n);
    } else {
      const Vec<A> gate = get(static_cast<const T*>(p.per_channel) + plane + i, n);
      put(out + i, sum * logistic(gate).slope, n);
    }
  }
}

template <class T>
const T* at(const void* base, const Strides& s, int64_t n, int64_t c) {
  return static_cast<const T*>(base) + n * s.n + c * s.c;
}

// The lane sums of as many vectors as there are lanes, in order: fewer steps than one by one, which
// counts where a plane is 7x7.  Each round adds the halves of two vectors into one, whose lanes
// alternate between the two.
template <class A>
FASTCONV_INLINE Vec<A> lane_sums(const Vec<A>* from) {
  Vec<A> r[kLanes<A>];
  for (int i = 0; i < kLanes<A>; ++i) r[i] = from[i];
#pragma GCC unroll 4
  for (int half = kLanes<A> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      r[i] = interleave<false>(r[i], r[i + half]) + interleave<true>(r[i], r[i + half]);
    }
  }
  return r[0];
}

// Returns the sum, still in lanes.
template <class T, Pass kPass>
FASTCONV_INLINE Vec<Accum<T>> visit_plane(const T* x, const T* dy, T* y, Accum<T> factor,
                                          int64_t pixels) {
  using A = Accum<T>;
  constexpr int kL = kLanes<A>, kSums = 4;
  const Vec<A> s = set1<A>(factor);
  Vec<A> sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums * kL <= pixels; i += kSums * kL) {
    for (int u = 0; u < kSums; ++u) {
      visit<T, kPass>(x + i + u * kL, dy + i + u * kL, y + i + u * kL, s, sums[u], kL);
    }
  }
  for (; i + kL <= pixels; i += kL) visit<T, kPass>(x + i, dy + i, y + i, s, sums[0], kL);
  if (i < pixels) {
    visit<T, kPass>(x + i, dy + i, y + i, s, sums[1], static_cast<int>(pixels - i));
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class T, Pass kPass>
void plane_tasks(const Params& p, int64_t begin, int64_t end) {
  using A = Accum<T>;
  A factors[kMaxPlanes] = {}, sums[kMaxPlanes];
  Vec<A> lanes[kMaxPlanes] = {};
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task * p.per_task, count = min_of(p.per_task, p.planes() - first);
    factors_of<T, kPass>(p, first, count, factors);
    int64_t n = first / p.channels, c = first - n * p.channels;
    for (int64_t i = 0; i < count; ++i) {
      lanes[i] = visit_plane<T, kPass>(
          at<T>(p.x, p.x_strides, n, c), at<T>(p.dy, p.dy_strides, n, c),
          const_cast<T*>(at<T>(p.y, p.y_strides, n, c)), factors[i], p.pixels);
      if (++c == p.channels) {
        c = 0;
        ++n;
      }
    }
    if constexpr (has_sums(kPass)) {
      for (int64_t i = 0; i < count; i += kLanes<A>) store(sums + i, lane_sums<A>(lanes + i));
      finish<T, kPass>(p, first, count, sums);
    }
  }
}

// kPixels neighbouring pixels of all channels.
template <class T, Pass kPass, int kPixels>
FASTCONV_INLINE void pixel_group(const Params& p, const T* x, const T* dy, T* y,
                                 const Accum<T>* factors, Accum<T>* sums) {
  using A = Accum<T>;
  constexpr int kL = kLanes<A>;
  const auto columns = [&](int64_t c, int n) __attribute__((always_inline)) {
    const Vec<A> s = kPass == Pass::kMean ? Vec<A>{} : get(factors + c, n);
    Vec<A> sum = has_sums(kPass) ? get(sums + c, n) : Vec<A>{};
    for (int u = 0; u < kPixels; ++u) {
      visit<T, kPass>(x + u * p.x_strides.p + c, dy + u * p.dy_strides.p + c,
                      y + u * p.y_strides.p + c, s, sum, n);
    }
    if constexpr (has_sums(kPass)) put(sums + c, sum, n);
  };
  int64_t c = 0;
  for (; c + kL <= p.channels; c += kL) columns(c, kL);
  if (c < p.channels) columns(c, static_cast<int>(p.channels - c));
}

template <class T, Pass kPass>
void channel_tasks(const Params& p, void* scratch, int64_t begin, int64_t end) {
  using A = Accum<T>;
  // Sums share their loads and stores; without them, eight streams of stores are slower than one.
  constexpr int kGroup = kPass == Pass::kGateGradient ? 4 : has_sums(kPass) ? 8 : 1;
  A* const factors = static_cast<A*>(scratch);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / p.chunks, chunk = task - n * p.chunks;
    A* sums = factors + p.channels;
    if (p.needs_partial()) sums = static_cast<A*>(p.partial) + task * p.channels;
    if constexpr (has_sums(kPass)) std::memset(sums, 0, sizeof(A) * p.channels);
    factors_of<T, kPass>(p, n * p.channels, p.channels, factors);
    int64_t pixel = chunk * p.per_task;
    const int64_t stop = min_of(p.pixels, pixel + p.per_task);
    const T* x = at<T>(p.x, p.x_strides, n, 0) + pixel * p.x_strides.p;
    const T* dy = at<T>(p.dy, p.dy_strides, n, 0) + pixel * p.dy_strides.p;
    T* y = const_cast<T*>(at<T>(p.y, p.y_strides, n, 0)) + pixel * p.y_strides.p;
    const auto advance = [&](int64_t by) {
      pixel += by;
      x += by * p.x_strides.p;
      dy += by * p.dy_strides.p;
      y += by * p.y_strides.p;
    };
    for (; pixel + kGroup <= stop; advance(kGroup)) {
      pixel_group<T, kPass, kGroup>(p, x, dy, y, factors, sums);
    }
    for (; pixel < stop; advance(1)) pixel_group<T, kPass, 1>(p, x, dy, y, factors, sums);
    if constexpr (has_sums(kPass)) {
      if (!p.needs_partial()) finish<T, kPass>(p, n * p.channels, p.channels, sums);
    }
  }
}

// Calls f(T{}, PassTag<pass>{}).
template <Pass kPass>
struct PassTag {
  static constexpr Pass value = kPass;
};
template <class T, class F>
void with_pass(Pass pass, const F& f) {
  switch (pass) {
    case Pass::kMean:
      return f(T{}, PassTag<Pass::kMean>{});
    case Pass::kMeanGradient:
      return f(T{}, PassTag<Pass::kMeanGradient>{});
    case Pass::kGate:
      return f(T{}, PassTag<Pass::kGate>{});
    case Pass::kGateGradient:
      return f(T{}, PassTag<Pass::kGateGradient>{});
  }
}
template <class F>
void with_dtype(const Params& p, const F& f) {
  switch (p.dtype) {
    case Dtype::kFloat64:
      return with_pass<double>(p.pass, f);
    case Dtype::kFloat16:
      return with_pass<f16>(p.pass, f);
    case Dtype::kBFloat16:
      return with_pass<bf16>(p.pass, f);
    default:
      return with_pass<float>(p.pass, f);
  }
}

void run(const Params& p, void* scratch, int64_t begin, int64_t end) {
  with_dtype(p, [&](auto t, auto pass) {
    using T = decltype(t);
    constexpr Pass kPass = decltype(pass)::value;
    if (p.channels_last) return channel_tasks<T, kPass>(p, scratch, begin, end);
    plane_tasks<T, kPass>(p, begin, end);
  });
}

void combine(const Params& p, int64_t begin, int64_t end) {
  with_dtype(p, [&](auto t, auto pass) {
    using T = decltype(t);
    using A = Accum<T>;
    constexpr Pass kPass = decltype(pass)::value;
    if constexpr (has_sums(kPass)) {
      for (int64_t n = begin; n < end; ++n) {
        // The first chunk's sums become the image's.
        A* sums = static_cast<A*>(p.partial) + n * p.chunks * p.channels;
        for (int64_t chunk = 1; chunk < p.chunks; ++chunk) {
          const A* more = sums + chunk * p.channels;
          for (int64_t c = 0; c < p.channels; ++c) sums[c] += more[c];
        }
        finish<T, kPass>(p, n * p.channels, p.channels, sums);
      }
    }
  });
}

}  // namespace fastconv::squeeze_excite::FASTCONV_ISA
