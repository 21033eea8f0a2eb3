// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The logistic function in vectors of one ISA level, re-included per level.
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

// e^x for x <= 0, within 2 units in the last place; NaN stays, and what is subnormal becomes zero.
// x = n ln 2 + r with |r| <= ln 2 / 2, where the series of e^r, cut off after r^7, is short of
// r^8 / 8! < 5.2e-9, a twelfth of a unit.
FASTCONV_INLINE VecF32 exp_negative(VecF32 x) {
  const VecF32 smallest = set1<float>(-87.33f);  // 126 ln 2 = 87.3365
  const VecI32 tiny = x < smallest;
  x = select(tiny, smallest, x);
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
  const VecF32 magic = set1<float>(12582912.0f);
  const VecF32 shifted = fma(x, set1<float>(0x1.715476p0f), magic);  // x / ln 2
  const VecF32 n = shifted - magic;
  // The upper part of ln 2 has 16 bits, so its product with n is exact.
  VecF32 r = fma(n, set1<float>(-0x1.62e4p-1f), x);
  r = fma(n, set1<float>(-0x1.7f7d1cp-20f), r);
  VecF32 e = set1<float>(1.0f / 5040);
  constexpr float kTerms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (const float term : kTerms) e = fma(e, r, set1<float>(term));
  const VecF32 power = (VecF32)(((VecI32)shifted << 23) + 0x3f800000);  // 2^n
  return select(tiny, VecF32{}, e * power);
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
