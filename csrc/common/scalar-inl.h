// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// One element: the type it is accumulated in, and conversions to it and back.  Re-included per ISA
// level.
#pragma once

namespace fastconv::FASTCONV_ISA {

#define FASTCONV_INLINE inline __attribute__((always_inline))

template <class T>
struct AccumOf {
  using type = float;
};
template <>
struct AccumOf<double> {
  using type = double;
};
// The type in which T is accumulated: fp64 for fp64, fp32 for everything else.
template <class T>
using Accum = typename AccumOf<T>::type;

// ---- scalar conversions: IEEE round to nearest even; NaNs stay NaNs ----

FASTCONV_INLINE float to_float(float x) { return x; }
FASTCONV_INLINE double to_float(double x) { return x; }
FASTCONV_INLINE float bits_to_float(uint32_t u) {
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
}
FASTCONV_INLINE uint32_t float_to_bits(float f) {
  uint32_t u;
  std::memcpy(&u, &f, sizeof u);
  return u;
}
FASTCONV_INLINE float to_float(bf16 x) { return bits_to_float(uint32_t{x.bits} << 16); }
FASTCONV_INLINE float to_float(f16 x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // inf, NaN
    return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  }
  // Normal numbers and subnormals alike: shift into place, then scale the exponent by 2^112.
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f));
}
template <class T>
T from_float(Accum<T> x);
template <>
FASTCONV_INLINE float from_float<float>(float x) {
  return x;
}
template <>
FASTCONV_INLINE double from_float<double>(double x) {
  return x;
}
template <>
FASTCONV_INLINE bf16 from_float<bf16>(float x) {
  const uint32_t u = float_to_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(u >> 16 | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}
template <>
FASTCONV_INLINE f16 from_float<f16>(float x) {
  const uint32_t u = float_to_bits(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return {static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu))};
  }
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // >= 65520: inf
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves the value in units of 2^-24, correctly rounded.
    const uint32_t rounded = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
    return {static_cast<uint16_t>(sign | rounded)};
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

}  // namespace fastconv::FASTCONV_ISA
