// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Pairs of bf16 numbers, one to a lane of 32 bits.  `vdpbf16ps` multiplies both by a pair of
// weights and adds both products to an fp32 sum in the time of one FMA.  It takes subnormal numbers
// for zeros.  Re-included per ISA level.
#pragma once

#include "common/simd-inl.h"

namespace fastconv::FASTCONV_ISA {

struct Bf16Pair {
  bf16 first, second;
};
template <class T>
constexpr bool kPaired = false;
template <>
constexpr bool kPaired<Bf16Pair> = true;
// Whether pairs of T's numbers are multiplied at this level.
template <class T>
constexpr bool kHasPairs = false;
#if FASTCONV_LEVEL >= 3
template <>
constexpr bool kHasPairs<bf16> = true;
#endif

// What sums of T's products are rounded to.
template <class T>
struct ResultOf {
  using type = T;
};
template <>
struct ResultOf<Bf16Pair> {
  using type = bf16;
};
template <class T>
using Result = typename ResultOf<T>::type;

// A lane's 32 bits pass for a float until they are multiplied.
FASTCONV_INLINE VecF32 load(const Bf16Pair* p) {
  VecF32 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// c + a * b, of vectors as they are loaded from T and from its weights.
template <class T>
FASTCONV_INLINE Vec<Accum<T>> multiply_add(Vec<Accum<T>> a, Vec<Accum<T>> b, Vec<Accum<T>> c) {
  return fma(a, b, c);
}

#if FASTCONV_LEVEL >= 3

template <>
FASTCONV_INLINE VecF32 multiply_add<Bf16Pair>(VecF32 a, VecF32 b, VecF32 c) {
  return (VecF32)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}

// Lane i of the result holds number i of both.
alignas(64) inline const uint16_t kPairLanes[] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                  21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                  11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
FASTCONV_INLINE __m512i pair_up(__m256i first, __m256i second) {
  return _mm512_permutexvar_epi16(_mm512_load_si512(kPairLanes),
                                  _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
}
// Numbers whose partner is zero, and both together.
FASTCONV_INLINE VecF32 as_first(__m256i h) { return (VecF32)_mm512_cvtepu16_epi32(h); }
FASTCONV_INLINE VecF32 as_second(__m256i h) { return widen(h, bf16{}); }
FASTCONV_INLINE VecF32 together(VecF32 first, VecF32 second) {
  return (VecF32)_mm512_or_si512((__m512i)first, (__m512i)second);
}
// Pairs of floats that hold bf16 numbers.
FASTCONV_INLINE VecF32 pair_up(VecF32 first, VecF32 second) {
  return together((VecF32)_mm512_srli_epi32((__m512i)first, 16), second);
}

// Rows `row` and `row` + 1 of a filter of so many, [row][column][lane], in pairs; `row_step` leads
// from one to the next, and those outside are zero.
inline void pair_rows(const float* weight, int64_t rows, int64_t row_step, int64_t columns,
                      int64_t row, float* paired) {
  constexpr int kV = kLanes<float>;
  const bool has_first = row >= 0 && row < rows, has_second = row >= -1 && row + 1 < rows;
  const float* first = weight + row * row_step;
  for (int64_t i = 0; i < columns * kV; i += kV) {
    store(paired + i, pair_up(has_first ? load(first + i) : VecF32{},
                              has_second ? load(first + row_step + i) : VecF32{}));
  }
}

#endif

}  // namespace fastconv::FASTCONV_ISA
