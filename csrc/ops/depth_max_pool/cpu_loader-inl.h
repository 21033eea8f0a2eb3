// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Loads of lanes that are any number of elements apart.
#pragma once

#include "ops/depth_max_pool/cpu_simd-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

// How a kernel reads lanes that are `step` elements apart.
enum class Access : uint8_t { kUnit, kTwo, kFour, kPermute, kGather };
constexpr int kMaxPermuteStep = FASTCONV_LEVEL == 0 ? 0 : 16;

constexpr Access access_of(int64_t step) {
  return step == 1                             ? Access::kUnit
         : step == 2                           ? Access::kTwo
         : step == 4                           ? Access::kFour
         : step > 0 && step <= kMaxPermuteStep ? Access::kPermute
                                               : Access::kGather;
}

// Loads lane i from p[i * step], which is `stride` coordinates after lane 0.
template <class T, Access kAccess>
struct Loader {
  using A = Accum<T>;
  static constexpr int kL = kLanes<A>;
  int64_t step, stride;
  Ints<A> lane;                                        // kPermute: the source lane in its vector,
  Ints<A> from[kAccess == Access::kPermute ? 16 : 1];  // and which vector that is

  FASTCONV_INLINE Loader(int64_t step_in, int64_t stride_in)
      : step(step_in), stride(stride_in), lane{}, from{} {
    if constexpr (kAccess == Access::kPermute) {
      for (int i = 0; i < kL; ++i) {
        lane[i] = i * step % kL;
        for (int v = 0; v < step; ++v) from[v][i] = i * step / kL == v ? -1 : 0;
      }
    }
  }
  template <class Part>
  FASTCONV_INLINE Vec<A> combine(const Part& part) const {
    if constexpr (kAccess == Access::kUnit) {
      return part(0);
    } else if constexpr (kAccess == Access::kTwo) {
      return even_lanes(part(0), part(1));
    } else if constexpr (kAccess == Access::kFour) {
      return even_lanes(even_lanes(part(0), part(1)), even_lanes(part(2), part(3)));
    } else {
      Vec<A> v = permute(part(0));
      for (int s = 1; s < step; ++s) v = from[s] ? permute(part(s)) : v;
      return v;
    }
  }
  FASTCONV_INLINE Vec<A> permute(Vec<A> v) const {
#if FASTCONV_LEVEL == 2
    if constexpr (sizeof(A) == 4)
      return (VecF32)_mm512_permutexvar_ps((__m512i)lane, (__m512)v);
    else
      return (VecF64)_mm512_permutexvar_pd((__m512i)lane, (__m512d)v);
#elif FASTCONV_LEVEL == 1
    if constexpr (sizeof(A) == 4) {
      return (VecF32)_mm256_permutevar8x32_ps((__m256)v, (__m256i)lane);
    } else {
      const VecI64 pairs = (lane * 2) | ((lane * 2 + 1) << 32);
      return (VecF64)_mm256_permutevar8x32_ps((__m256)v, (__m256i)pairs);
    }
#else
    return v;
#endif
  }

  FASTCONV_INLINE Vec<A> operator()(const T* p) const {
    if constexpr (kAccess == Access::kGather) {
      A lanes[kL];
      for (int i = 0; i < kL; ++i) lanes[i] = to_float(p[i * step]);
      return load(lanes);
    } else {
      return combine([&](int v) { return load(p + v * kL); });
    }
  }
  // kTwo and kFour: lanes of p, p + 1, ... at once, from one set of loads.
  static constexpr int kGroup = kAccess == Access::kTwo ? 2 : kAccess == Access::kFour ? 4 : 1;
  FASTCONV_INLINE void group(const T* p, Vec<A> (&taps)[kGroup]) const {
    if constexpr (kAccess == Access::kTwo) {
      const Vec<A> a = load(p), b = load(p + kL);
      taps[0] = even_lanes(a, b);
      taps[1] = odd_lanes(a, b);
    } else if constexpr (kAccess == Access::kFour) {
      const Vec<A> a = load(p), b = load(p + kL), c = load(p + 2 * kL), d = load(p + 3 * kL);
      const Vec<A> even_low = even_lanes(a, b), even_high = even_lanes(c, d);
      const Vec<A> odd_low = odd_lanes(a, b), odd_high = odd_lanes(c, d);
      taps[0] = even_lanes(even_low, even_high);
      taps[1] = even_lanes(odd_low, odd_high);
      taps[2] = odd_lanes(even_low, even_high);
      taps[3] = odd_lanes(odd_low, odd_high);
    } else {
      taps[0] = (*this)(p);
    }
  }
  // Lane 0 has coordinate `first`, neighbouring coordinates are x_step apart in memory, and those
  // outside of [0, size) read as -inf.
  FASTCONV_INLINE Vec<A> range(const T* p, int64_t first, int64_t size, int64_t x_step) const {
    if constexpr (kAccess == Access::kGather) {
      A lanes[kL];
      for (int i = 0; i < kL; ++i) {
        const int64_t at = first + i * stride;
        lanes[i] = at >= 0 && at < size ? to_float(p[i * step]) : kLowest<A>;
      }
      return load(lanes);
    } else {
      const int64_t a = -first * x_step, b = (size - 1 - first) * x_step + 1;
      return combine(
          [&](int v) { return load_range(p + v * kL, a - v * kL, b - v * kL, kLowest<A>); });
    }
  }
};

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
