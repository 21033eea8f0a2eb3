// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The vector steps of depth max pooling: partial and strided loads, the running maximum with its
// tap code, exact stores.  Re-included per ISA level.
#pragma once

#include "common/simd-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

using namespace ::fastconv::FASTCONV_ISA;

typedef int64_t VecI64 __attribute__((vector_size(kVectorBytes)));

// Integers as wide as the lanes of A: tap codes, and the compiler's comparison results.
template <class A>
struct IntsOf {
  using type = VecI32;
  using lane = int32_t;
};
template <>
struct IntsOf<double> {
  using type = VecI64;
  using lane = int64_t;
};
template <class A>
using Ints = typename IntsOf<A>::type;
template <class A>
using IntLane = typename IntsOf<A>::lane;

template <class A>
FASTCONV_INLINE Ints<A> set1_int(int64_t value) {
  return static_cast<IntLane<A>>(value) - Ints<A>{};
}
template <class A>
FASTCONV_INLINE Ints<A> iota() {
  Ints<A> v{};
  for (int i = 0; i < kLanes<A>; ++i) v[i] = i;
  return v;
}

template <class A>
constexpr A kLowest = -static_cast<A>(__builtin_inff());

// ---- loads ----

// Lanes [a, b) from p, the others `fill`; nothing outside the range is touched.  Any a and b.
template <class T>
FASTCONV_INLINE Vec<Accum<T>> load_range(const T* p, int64_t a, int64_t b, Accum<T> fill) {
  using A = Accum<T>;
  constexpr int kL = kLanes<A>;
  if (a <= 0 && b >= kL) return load(p);
#if FASTCONV_LEVEL == 2
  const int first = a <= 0 ? 0 : a >= kL ? kL : static_cast<int>(a);
  const int last = b >= kL ? kL : b <= 0 ? 0 : static_cast<int>(b);
  const uint32_t mask = lane_mask(last) & ~lane_mask(first);
  if constexpr (sizeof(T) == 4) {
    return (VecF32)_mm512_mask_loadu_ps((__m512)set1<float>(fill), static_cast<__mmask16>(mask), p);
  } else if constexpr (sizeof(T) == 8) {
    return (VecF64)_mm512_mask_loadu_pd((__m512d)set1<double>(fill), static_cast<__mmask8>(mask),
                                        p);
  } else {
    const VecF32 v = widen(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p), T{});
    return (VecF32)_mm512_mask_mov_ps((__m512)set1<float>(fill), static_cast<__mmask16>(mask),
                                      (__m512)v);
  }
#else
  A lanes[kL];
  for (int i = 0; i < kL; ++i) lanes[i] = i >= a && i < b ? to_float(p[i]) : fill;
  return load(lanes);
#endif
}

// Even lanes of (a, b): a shuffle that each level does in one or two instructions.
template <class V>
FASTCONV_INLINE V even_lanes(V a, V b) {
  constexpr int kL = sizeof(V) / sizeof(a[0]);
  if constexpr (kL == 32) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                   32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62);
  } else if constexpr (kL == 16) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  } else if constexpr (kL == 8) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
  } else if constexpr (kL == 4) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6);
  } else {
    return __builtin_shufflevector(a, b, 0, 2);
  }
}
template <class V>
FASTCONV_INLINE V odd_lanes(V a, V b) {
  constexpr int kL = sizeof(V) / sizeof(a[0]);
  if constexpr (kL == 32) {
    return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                   33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63);
  } else if constexpr (kL == 16) {
    return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  } else if constexpr (kL == 8) {
    return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
  } else if constexpr (kL == 4) {
    return __builtin_shufflevector(a, b, 1, 3, 5, 7);
  } else {
    return __builtin_shufflevector(a, b, 1, 3);
  }
}
// (a0 b0 a1 b1 ...): its low and high halves.
template <class V>
FASTCONV_INLINE V interleave_low(V a, V b) {
  constexpr int kL = sizeof(V) / sizeof(a[0]);
  if constexpr (kL == 16) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  } else if constexpr (kL == 8) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  } else if constexpr (kL == 4) {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
  } else {
    return __builtin_shufflevector(a, b, 0, 2);
  }
}
template <class V>
FASTCONV_INLINE V interleave_high(V a, V b) {
  constexpr int kL = sizeof(V) / sizeof(a[0]);
  if constexpr (kL == 16) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                   31);
  } else if constexpr (kL == 8) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  } else if constexpr (kL == 4) {
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
  } else {
    return __builtin_shufflevector(a, b, 1, 3);
  }
}

// kPhases vectors, whose lanes belong at i*kPhases + phase, in memory order.
template <class V, int kPhases>
FASTCONV_INLINE void interleave_phases(V (&v)[kPhases]) {
  static_assert(kPhases == 1 || kPhases == 2 || kPhases == 4);
  if constexpr (kPhases == 4) {
    const V a = interleave_low(v[0], v[2]), b = interleave_high(v[0], v[2]);
    const V c = interleave_low(v[1], v[3]), d = interleave_high(v[1], v[3]);
    v[0] = interleave_low(a, c);
    v[1] = interleave_high(a, c);
    v[2] = interleave_low(b, d);
    v[3] = interleave_high(b, d);
  } else if constexpr (kPhases == 2) {
    const V low = interleave_low(v[0], v[1]);
    v[1] = interleave_high(v[0], v[1]);
    v[0] = low;
  }
}

// ---- the running maximum ----

// `v > best || v is NaN` takes v.  Everything but the AVX-512 forms is the compiler's.
FASTCONV_INLINE void take_max(VecF32& best, VecF32 v) {
#if FASTCONV_LEVEL == 2
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
  const __m512 larger = _mm512_max_ps((__m512)v, (__m512)best);  // `best` on ties and NaN
  best = (VecF32)_mm512_mask_mov_ps(larger, nan, (__m512)v);
#elif FASTCONV_LEVEL == 1
  const __m256 nan = _mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q);
  const __m256 larger = _mm256_max_ps((__m256)v, (__m256)best);
  best = (VecF32)_mm256_blendv_ps(larger, (__m256)v, nan);
#else
  best = ((v > best) | (v != v)) ? v : best;
#endif
}
FASTCONV_INLINE void take_max(VecF64& best, VecF64 v) { best = ((v > best) | (v != v)) ? v : best; }

FASTCONV_INLINE void take_max(VecF32& best, VecI32& code, VecF32 v, int64_t tap) {
#if FASTCONV_LEVEL == 2
  const __mmask16 take = _mm512_cmp_ps_mask((__m512)v, (__m512)best, _CMP_GT_OQ) |
                         _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
  best = (VecF32)_mm512_mask_mov_ps((__m512)best, take, (__m512)v);
  code = (VecI32)_mm512_mask_mov_epi32((__m512i)code, take, _mm512_set1_epi32(tap));
#else
  const VecI32 take = (v > best) | (v != v);
  best = take ? v : best;
  code = take ? set1_int<float>(tap) : code;
#endif
}
FASTCONV_INLINE void take_max(VecF64& best, VecI64& code, VecF64 v, int64_t tap) {
  const VecI64 take = (v > best) | (v != v);
  best = take ? v : best;
  code = take ? set1_int<double>(tap) : code;
}

// Continues `best` with the maximum of later taps.
template <class V, class I>
FASTCONV_INLINE void take_later(V& best, I& code, V later, I later_code) {
  const I take = (later > best) | (later != later);
  best = take ? later : best;
  code = take ? later_code : code;
}

// ---- stores ----

// Stores values that are exactly representable in T: nothing is rounded, NaNs keep their bits.
template <class T>
FASTCONV_INLINE void store_exact(T* p, Vec<Accum<T>> v, int n) {
#if FASTCONV_LEVEL == 2
  if constexpr (__is_same(T, bf16)) {
    const __m256i h = _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)v, 16));
    if (n == kLanes<float>) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), h);
    } else {
      _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(lane_mask(n)), h);
    }
    return;
  }
#elif FASTCONV_LEVEL == 1
  if constexpr (__is_same(T, bf16)) {
    if (n == kLanes<float>) {
      const __m256i high = _mm256_srli_epi32((__m256i)v, 16);
      const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
      return;
    }
  }
#endif
  if (n == kLanes<Accum<T>>) {
    store(p, v);
  } else {
    store_n(p, v, n);
  }
}

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
