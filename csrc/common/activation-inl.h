// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Activations and their gradients in vectors of one ISA level, re-included per level.  NaN stays
// NaN, and an infinity gives what it gives in torch.  tests/test_activation.py holds them to their
// errors.
#pragma once

#include "common/activation.h"
#include "common/math-inl.h"

namespace fastconv::FASTCONV_ISA {

// Whether a lane's magnitude is above `bound`, or it is NaN.  What only such numbers need would
// take up to a third of an activation's time: a vector that has one goes another way.  There its
// other lanes get the same bits.
FASTCONV_INLINE VecF32 magnitude_of(VecF32 x) { return (VecF32)((VecI32)x & 0x7fffffff); }
FASTCONV_INLINE bool any_beyond(VecF32 magnitude, float bound) {
  const VecI32 bits = (VecI32)magnitude, limit = (VecI32)set1<float>(bound);  // in the same order
#if FASTCONV_LEVEL >= 2
  const bool any = _mm512_cmpgt_epi32_mask((__m512i)bits, (__m512i)limit) != 0;
#elif FASTCONV_LEVEL == 1
  const bool any = _mm256_movemask_ps((__m256)(bits > limit)) != 0;
#else
  const VecI64 halves = (VecI64)(bits > limit);
  const bool any = (halves[0] | halves[1]) != 0;
#endif
  return __builtin_expect(any, false);
}

// z / (1 + e^-z)
constexpr float kFarSilu = 76;  // e^-76 is nothing beside 1
template <bool Far>
FASTCONV_INLINE VecF32 silu_within(VecF32 z) {
  const VecF32 one = set1<float>(1.0f);
  if constexpr (!Far) {
    const Product e = exponential_of_negative(z);
    return z / fma(e.rest, e.power, e.power + one);
  } else {
    // Below -110, z * e^z is less than half the smallest number.  Between both, 2^-64 of e^-z.
    const VecF32 far = set1<float>(kFarSilu), lowest = set1<float>(-110.0f);
    const VecF32 x = at_least(at_most(z, far), lowest);
    const Product e = exponential_of_negative(x);
    const VecI32 deep = x < -far;
    const VecF32 power = (VecF32)((VecI32)e.power - (deep & (64 << 23)));
    const VecF32 sum = fma(e.rest, power, power + select(deep, VecF32{}, one));
    const VecF32 above = select(z < lowest, z * VecF32{}, z);
    return above / sum * select(deep, set1<float>(0x1p-64f), one);
  }
}
// Several vectors: one branch for all of them.
template <int N>
FASTCONV_INLINE void silu_each(VecF32 (&z)[N]) {
  VecI32 largest = (VecI32)magnitude_of(z[0]);
  for (int i = 1; i < N; ++i) {
    const VecI32 magnitude = (VecI32)magnitude_of(z[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  if (any_beyond((VecF32)largest, kFarSilu)) {
    for (int i = 0; i < N; ++i) z[i] = silu_within<true>(z[i]);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) z[i] = silu_within<false>(z[i]);
  }
}
FASTCONV_INLINE VecF32 silu(VecF32 z) {
  if (any_beyond(magnitude_of(z), kFarSilu)) return silu_within<true>(z);
  return silu_within<false>(z);
}
// sigma(z) * (1 + z * sigma(-z)), with e = e^-|z|, part = 1 / (1 + e), and e * part for the other
// of both: no digits are lost to 1 + e^-z where that is large.
template <bool Far>
FASTCONV_INLINE VecF32 silu_slope_within(VecF32 z, VecF32 magnitude) {
  const VecF32 far = set1<float>(kFarSilu), one = set1<float>(1.0f);
  const Product exponent = exponential_of_negative(Far ? at_most(magnitude, far) : magnitude);
  VecF32 e = fma(exponent.rest, exponent.power, exponent.power);
  if constexpr (Far) e = select(magnitude > far, VecF32{}, e);
  const VecF32 part = one / (one + e), other = part * e;
  const auto negative = z < VecF32{};
  return select(negative, other, part) * fma(z, select(negative, part, other), one);
}
FASTCONV_INLINE VecF32 silu_slope(VecF32 z) {
  const VecF32 magnitude = magnitude_of(z);
  if (any_beyond(magnitude, kFarSilu)) return silu_slope_within<true>(z, magnitude);
  return silu_slope_within<false>(z, magnitude);
}

// The tail of the normal distribution, P(N > a) for a = |z|, as e^(-a^2 / 2) * R(a).  R falls from
// 1/2 to 0.4 / a; it is a quotient of polynomials with positive coefficients, with a relative error
// of 0.11 * 2^-24 on [0, 15].
struct Tail {
  Exponential e;
  VecF32 ratio;  // R
};
// Above it, a * P(N > a) is less than half the smallest number.
constexpr float kHighestTail = 15;
FASTCONV_INLINE Tail tail(VecF32 a) {
  const VecF32 highest = set1<float>(kHighestTail), b = at_most(a, highest);
  // a^2 / 2 rounded once would be up to 2^-18 off.
  const VecF32 half = b * set1<float>(-0.5f), square = half * b;
#if FASTCONV_LEVEL >= 1
  const VecF32 low = multiply_subtract(half, b, square);
#else
  // 12 digits, so that products with them are exact.
  const VecF32 top = (VecF32)((VecI32)b & ~0xfff), under_top = b - top;
  const VecF32 low =
      (top * top * set1<float>(-0.5f) - square) + under_top * (b + top) * set1<float>(-0.5f);
#endif
  VecF32 over = set1<float>(0x1.102ec6p-8f), under = set1<float>(0x1.552076p-7f);
  constexpr float kOver[] = {0x1.4ee544p-5f, 0x1.78c456p-3f, 0x1.c1d336p-2f, 0.5f};
  constexpr float kUnder[] = {0x1.a3c12p-4f, 0x1.e2b854p-2f, 0x1.349e92p0f, 0x1.ad2bccp0f, 1.0f};
  for (const float term : kOver) over = fma(over, b, set1<float>(term));
  for (const float term : kUnder) under = fma(under, b, set1<float>(term));
  return {exponential<1>(square, &low), select(a > highest, VecF32{}, over / under)};
}
FASTCONV_INLINE VecF32 gelu(VecF32 z) {
  const Tail t = tail(magnitude_of(z));
  const auto negative = z < VecF32{};
  const VecF32 below = t.e.times(select(negative, z * t.ratio, t.ratio));
  return select(negative, below, z * (set1<float>(1.0f) - below));
}
// P(N <= z) + z * density(z)
FASTCONV_INLINE VecF32 gelu_slope(VecF32 z) {
  const VecF32 a = magnitude_of(z), highest = set1<float>(kHighestTail);
  // -1 / sqrt(2 pi)
  const VecF32 factor = select(a > highest, VecF32{}, set1<float>(-0x1.988454p-2f));
  const Tail t = tail(a);
  const VecF32 below = t.e.times(fma(a, factor, t.ratio));
  return select(z < VecF32{}, below, set1<float>(1.0f) - below);
}

// ---- double: one lane after the other, with the C library's functions ----

template <class F>
FASTCONV_INLINE VecF64 each_lane(VecF64 z, const F& f) {
  for (int i = 0; i < kLanes<double>; ++i) z[i] = f(z[i]);
  return z;
}
FASTCONV_INLINE VecF64 silu(VecF64 z) {
  return each_lane(z, [](double x) {
    const double root = __builtin_exp(-0.5 * __builtin_fabs(x)), e = root * root;
    return x < 0 ? x * root / (1 + e) * root : x / (1 + e);
  });
}
FASTCONV_INLINE VecF64 silu_slope(VecF64 z) {
  return each_lane(z, [](double x) {
    const double e = __builtin_exp(-__builtin_fabs(x)), part = 1 / (1 + e), other = e * part;
    return x < 0 ? other * (1 + x * part) : part * (1 + x * other);
  });
}
// P(N > a) for a >= 0.
FASTCONV_INLINE double normal_tail(double a) {
  a = a > 40 ? 40 : a;  // zero from 38.6 on
  // a / sqrt(2) in two parts: erfc multiplies a relative error of its argument by up to a^2.
  const double root = 0x1.6a09e667f3bcdp-1, m = a * root;
  const double low = __builtin_fma(a, root, -m) + a * -0x1.bdd3413b26456p-55;
  // erfc' = -k erfc, with k = m + sqrt(m^2 + 4 / pi) to a tenth.
  const double k = m + __builtin_sqrt(m * m + 0x1.45f306dc9c883p0);
  return 0.5 * __builtin_erfc(m) * (1 - low * k);
}
FASTCONV_INLINE VecF64 gelu(VecF64 z) {
  return each_lane(z, [](double x) {
    const double q = normal_tail(__builtin_fabs(x));
    return x < 0 ? x * q : x * (1 - q);
  });
}
FASTCONV_INLINE VecF64 gelu_slope(VecF64 z) {
  return each_lane(z, [](double x) {
    const double q = normal_tail(__builtin_fabs(x));
    return (x < 0 ? q : 1 - q) + x * 0x1.9884533d43651p-2 * __builtin_exp(-0.5 * x * x);
  });
}

// ---- all of them ----

// 1 / N: the compiler must not replace a division by a product.
template <int N, class V>
FASTCONV_INLINE V fraction() {
  return (1 - V{}) / (N - V{});
}

template <class V>
FASTCONV_INLINE V hardswish(V z, V three, V zero, V six, V sixth) {
  return z * (at_most(at_least(z + three, zero), six) * sixth);  // 6 / 6 comes out as 1
}

template <Activation K, class V>
FASTCONV_INLINE V activate(V z) {
  const V zero{}, six = 6 - V{};
  if constexpr (K == Activation::kRelu) return at_least(z, zero);
  if constexpr (K == Activation::kRelu6) return at_most(at_least(z, zero), six);
  if constexpr (K == Activation::kHardswish) {
    return hardswish(z, 3 - V{}, zero, six, fraction<6, V>());
  }
  if constexpr (K == Activation::kSilu) return silu(z);
  if constexpr (K == Activation::kGelu) return gelu(z);
}

template <Activation K, class V, int N>
FASTCONV_INLINE void activate_each(V (&z)[N]) {
  if constexpr (K == Activation::kSilu && sizeof(z[0][0]) == sizeof(float)) {
    silu_each(z);
  } else {
    for (int i = 0; i < N; ++i) z[i] = activate<K>(z[i]);
  }
}

// Calls f(k) for an activation, which k holds as a constant; nothing for none.
template <Activation K>
struct Constant {
  static constexpr Activation kActivation = K;
};
template <class F>
FASTCONV_INLINE void with_activation(Activation activation, const F& f) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kRelu:
      return f(Constant<Activation::kRelu>{});
    case Activation::kRelu6:
      return f(Constant<Activation::kRelu6>{});
    case Activation::kHardswish:
      return f(Constant<Activation::kHardswish>{});
    case Activation::kSilu:
      return f(Constant<Activation::kSilu>{});
    case Activation::kGelu:
      return f(Constant<Activation::kGelu>{});
  }
}

// dy * activation'(z).  As in torch, what a flat part meets is left out, not multiplied by zero.
template <Activation K, class V>
FASTCONV_INLINE V activation_gradient(V z, V dy) {
  const V zero{}, three = 3 - V{};
  if constexpr (K == Activation::kRelu) return select(z <= zero, zero, dy);
  if constexpr (K == Activation::kRelu6) return select((z > zero) & (z < 2 * three), dy, zero);
  if constexpr (K == Activation::kHardswish) {
    const V rising = select(z >= three, dy, dy * (z * fraction<3, V>() + 0.5f));
    return select(z <= -three, zero, rising);
  }
  if constexpr (K == Activation::kSilu) return dy * silu_slope(z);
  if constexpr (K == Activation::kGelu) return dy * gelu_slope(z);
}

}  // namespace fastconv::FASTCONV_ISA
