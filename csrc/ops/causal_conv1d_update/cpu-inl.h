// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernel of one ISA level: lanes are channels.
#pragma once

#include "common/activation-inl.h"

namespace fastconv::causal_conv1d_update::FASTCONV_ISA {

using namespace fastconv::FASTCONV_ISA;

// Elements of n channels, `stride` apart in memory.
template <class T>
FASTCONV_INLINE Vec<Accum<T>> gather(const T* p, int64_t stride, int n) {
  constexpr int kL = kLanes<Accum<T>>;
  if (stride == 1) return n == kL ? load(p) : load_n(p, n);
  T lanes[kL] = {};
  if (n == kL) {
    for (int i = 0; i < kL; ++i) lanes[i] = p[i * stride];
  } else {
    for (int i = 0; i < n; ++i) lanes[i] = p[i * stride];
  }
  return load(lanes);
}
template <class T>
FASTCONV_INLINE void scatter(T* p, int64_t stride, Vec<Accum<T>> v, int n) {
  constexpr int kL = kLanes<Accum<T>>;
  if (stride == 1) {
    if (n == kL) return store(p, v);
    return store_n(p, v, n);
  }
  T lanes[kL];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i * stride] = lanes[i];
}

// n neighbouring channels of a sequence, from `c` on.
template <class T>
FASTCONV_INLINE void channels(const Params& p, int64_t batch, int64_t c, int n) {
  using A = Accum<T>;
  const auto begin = [&](const void* base, const Strides& s) {
    return static_cast<const T*>(base) + batch * s.batch + c * s.channel;
  };
  const T* x = begin(p.x, p.x_strides);
  T* state = const_cast<T*>(begin(p.state, p.state_strides));
  T* y = const_cast<T*>(begin(p.y, p.y_strides));
  const T* w = static_cast<const T*>(p.weight) + c * p.weight_channel;
  const Vec<A> bias =
      p.bias == nullptr ? Vec<A>{} : gather(static_cast<const T*>(p.bias) + c, 1, n);
  for (int64_t t = 0; t < p.length; ++t) {
    Vec<A> sum = bias;
    int64_t from = p.state_length + t - (p.taps - 1) * p.dilation;
    for (int64_t j = 0; j < p.taps; ++j, from += p.dilation) {
      const Vec<A> v =
          from < p.state_length
              ? gather(state + from * p.state_strides.time, p.state_strides.channel, n)
              : gather(x + (from - p.state_length) * p.x_strides.time, p.x_strides.channel, n);
      sum = fma(gather(w + j * p.weight_tap, p.weight_channel, n), v, sum);
    }
    with_activation(p.activation, [&](auto k) { sum = activate<decltype(k)::kActivation>(sum); });
    scatter(y + t * p.y_strides.time, p.y_strides.channel, sum, n);
  }
  // Every element comes from a later place, so that this order overwrites none too early.
  const Strides &s = p.state_strides, &in = p.x_strides;
  if (s.channel == 1 && in.channel == 1) {
    for (int64_t i = 0; i < p.state_length; ++i) {
      const int64_t from = p.length + i;
      const T* source =
          from < p.state_length ? state + from * s.time : x + (from - p.state_length) * in.time;
      std::memcpy(state + i * s.time, source, sizeof(T) * static_cast<size_t>(n));
    }
    return;
  }
  for (int k = 0; k < n; ++k) {
    T* const to = state + k * s.channel;
    int64_t i = 0;
    for (; i + p.length < p.state_length; ++i) to[i * s.time] = to[(i + p.length) * s.time];
    for (; i < p.state_length; ++i) {
      to[i * s.time] = x[k * in.channel + (p.length + i - p.state_length) * in.time];
    }
  }
}

template <class T>
void tasks(const Params& p, int64_t begin, int64_t end) {
  constexpr int kL = kLanes<Accum<T>>;
  const int64_t blocks = ceil_div(p.channels, kChannels);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t batch = task / blocks, first = (task - batch * blocks) * kChannels;
    const int64_t last = min_of(p.channels, first + kChannels);
    int64_t c = first;
    for (; c + kL <= last; c += kL) channels<T>(p, batch, c, kL);
    if (c < last) channels<T>(p, batch, c, static_cast<int>(last - c));
  }
}

void run(const Params& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case Dtype::kFloat64:
      return tasks<double>(p, begin, end);
    case Dtype::kFloat16:
      return tasks<f16>(p, begin, end);
    case Dtype::kBFloat16:
      return tasks<bf16>(p, begin, end);
    default:
      return tasks<float>(p, begin, end);
  }
}

}  // namespace fastconv::causal_conv1d_update::FASTCONV_ISA
