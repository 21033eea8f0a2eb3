// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Running maxima of the windows in kL lanes, which may visit their elements in any order: of values
// alone and with winners.  Which of several NaNs wins depends on the order of
// visits, and without winners the sign of a zero does too: `Seen` tells whether there were any.
#pragma once

#include "ops/depth_max_pool/cpu_forward-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

// Whether a lane of a comparison's result is true.
template <class V>
FASTCONV_INLINE bool any_lane(V mask) {
#if FASTCONV_LEVEL >= 2
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif FASTCONV_LEVEL == 1
  return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
  uint64_t words[sizeof(V) / 8], any = 0;
  std::memcpy(words, &mask, sizeof mask);
  for (const uint64_t word : words) any |= word;
  return any != 0;
#endif
}

// Lane i of the result is lane index[i]; where a level can do so.
template <class E>
constexpr bool kPermutes = FASTCONV_LEVEL >= 2 || (FASTCONV_LEVEL == 1 && sizeof(E) == 4);
template <class V, class I>
FASTCONV_INLINE V permute_lanes(V v, [[maybe_unused]] I index) {
#if FASTCONV_LEVEL >= 2
  if constexpr (sizeof(v[0]) == 2) {
    return (V)_mm512_permutexvar_epi16((__m512i)index, (__m512i)v);
  } else if constexpr (sizeof(v[0]) == 4) {
    return (V)_mm512_permutexvar_epi32((__m512i)index, (__m512i)v);
  } else {
    return (V)_mm512_permutexvar_epi64((__m512i)index, (__m512i)v);
  }
#elif FASTCONV_LEVEL == 1
  static_assert(sizeof(v[0]) == 4);
  return (V)_mm256_permutevar8x32_epi32((__m256i)v, (__m256i)index);
#else
  return v;
#endif
}

// Whether there were NaNs among values, and -0 if kZero.
template <class A, bool kZero>
struct Special {
#if FASTCONV_LEVEL >= 2
  uint32_t lanes = 0;

  FASTCONV_INLINE void add(Vec<A> v) {
    constexpr int kQuietNan = 0x01, kMinusZero = 0x04, kSignalingNan = 0x80;
    constexpr int kClasses = kQuietNan | kSignalingNan | (kZero ? kMinusZero : 0);
    if constexpr (sizeof(A) == 4) {
      lanes |= _mm512_fpclass_ps_mask((__m512)v, kClasses);
    } else {
      lanes |= _mm512_fpclass_pd_mask((__m512d)v, kClasses);
    }
  }
  FASTCONV_INLINE bool any() const { return lanes != 0; }
#else
  Ints<A> lanes;

  // (GCC does not give members' initializers the target of the region.)
  FASTCONV_INLINE Special() : lanes{} {}
  FASTCONV_INLINE void add(Vec<A> v) {
    lanes |= v != v;
    if constexpr (kZero) lanes |= (Ints<A>)v == (Ints<A>)set1<A>(-A{});
  }
  FASTCONV_INLINE bool any() const { return any_lane(lanes); }
#endif
};

// fp32 and fp64 without winners.
template <class T>
struct Values {
  using Element = T;
  using V = Vec<T>;
  using Index = Ints<T>;
  using Seen = Special<T, true>;
  static constexpr int kL = kLanes<T>;

  // Elements of scratch memory.
  struct Array {
    T* at;

    FASTCONV_INLINE Array operator+(int64_t i) const { return {at + i}; }
    FASTCONV_INLINE V load() const { return FASTCONV_ISA::load(at); }
    FASTCONV_INLINE void store(V v) const { FASTCONV_ISA::store(at, v); }
    FASTCONV_INLINE void copy(const Array& from) const { *at = *from.at; }
  };
  static Array array(void* scratch, int64_t) { return {static_cast<T*>(scratch)}; }

  static FASTCONV_INLINE V lowest() { return set1<T>(kLowest<T>); }
  static FASTCONV_INLINE V of(const T* x, int n, int64_t, Seen& seen) {
    const V v = n < kL ? load_n(x, n) : load(x);
    seen.add(v);
    return v;
  }
  static FASTCONV_INLINE void take(V& best, V v) {
#if FASTCONV_LEVEL >= 2
    if constexpr (sizeof(T) == 4) {
      best = (V)_mm512_max_ps((__m512)v, (__m512)best);
    } else {
      best = (V)_mm512_max_pd((__m512d)v, (__m512d)best);
    }
#else
    best = v > best ? v : best;
#endif
  }
  static FASTCONV_INLINE void meet(V& best, V v) { take(best, v); }
  static FASTCONV_INLINE V later(V v, int64_t) { return v; }
  static FASTCONV_INLINE V even(V a, V b) { return even_lanes(a, b); }
  static FASTCONV_INLINE V odd(V a, V b) { return odd_lanes(a, b); }
  static FASTCONV_INLINE V permute(V v, Index index) { return permute_lanes(v, index); }
  static FASTCONV_INLINE V select(Index where, V a, V b) { return where ? a : b; }
  static FASTCONV_INLINE void write(const Forward& p, int64_t at, V v, int n, Seen&) {
    store_exact(static_cast<T*>(p.y) + at, v, n);
  }
};

// Values and the codes of their taps.  Of equal values the one with the lower code wins.
template <class T>
struct Winners {
  using A = Accum<T>;
  using Element = A;
  using Index = Ints<A>;
  using Seen = Special<A, false>;
  static constexpr int kL = kLanes<A>;
  // Padding comes after every tap.
  static constexpr int64_t kNoCode = int64_t{1} << 30;

  struct V {
    Vec<A> value;
    Ints<A> code;
  };

  struct Array {
    A* at;
    IntLane<A>* code;

    FASTCONV_INLINE Array operator+(int64_t i) const { return {at + i, code + i}; }
    FASTCONV_INLINE V load() const {
      V v{FASTCONV_ISA::load(at), {}};
      std::memcpy(&v.code, code, sizeof v.code);
      return v;
    }
    FASTCONV_INLINE void store(const V& v) const {
      FASTCONV_ISA::store(at, v.value);
      std::memcpy(code, &v.code, sizeof v.code);
    }
    FASTCONV_INLINE void copy(const Array& from) const {
      *at = *from.at;
      *code = *from.code;
    }
  };
  static Array array(void* scratch, int64_t elements) {
    A* at = static_cast<A*>(scratch);
    return {at, reinterpret_cast<IntLane<A>*>(at + elements)};
  }

  static FASTCONV_INLINE V lowest() { return {set1<A>(kLowest<A>), set1_int<A>(kNoCode)}; }
  static FASTCONV_INLINE V of(const T* x, int n, int64_t code, Seen& seen) {
    const Vec<A> value = n < kL ? load_n(x, n) : load(x);
    seen.add(value);
    return {value, set1_int<A>(code)};
  }
  // `v` comes after all others.
  static FASTCONV_INLINE void take(V& best, const V& v) {
    take_where(best, v, v.value > best.value);
  }
  static FASTCONV_INLINE void meet(V& best, const V& v) {
#if FASTCONV_LEVEL >= 2
    if constexpr (sizeof(A) == 4) {
      const __m512 a = (__m512)v.value, b = (__m512)best.value;
      const __mmask16 equal = _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
      const __mmask16 where =
          _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) |
          _mm512_mask_cmplt_epi32_mask(equal, (__m512i)v.code, (__m512i)best.code);
      best.value = (Vec<A>)_mm512_mask_mov_ps(b, where, a);
      best.code = (Ints<A>)_mm512_mask_mov_epi32((__m512i)best.code, where, (__m512i)v.code);
      return;
    }
#endif
    take_where(best, v, (v.value > best.value) | ((v.value == best.value) & (v.code < best.code)));
  }
  static FASTCONV_INLINE void take_where(V& best, const V& v, Ints<A> where) {
    best.value = where ? v.value : best.value;
    best.code = where ? v.code : best.code;
  }
  static FASTCONV_INLINE V later(const V& v, int64_t code) {
    return {v.value, v.code + set1_int<A>(code)};
  }
  static FASTCONV_INLINE V even(const V& a, const V& b) {
    return {even_lanes(a.value, b.value), even_lanes(a.code, b.code)};
  }
  static FASTCONV_INLINE V odd(const V& a, const V& b) {
    return {odd_lanes(a.value, b.value), odd_lanes(a.code, b.code)};
  }
  static FASTCONV_INLINE V permute(const V& v, Index index) {
    return {permute_lanes(v.value, index), permute_lanes(v.code, index)};
  }
  static FASTCONV_INLINE V select(Index where, const V& a, const V& b) {
    return {where ? a.value : b.value, where ? a.code : b.code};
  }
  static FASTCONV_INLINE void write(const Forward& p, int64_t at, const V& v, int n, Seen&) {
    store_exact(static_cast<T*>(p.y) + at, v.value, n);
    store_codes<A>(p.index_type, p.index, at, v.code, n, 0, 0);
  }
};

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
