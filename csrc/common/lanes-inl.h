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
// Lanes [Shift, Shift + lanes) of two vectors in a row.
template <int Shift>
FASTCONV_INLINE VecF32 shift_lanes(VecF32 low, VecF32 high) {
  if constexpr (Shift == 0) return low;
  return (VecF32)_mm512_alignr_epi32((__m512i)high, (__m512i)low, Shift);
}

#elif FASTCONV_LEVEL == 1

// The same for rows of at least a vector.  16-bit types have no masked loads: a vector that lies
// inside the row is loaded, and its lanes move `shift` places.
template <class A>
struct LaneRange;
template <>
struct LaneRange<float> {
  __m256i mask, from;
  int shift, count;
  bool empty() const { return count == 0; }
};
template <>
struct LaneRange<double> {
  int first, last;
  bool empty() const { return first == last; }
};
template <class A>
FASTCONV_INLINE LaneRange<A> lane_range(int first, int last) {
  if constexpr (sizeof(A) == 8) {
    return {first, last};
  } else {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1)),
                                          _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane));
    const int shift = first > 0 ? first : last - kLanes<float>;
    return {mask, _mm256_sub_epi32(lane, _mm256_set1_epi32(shift)), shift, last - first};
  }
}
FASTCONV_INLINE VecF64 load_range(const double* p, const LaneRange<double>& r) {
  double lanes[kLanes<double>] = {};
  for (int i = r.first; i < r.last; ++i) lanes[i] = p[i];
  return load(lanes);
}
FASTCONV_INLINE VecF32 load_range(const float* p, const LaneRange<float>& r) {
  return (VecF32)_mm256_maskload_ps(p, r.mask);
}
template <class H>
FASTCONV_INLINE VecF32 load_range(const H* p, const LaneRange<float>& r) {
  if (r.count == kLanes<float>) return load(p);
  if (r.count == 0) return VecF32{};
  const __m256 v = _mm256_permutevar8x32_ps((__m256)load(p + r.shift), r.from);
  return (VecF32)_mm256_and_ps(v, (__m256)r.mask);
}
// Ranges from the first lane on.
FASTCONV_INLINE void store_range(float* p, VecF32 v, const LaneRange<float>& r) {
  if (r.count == kLanes<float>) {
    store(p, v);
  } else {
    _mm256_maskstore_ps(p, r.mask, (__m256)v);
  }
}
template <class H>
FASTCONV_INLINE void store_range(H* p, VecF32 v, const LaneRange<float>& r) {
  store_n(p, v, r.count);
}
FASTCONV_INLINE VecF32 fma_range(VecF32 a, VecF32 b, VecF32 c, const LaneRange<float>& r) {
  return fma((VecF32)_mm256_and_ps((__m256)a, (__m256)r.mask), b, c);
}
template <int Shift>
FASTCONV_INLINE VecF32 shift_lanes(VecF32 low, VecF32 high) {
  if constexpr (Shift == 0) return low;
  const __m256i middle = _mm256_permute2x128_si256((__m256i)low, (__m256i)high, 0x21);
  if constexpr (Shift < 4) {
    return (VecF32)_mm256_alignr_epi8(middle, (__m256i)low, 4 * Shift);
  } else {
    return (VecF32)_mm256_alignr_epi8((__m256i)high, middle, 4 * Shift - 16);
  }
}

#endif

}  // namespace fastconv::FASTCONV_ISA
