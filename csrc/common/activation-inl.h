// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Activations and their gradients in vectors of one ISA level, re-included per level.  NaN stays
// NaN, and an infinity gives what it gives in torch.  tests/test_activation.py holds them to their
// errors.
#pragma once

#include "common/activation.h"
#include "common/math-inl.h"

namespace fastconv::FASTCONV_ISA {

// max(x, low) and min(x, high) that keep a NaN in x: the instructions return their second operand.
FASTCONV_INLINE VecF32 at_least(VecF32 x, VecF32 low) {
#if FASTCONV_LEVEL >= 2
  return (VecF32)_mm512_max_ps((__m512)low, (__m512)x);
#elif FASTCONV_LEVEL == 1
  return (VecF32)_mm256_max_ps((__m256)low, (__m256)x);
#else
  return select(x < low, low, x);
#endif
}
FASTCONV_INLINE VecF32 at_most(VecF32 x, VecF32 high) {
#if FASTCONV_LEVEL >= 2
  return (VecF32)_mm512_min_ps((__m512)high, (__m512)x);
#elif FASTCONV_LEVEL == 1
  return (VecF32)_mm256_min_ps((__m256)high, (__m256)x);
#else
  return select(x > high, high, x);
#endif
}
FASTCONV_INLINE VecF64 at_least(VecF64 x, VecF64 low) { return select(x < low, low, x); }
FASTCONV_INLINE VecF64 at_most(VecF64 x, VecF64 high) { return select(x > high, high, x); }

// Added to a small number and taken off again, it leaves the nearest integer, which is in the low
// bits of the sum.
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23

// 2^n for -126 <= n <= 127, from n + kMagic.
FASTCONV_INLINE VecF32 two_to(VecF32 shifted) {
  return (VecF32)(((VecI32)shifted << 23) + 0x3f800000);
}
// v * 2^n for n <= 0, rounded once where that is subnormal.
FASTCONV_INLINE VecF32 scaled(VecF32 v, VecF32 n) {
#if FASTCONV_LEVEL >= 2
  return (VecF32)_mm512_scalef_ps((__m512)v, (__m512)n);
#else
  const VecF32 least = set1<float>(-110.0f), first = at_least(n, least);
  return v * two_to(first + kMagic) * two_to(at_least(n - first, least) + kMagic);
#endif
}

#if FASTCONV_LEVEL >= 1
// a * b - c, rounded once; of fma(a, b, -c) a compiler may take the product for c.
FASTCONV_INLINE VecF32 multiply_subtract(VecF32 a, VecF32 b, VecF32 c) {
#if FASTCONV_LEVEL >= 2
  return (VecF32)_mm512_fmsub_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return (VecF32)_mm256_fmsub_ps((__m256)a, (__m256)b, (__m256)c);
#endif
}
#endif

// (1 + rest) * 2^n
struct Exponential {
  VecF32 rest, n, shifted;  // n + kMagic

  FASTCONV_INLINE VecF32 times(VecF32 v) const { return scaled(fma(rest, v, v), n); }
};
// e^(Sign * x + low), |low| < 2^-17.  With n ln 2 + r for the exponent, |r| < 0.347, e^r is a
// polynomial with a relative error of 0.07 * 2^-24.  An activation is one chain of operations: what
// runs beside it costs nothing.
template <int Sign>
FASTCONV_INLINE Exponential exponential(VecF32 x, const VecF32* low = nullptr) {
  const VecF32 shifted = fma(x, set1<float>(Sign * 0x1.715476p0f), set1<float>(kMagic));  // / ln 2
  const VecF32 n = shifted - kMagic;
  // The upper part of ln 2 has 16 bits, so its product with n is exact.
  const VecF32 lower = set1<float>(Sign * -0x1.7f7d1cp-20f);
  VecF32 r = fma(n, set1<float>(Sign * -0x1.62e4p-1f), x);
  r = low != nullptr ? r + fma(n, lower, *low) : fma(n, lower, r);
  const VecF32 square = r * r;
  const VecF32 first = fma(r, set1<float>(Sign * 0x1.55549p-3f), set1<float>(0x1.fffffcp-2f));
  VecF32 series = fma(r, set1<float>(Sign * 0x1.123a8ep-7f), set1<float>(0x1.5558f6p-5f));
  series = fma(square, set1<float>(0x1.6a2318p-10f), series);
  series = fma(series, square, first);
  return {fma(series, square, Sign > 0 ? r : -r), n, shifted};
}

FASTCONV_INLINE VecF32 magnitude_of(VecF32 x) { return (VecF32)((VecI32)x & 0x7fffffff); }

// z / (1 + e^-z).  Of e^-z only 2^64 goes into the sum, beside which 1 is nothing; what is left of
// the exponent divides the quotient.
FASTCONV_INLINE VecF32 silu(VecF32 z) {
  // e^-76 is nothing beside 1; at 2^100 the exponential is infinite, and finite / infinite is 0.
  const VecF32 x = at_least(at_most(z, set1<float>(76.0f)), set1<float>(-0x1p100f));
  const Exponential e = exponential<-1>(x);
  const VecF32 bounded = at_most(e.shifted, set1<float>(kMagic + 64)), power = two_to(bounded);
  return scaled(z / fma(e.rest, power, power + 1), bounded - e.shifted);
}
// sigma(z) * (1 + z * sigma(-z)), with e = e^-|z|, part = 1 / (1 + e), and e * part for the other
// of both: no digits are lost to 1 + e^-z where that is large.
FASTCONV_INLINE VecF32 silu_slope(VecF32 z) {
  // Below -110, z * e^z is less than half the smallest number; below 2^-110, e is any number so
  // small.
  const VecF32 highest = set1<float>(110.0f), x = magnitude_of(z), one = set1<float>(1.0f);
  const Exponential exponent = exponential<-1>(at_most(x, highest));
  const VecF32 power = two_to(at_least(exponent.shifted, set1<float>(kMagic - 110)));
  const VecF32 e = select(x > highest, VecF32{}, fma(exponent.rest, power, power));
  const VecF32 part = one / (one + e), other = part * e;
  const auto negative = z < VecF32{};
  return select(negative, other, part) * fma(z, select(negative, part, other), one);
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
