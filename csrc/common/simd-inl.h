// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Vectors of one ISA level, re-included per level.  Arithmetic is done in Vec<float> or
// Vec<double>; loads widen and stores round, so a kernel reads the same for every element type:
//   Vec<A> acc = fma(load(x), load(w), acc);   store(y, acc);      // A = Accum<T>
// Plain +, -, *, < come from the compiler's vector types.
#pragma once

#include "common/scalar-inl.h"

namespace fastconv::FASTCONV_ISA {

constexpr int kVectorBytes = FASTCONV_LEVEL >= 2 ? 64 : FASTCONV_LEVEL == 1 ? 32 : 16;
constexpr int kVectorRegisters = FASTCONV_LEVEL >= 2 ? 32 : 16;

template <class A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

typedef float VecF32 __attribute__((vector_size(kVectorBytes)));
typedef double VecF64 __attribute__((vector_size(kVectorBytes)));
typedef int32_t VecI32 __attribute__((vector_size(kVectorBytes)));

template <class A>
struct VecOf {
  using type = VecF32;
};
template <>
struct VecOf<double> {
  using type = VecF64;
};
template <class A>
using Vec = typename VecOf<A>::type;

template <class A>
FASTCONV_INLINE Vec<A> set1(A value) {
  return value - Vec<A>{};
}
template <class V>
FASTCONV_INLINE V fma(V a, V b, V c) {
  return a * b + c;
}
// Keeps a loaded value in a register: GCC otherwise folds it back into a memory operand of each
// use and reloads it (measured: docs/lab/depthwise_conv_cpu.md).
template <class V>
FASTCONV_INLINE void pin(V& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#else
  asm("" : "+w"(v));
#endif
}

// The last argument of __builtin_prefetch.  L2 waits for more lines at a time than L1 and holds
// more.
constexpr int kToL1 = 3, kToL2 = 2;

// ---- whole vectors ----

FASTCONV_INLINE VecF32 load(const float* p) {
  VecF32 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
FASTCONV_INLINE VecF64 load(const double* p) {
  VecF64 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
FASTCONV_INLINE void store(float* p, VecF32 v) { std::memcpy(p, &v, sizeof v); }
FASTCONV_INLINE void store(double* p, VecF64 v) { std::memcpy(p, &v, sizeof v); }

#if FASTCONV_LEVEL >= 2

FASTCONV_INLINE VecF32 widen(__m256i h, bf16) {
  return (VecF32)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
}
FASTCONV_INLINE VecF32 widen(__m256i h, f16) { return (VecF32)_mm512_cvtph_ps(h); }
FASTCONV_INLINE __m256i narrow(VecF32 v, bf16) {
#if FASTCONV_LEVEL >= 3
  return (__m256i)_mm512_cvtneps_pbh((__m512)v);
#endif
  const __m512i u = (__m512i)v, upper = _mm512_set1_epi32(0x7fff);
  const __mmask16 odd = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000));
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
  __m512i rounded = _mm512_add_epi32(u, upper);
  rounded = _mm512_mask_add_epi32(rounded, odd, rounded, _mm512_set1_epi32(1));
  rounded = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
FASTCONV_INLINE __m256i narrow(VecF32 v, f16) {
  return _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
template <class H>
FASTCONV_INLINE VecF32 load_half(const H* p) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), H{});
}
template <class H>
FASTCONV_INLINE void store_half(H* p, VecF32 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v, H{}));
}
FASTCONV_INLINE uint32_t lane_mask(int n) { return (1u << n) - 1u; }
FASTCONV_INLINE VecF32 load_n(const float* p, int n) {
  return (VecF32)_mm512_maskz_loadu_ps(static_cast<__mmask16>(lane_mask(n)), p);
}
FASTCONV_INLINE VecF64 load_n(const double* p, int n) {
  return (VecF64)_mm512_maskz_loadu_pd(static_cast<__mmask8>(lane_mask(n)), p);
}
template <class H>
FASTCONV_INLINE VecF32 load_half_n(const H* p, int n) {
  return widen(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(lane_mask(n)), p), H{});
}
FASTCONV_INLINE void store_n(float* p, VecF32 v, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(lane_mask(n)), (__m512)v);
}
FASTCONV_INLINE void store_n(double* p, VecF64 v, int n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(lane_mask(n)), (__m512d)v);
}
template <class H>
FASTCONV_INLINE void store_half_n(H* p, VecF32 v, int n) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(lane_mask(n)), narrow(v, H{}));
}

#else  // AVX2 and baseline

#if FASTCONV_LEVEL == 1

FASTCONV_INLINE VecF32 widen(__m128i h, bf16) {
  return (VecF32)_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16);
}
FASTCONV_INLINE VecF32 widen(__m128i h, f16) { return (VecF32)_mm256_cvtph_ps(h); }
FASTCONV_INLINE __m128i narrow(VecF32 v, bf16) {
  const __m256i u = (__m256i)v;
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i nan = (__m256i)_mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q);
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  // packus works within 128-bit lanes: gather the two useful quarters.
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  return _mm256_castsi256_si128(packed);
}
FASTCONV_INLINE __m128i narrow(VecF32 v, f16) {
  return _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
template <class H>
FASTCONV_INLINE VecF32 load_half(const H* p) {
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), H{});
}
template <class H>
FASTCONV_INLINE void store_half(H* p, VecF32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(v, H{}));
}
// A sliding window over 8 ones and 8 zeros gives the mask of the first n lanes.
alignas(64) inline const int32_t kMaskSource[16] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                    0,  0,  0,  0,  0,  0,  0,  0};
FASTCONV_INLINE __m256i lane_mask32(int n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMaskSource + 8 - n));
}
FASTCONV_INLINE VecF32 load_n(const float* p, int n) {
  return (VecF32)_mm256_maskload_ps(p, lane_mask32(n));
}
FASTCONV_INLINE VecF64 load_n(const double* p, int n) {
  return (VecF64)_mm256_maskload_pd(p, lane_mask32(2 * n));
}
FASTCONV_INLINE void store_n(float* p, VecF32 v, int n) {
  _mm256_maskstore_ps(p, lane_mask32(n), (__m256)v);
}
FASTCONV_INLINE void store_n(double* p, VecF64 v, int n) {
  _mm256_maskstore_pd(p, lane_mask32(2 * n), (__m256d)v);
}

#else  // baseline: what every compiler vectorises by itself

// Out of line: the scalar conversions are long, and inlined into every tile they would make this
// level's code several times the size of the others'.
template <class H>
__attribute__((noinline)) VecF32 load_half(const H* p) {
  VecF32 v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = to_float(p[i]);
  return v;
}
template <class H>
__attribute__((noinline)) void store_half(H* p, VecF32 v) {
  for (int i = 0; i < kLanes<float>; ++i) p[i] = from_float<H>(v[i]);
}
template <class A>
FASTCONV_INLINE Vec<A> load_n(const A* p, int n) {
  Vec<A> v{};
  for (int i = 0; i < kLanes<A>; ++i) {
    if (i < n) v[i] = p[i];
  }
  return v;
}
template <class A>
FASTCONV_INLINE void store_n(A* p, Vec<A> v, int n) {
  for (int i = 0; i < kLanes<A>; ++i) {
    if (i < n) p[i] = v[i];
  }
}

#endif

template <class H>
FASTCONV_INLINE VecF32 load_half_n(const H* p, int n) {
  H lanes[kLanes<float>] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load_half(lanes);
}
template <class H>
FASTCONV_INLINE void store_half_n(H* p, VecF32 v, int n) {
  H lanes[kLanes<float>];
  store_half(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}

#endif

FASTCONV_INLINE VecF32 load(const bf16* p) { return load_half(p); }
FASTCONV_INLINE VecF32 load(const f16* p) { return load_half(p); }
FASTCONV_INLINE void store(bf16* p, VecF32 v) { store_half(p, v); }
FASTCONV_INLINE void store(f16* p, VecF32 v) { store_half(p, v); }
// The first n lanes, 0 <= n <= lanes: the others read as zero and are never touched in memory.
FASTCONV_INLINE VecF32 load_n(const bf16* p, int n) { return load_half_n(p, n); }
FASTCONV_INLINE VecF32 load_n(const f16* p, int n) { return load_half_n(p, n); }
FASTCONV_INLINE void store_n(bf16* p, VecF32 v, int n) { store_half_n(p, v, n); }
FASTCONV_INLINE void store_n(f16* p, VecF32 v, int n) { store_half_n(p, v, n); }

// As it would be after a store and a load.
template <class T>
FASTCONV_INLINE Vec<Accum<T>> rounded(Vec<Accum<T>> v) {
  if constexpr (sizeof(T) == sizeof(Accum<T>)) {
    return v;
  } else {
#if FASTCONV_LEVEL >= 1
    return widen(narrow(v, T{}), T{});
#else
    T lanes[kLanes<float>];
    store(lanes, v);
    return load(lanes);
#endif
  }
}

// A load without a branch, or zero; where masks are cheap nothing is read then.
template <class T>
FASTCONV_INLINE Vec<Accum<T>> load_if(bool on, const T* p) {
#if FASTCONV_LEVEL >= 2
  const uint32_t mask = -static_cast<uint32_t>(on);
  if constexpr (sizeof(T) == 8) {
    return (VecF64)_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p);
  } else if constexpr (sizeof(T) == 4) {
    return (VecF32)_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
  } else {
    return widen(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p), T{});
  }
#else
  return on ? load(p) : Vec<Accum<T>>{};
#endif
}

// Lane sum in a fixed tree, so that results do not depend on how a caller schedules it.
template <class A>
FASTCONV_INLINE A reduce_add(Vec<A> v) {
  A lanes[kLanes<A>];
  store(lanes, v);
  for (int half = kLanes<A> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

}  // namespace fastconv::FASTCONV_ISA
