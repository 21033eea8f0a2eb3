// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Vectors of 16 bytes with elements of E bytes, re-included per ISA level.
#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fastconv::rearrange::FASTCONV_ISA {

#define FASTCONV_REARRANGE_INLINE inline __attribute__((always_inline))

template <int E>
struct Element {
  char bytes[E];
};

template <int E>
FASTCONV_REARRANGE_INLINE void move_element(char* out, const char* in) {
  Element<E> element;
  std::memcpy(&element, in, E);
  std::memcpy(out, &element, E);
}

inline void move_few(char* out, const char* in, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = in[i];
}

#if defined(__x86_64__)

using Vec16 = __m128i;

FASTCONV_REARRANGE_INLINE Vec16 load16(const char* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
FASTCONV_REARRANGE_INLINE void store16(char* p, Vec16 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v);
}

// The elements of a and b alternately: their first halves, their second halves.
template <int E>
FASTCONV_REARRANGE_INLINE Vec16 zip_low(Vec16 a, Vec16 b) {
  if constexpr (E == 1) return _mm_unpacklo_epi8(a, b);
  if constexpr (E == 2) return _mm_unpacklo_epi16(a, b);
  if constexpr (E == 4) return _mm_unpacklo_epi32(a, b);
  if constexpr (E == 8) return _mm_unpacklo_epi64(a, b);
}
template <int E>
FASTCONV_REARRANGE_INLINE Vec16 zip_high(Vec16 a, Vec16 b) {
  if constexpr (E == 1) return _mm_unpackhi_epi8(a, b);
  if constexpr (E == 2) return _mm_unpackhi_epi16(a, b);
  if constexpr (E == 4) return _mm_unpackhi_epi32(a, b);
  if constexpr (E == 8) return _mm_unpackhi_epi64(a, b);
}

// v[mask[i]] for every byte i; zero where mask[i] has its top bit set.
FASTCONV_REARRANGE_INLINE Vec16 pick_bytes(Vec16 v, Vec16 mask) {
#if FASTCONV_LEVEL >= 1
  return _mm_shuffle_epi8(v, mask);
#else
  unsigned char from[16], at[16], to[16];
  std::memcpy(from, &v, 16);
  std::memcpy(at, &mask, 16);
  for (int i = 0; i < 16; ++i) to[i] = at[i] < 16 ? from[at[i]] : 0;
  return load16(reinterpret_cast<const char*>(to));
#endif
}

#else

typedef uint8_t Vec16 __attribute__((vector_size(16)));

FASTCONV_REARRANGE_INLINE Vec16 load16(const char* p) {
  Vec16 v;
  std::memcpy(&v, p, 16);
  return v;
}
FASTCONV_REARRANGE_INLINE void store16(char* p, Vec16 v) { std::memcpy(p, &v, 16); }

template <int E>
FASTCONV_REARRANGE_INLINE Vec16 zip_from(Vec16 a, Vec16 b, int start) {
  Vec16 indices;
  for (int i = 0; i < 16; ++i) {
    const int lane = i / E;
    indices[i] = static_cast<uint8_t>((start + lane / 2) * E + i % E + lane % 2 * 16);
  }
#if defined(__aarch64__)
  const uint8x16x2_t both = {{(uint8x16_t)a, (uint8x16_t)b}};
  return (Vec16)vqtbl2q_u8(both, (uint8x16_t)indices);
#else
  Vec16 to;
  for (int i = 0; i < 16; ++i) to[i] = indices[i] < 16 ? a[indices[i]] : b[indices[i] - 16];
  return to;
#endif
}
template <int E>
FASTCONV_REARRANGE_INLINE Vec16 zip_low(Vec16 a, Vec16 b) {
  return zip_from<E>(a, b, 0);
}
template <int E>
FASTCONV_REARRANGE_INLINE Vec16 zip_high(Vec16 a, Vec16 b) {
  return zip_from<E>(a, b, 8 / E);
}

FASTCONV_REARRANGE_INLINE Vec16 pick_bytes(Vec16 v, Vec16 mask) {
#if defined(__aarch64__)
  return (Vec16)vqtbl1q_u8((uint8x16_t)v, (uint8x16_t)mask);
#else
  Vec16 to;
  for (int i = 0; i < 16; ++i) to[i] = mask[i] < 16 ? v[mask[i]] : 0;
  return to;
#endif
}

#endif

}  // namespace fastconv::rearrange::FASTCONV_ISA
