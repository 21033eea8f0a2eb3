// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Ranges of a wide vector's lanes, and shifts across all of them; re-included per ISA level.
#pragma once

#include "common/simd-inl.h"

namespace fastconv::FASTCONV_ISA {

// 0, 1, ... N - 1 as template arguments, for what a shift or an array index must know at compile
// time: `f(Count<3>())` meets `template <int... I> void f(Ints<I...>)`.
template <int... I>
struct Ints {};
template <int N, int... I>
struct CountUp : CountUp<N - 1, N - 1, I...> {};
template <int... I>
struct CountUp<0, I...> {
  using type = Ints<I...>;
};
template <int N>
using Count = typename CountUp<N>::type;

// f(0), f(1), ... f(N - 1) with constants.  An array of vectors that is indexed by nothing else
// stays in registers; where a loop is unrolled by a pragma, GCC finds out too late.
template <int I>
struct Index {
  static constexpr int value = I;
};
template <int... I, class F>
FASTCONV_INLINE void for_each(Ints<I...>, const F& f) {
  (f(Index<I>()), ...);
}
template <int N, class F>
FASTCONV_INLINE void for_each(const F& f) {
  for_each(Count<N>(), f);
}
#define FASTCONV_EACH(i) [&](auto i) __attribute__((always_inline))

#if FASTCONV_LEVEL >= 2

// Lanes [first, last) of a vector, 0 <= first <= last <= lanes, for accesses that touch no others.
template <class A>
struct LaneRange {
  uint32_t mask;
  bool empty() const { return mask == 0; }
};
template <class A>
FASTCONV_INLINE LaneRange<A> lane_range(int first, int last) {
  return {(1u << last) - (1u << first)};
}
template <class T>
FASTCONV_INLINE Vec<Accum<T>> load_range(const T* p, const LaneRange<Accum<T>>& r) {
  if constexpr (sizeof(T) == 8) {
    return (VecF64)_mm512_maskz_loadu_pd(static_cast<__mmask8>(r.mask), p);
  } else if constexpr (sizeof(T) == 4) {
    return (VecF32)_mm512_maskz_loadu_ps(static_cast<__mmask16>(r.mask), p);
  } else {
    return widen(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(r.mask), p), T{});
  }
}
template <class T>
FASTCONV_INLINE void store_range(T* p, VecF32 v, const LaneRange<float>& r) {
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(r.mask), (__m512)v);
  } else {
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(r.mask), narrow(v, T{}));
  }
}
// c + a * b in the lanes of the range, c in the others.
FASTCONV_INLINE VecF32 fma_range(VecF32 a, VecF32 b, VecF32 c, const LaneRange<float>& r) {
  return (VecF32)_mm512_mask3_fmadd_ps((__m512)a, (__m512)b, (__m512)c,
                                       static_cast<__mmask16>(r.mask));
}
// Every second lane of two vectors in a row, from the first or the second on.
FASTCONV_INLINE VecF32 even_lanes(VecF32 low, VecF32 high) {
  const __m512i index =
      _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return (VecF32)_mm512_permutex2var_ps((__m512)low, index, (__m512)high);
}
FASTCONV_INLINE VecF32 odd_lanes(VecF32 low, VecF32 high) {
  const __m512i index =
      _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return (VecF32)_mm512_permutex2var_ps((__m512)low, index, (__m512)high);
}
// Lanes [Shift, Shift + lanes) of two vectors in a row.
template <int Shift>
FASTCONV_INLINE VecF32 shift_lanes(VecF32 low, VecF32 high) {
  if constexpr (Shift == 0) return low;
  return (VecF32)_mm512_alignr_epi32((__m512i)high, (__m512i)low, Shift);
}

#elif FASTCONV_LEVEL == 1

// The same without masks, for the ends of long rows.
template <class A>
struct LaneRange {
  int first, last;
  bool empty() const { return first == last; }
};
template <class A>
FASTCONV_INLINE LaneRange<A> lane_range(int first, int last) {
  return {first, last};
}
template <class T>
FASTCONV_INLINE Vec<Accum<T>> load_range(const T* p, const LaneRange<Accum<T>>& r) {
  T lanes[kLanes<Accum<T>>] = {};
  for (int i = r.first; i < r.last; ++i) lanes[i] = p[i];
  return load(lanes);
}

#endif

}  // namespace fastconv::FASTCONV_ISA
