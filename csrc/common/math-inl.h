// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Bounds, the exponential and the logistic function in vectors of one ISA level, re-included per
// level.
#pragma once

#include "common/simd-inl.h"

namespace fastconv::FASTCONV_ISA {

typedef int64_t VecI64 __attribute__((vector_size(kVectorBytes)));

FASTCONV_INLINE VecF32 select(VecI32 mask, VecF32 yes, VecF32 no) { return mask ? yes : no; }
FASTCONV_INLINE VecF64 select(VecI64 mask, VecF64 yes, VecF64 no) { return mask ? yes : no; }
template <class V>
FASTCONV_INLINE V abs_of(V x) {
  return select(x < V{}, -x, x);
}

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

// A number that leaves the nearest multiple of 1 / Steps in the low bits of the sum when it is
// added to a small one, and that multiple when it is taken off again.
template <int Steps>
constexpr float kMagic = 12582912.0f / Steps;  // 1.5 * 2^23
// 2^n for -126 <= n <= 127, from n + kMagic<1>.
FASTCONV_INLINE VecF32 two_to(VecF32 shifted) {
  return (VecF32)(((VecI32)shifted << 23) + 0x3f800000);
}
// v * 2^n for n <= 0, rounded once where that is subnormal.
FASTCONV_INLINE VecF32 scaled(VecF32 v, VecF32 n) {
#if FASTCONV_LEVEL >= 2
  return (VecF32)_mm512_scalef_ps((__m512)v, (__m512)n);
#else
  const VecF32 least = set1<float>(-110.0f), first = at_least(n, least);
  return v * two_to(first + kMagic<1>) * two_to(at_least(n - first, least) + kMagic<1>);
#endif
}

// (1 + rest) * 2^n
struct Exponential {
  VecF32 rest, n, shifted;  // n + kMagic<1>

  FASTCONV_INLINE VecF32 times(VecF32 v) const { return scaled(fma(rest, v, v), n); }
};
// e^(Sign * x + low), |low| < 2^-17.  With n ln 2 + r for the exponent, |r| < 0.347, e^r is a
// polynomial with a relative error of 0.07 * 2^-24.  An activation is one chain of operations: what
// runs beside it costs nothing.
template <int Sign>
FASTCONV_INLINE Exponential exponential(VecF32 x, const VecF32* low = nullptr) {
  const VecF32 shifted =
      fma(x, set1<float>(Sign * 0x1.715476p0f), set1<float>(kMagic<1>));  // / ln 2
  const VecF32 n = shifted - kMagic<1>;
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

// (1 + rest) * power
struct Product {
  VecF32 rest, power;
};
#if FASTCONV_LEVEL >= 1
// 2^(j / kSteps) as bits, less what j adds to the exponent's when it is shifted there.
constexpr int kSteps = kLanes<float>, kStepsShift = kSteps == 16 ? 19 : 20;
struct Fractions {
  uint32_t bits[kSteps];
};
constexpr Fractions fractions() {
  constexpr float kRoots[] = {0x1p+0f,        0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f,
                              0x1.306fep+0f,  0x1.3dea64p+0f, 0x1.4bfdaep+0f, 0x1.5ab07ep+0f,
                              0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f, 0x1.9c4918p+0f,
                              0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f};
  Fractions f{};
  for (int j = 0; j < kSteps; ++j) {
    f.bits[j] = __builtin_bit_cast(uint32_t, kRoots[j * (16 / kSteps)]) -
                (static_cast<uint32_t>(j) << kStepsShift);
  }
  return f;
}
constexpr Fractions kFractions = fractions();

// e^-x for |x| < 87, with fewer terms: what is left of the exponent after a multiple of
// ln 2 / kSteps is below 0.022 or 0.044, and the powers of two for the multiples are a table that
// fits into a register.  The series is short by 0.03 * 2^-24 at most.
FASTCONV_INLINE Product exponential_of_negative(VecF32 x) {
  const VecF32 magic = set1<float>(kMagic<kSteps>);
  const VecF32 shifted = fma(x, set1<float>(-0x1.715476p0f), magic), n = shifted - magic;
  VecF32 r = fma(n, set1<float>(0x1.62e4p-1f), x);
  r = fma(n, set1<float>(0x1.7f7d1cp-20f), r);
  VecI32 power;
  std::memcpy(&power, &kFractions, sizeof power);
#if FASTCONV_LEVEL >= 2
  power = (VecI32)_mm512_permutexvar_epi32((__m512i)shifted, (__m512i)power);
#else
  power = (VecI32)_mm256_permutevar8x32_epi32((__m256i)power, (__m256i)shifted);
#endif
  power += (VecI32)shifted << kStepsShift;
  VecF32 third = set1<float>(-1.0f / 6);
  if constexpr (kSteps < 16) third = fma(r, set1<float>(1.0f / 24), third);
  const VecF32 series = fma(r, third, set1<float>(kSteps < 16 ? 0.5f : 0x1.00022p-1f));
  return {multiply_subtract(series * r, r, r), (VecF32)power};
}
#else
FASTCONV_INLINE Product exponential_of_negative(VecF32 x) {
  const Exponential e = exponential<-1>(x);
  return {e.rest, two_to(e.shifted)};
}
#endif

// e^x for x <= 0, within 2 units in the last place; NaN stays, and what is subnormal becomes zero.
FASTCONV_INLINE VecF32 exp_negative(VecF32 x) {
  const VecF32 smallest = set1<float>(-87.33f);  // 126 ln 2 = 87.3365
  const Product e = exponential_of_negative(-at_least(x, smallest));
  return select(x < smallest, VecF32{}, fma(e.rest, e.power, e.power));
}
FASTCONV_INLINE VecF64 exp_negative(VecF64 x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

// 1 / (1 + e^-x) and its derivative; neither loses digits by cancellation.
template <class V>
struct Logistic {
  V value, slope;
};
template <class V>
FASTCONV_INLINE Logistic<V> logistic(V x) {
  const V one = 1 - V{};
  const V e = exp_negative(-abs_of(x)), part = one / (one + e);
  return {select(x < V{}, e * part, part), e * part * part};
}

}  // namespace fastconv::FASTCONV_ISA
