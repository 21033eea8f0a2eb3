// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Running maxima of 16-bit types without winners, as integers in all lanes of a vector.
//
// With I the bits of infinity and S those of -0, the bits b of an element become the rank
//
//   I - b if negative, b + I + S + 1 otherwise,  modulo 2^16, read as signed:
//
// -inf is the lowest integer, order is kept with -0 before 0, and NaNs of either sign come last.
#pragma once

#include "ops/depth_max_pool/cpu_maxima-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

template <class T>
struct Ranks {
  using Element = int16_t;
  typedef int16_t V __attribute__((vector_size(kVectorBytes)));
  typedef uint16_t Bits __attribute__((vector_size(kVectorBytes)));
  using Index = V;
  static constexpr int kL = kVectorBytes / 2;
  static constexpr uint16_t kInfinity = __is_same(T, bf16) ? 0x7f80 : 0x7c00, kSign = 0x8000;
  static constexpr uint16_t kPositive = kInfinity + kSign + 1;  // the rank of 0
  static constexpr uint16_t kHighest = static_cast<uint16_t>(kPositive + kInfinity);

  static FASTCONV_INLINE V all(uint16_t rank) { return static_cast<int16_t>(rank) - V{}; }
  static FASTCONV_INLINE V max(V a, V b) {
#if FASTCONV_LEVEL >= 2
    return (V)_mm512_max_epi16((__m512i)a, (__m512i)b);
#elif FASTCONV_LEVEL == 1
    return (V)_mm256_max_epi16((__m256i)a, (__m256i)b);
#else
    return a > b ? a : b;
#endif
  }

  // The largest rank of all outputs, and the largest b - 1 of all inputs, which is the largest of
  // all integers for -0.
  struct Seen {
    V rank, zero;

    FASTCONV_INLINE Seen() : rank(all(kSign)), zero(all(kSign)) {}
    FASTCONV_INLINE bool any() const {
      return any_lane((rank > all(kHighest)) | (zero == all(kSign - 1)));
    }
  };

  struct Array {
    int16_t* at;

    FASTCONV_INLINE Array operator+(int64_t i) const { return {at + i}; }
    FASTCONV_INLINE V load() const {
      V v;
      std::memcpy(&v, at, sizeof v);
      return v;
    }
    FASTCONV_INLINE void store(V v) const { std::memcpy(at, &v, sizeof v); }
    FASTCONV_INLINE void copy(const Array& from) const { *at = *from.at; }
  };
  static Array array(void* scratch, int64_t) { return {static_cast<int16_t*>(scratch)}; }

  static FASTCONV_INLINE V lowest() { return all(kSign); }
  static FASTCONV_INLINE V of(const T* x, int n, int64_t, Seen& seen) {
    Bits b{};
    if (n >= kL) {
      std::memcpy(&b, x, sizeof b);
    } else {
#if FASTCONV_LEVEL >= 2
      b = (Bits)_mm512_maskz_loadu_epi16((1u << n) - 1, x);
#else
      std::memcpy(&b, x, n * sizeof(T));
#endif
    }
    seen.zero = max(seen.zero, (V)(b - 1));
    return (V)((V)b < 0 ? kInfinity - b : b + kPositive);
  }
  static FASTCONV_INLINE void take(V& best, V v) { best = max(best, v); }
  static FASTCONV_INLINE void meet(V& best, V v) { best = max(best, v); }
  static FASTCONV_INLINE V later(V v, int64_t) { return v; }
  static FASTCONV_INLINE V even(V a, V b) { return even_lanes(a, b); }
  static FASTCONV_INLINE V odd(V a, V b) { return odd_lanes(a, b); }
  static FASTCONV_INLINE V permute(V v, Index index) { return permute_lanes(v, index); }
  static FASTCONV_INLINE V select(Index where, V a, V b) { return where ? a : b; }
  static FASTCONV_INLINE void write(const Forward& p, int64_t at, V v, int n, Seen& seen) {
    seen.rank = max(seen.rank, v);
    const Bits b = v < all(kPositive) ? kInfinity - (Bits)v : (Bits)v - kPositive;
    T* y = static_cast<T*>(p.y) + at;
    if (n >= kL) {
      std::memcpy(y, &b, sizeof b);
    } else {
#if FASTCONV_LEVEL >= 2
      _mm512_mask_storeu_epi16(y, (1u << n) - 1, (__m512i)b);
#else
      std::memcpy(y, &b, n * sizeof(T));
#endif
    }
  }
};

template <class T>
struct UntrackedOf {
  using type = Ranks<T>;
};
template <>
struct UntrackedOf<float> {
  using type = Values<float>;
};
template <>
struct UntrackedOf<double> {
  using type = Values<double>;
};
template <class T>
using Untracked = typename UntrackedOf<T>::type;

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
