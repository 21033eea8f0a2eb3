// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// 16 bytes as a vector of elements of E bytes, re-included per ISA level.  Two 16-byte stores per
// cycle already are what the caches take, and unpacking wider vectors crosses 128-bit lanes.
#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fastconv::rearrange::FASTCONV_ISA {

#define FASTCONV_REARRANGE_INLINE inline __attribute__((always_inline))

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

constexpr int log2_of(int n) { return n <= 1 ? 0 : 1 + log2_of(n / 2); }

// `stages` perfect shuffles of the P * 16 / E elements of v, seen as one sequence.  A shuffle
// rotates the bits of an element's index, so log2(P) of them interleave P rows, and log2(16 / E)
// of them undo that.
template <int E, int P, int kStages>
FASTCONV_REARRANGE_INLINE void shuffle(Vec16 (&v)[P]) {
#pragma GCC unroll 4
  for (int stage = 0; stage < kStages; ++stage) {
    Vec16 next[P];
#pragma GCC unroll 8
    for (int i = 0; i < P / 2; ++i) {
      next[2 * i] = zip_low<E>(v[i], v[i + P / 2]);
      next[2 * i + 1] = zip_high<E>(v[i], v[i + P / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) v[i] = next[i];
  }
}

template <int E, int P>
FASTCONV_REARRANGE_INLINE void interleave(Vec16 (&v)[P]) {
  shuffle<E, P, log2_of(P)>(v);
}

template <int E, int P>
FASTCONV_REARRANGE_INLINE void deinterleave(Vec16 (&v)[P]) {
#if defined(__x86_64__)
  // Pairs: taking every other element of two vectors beats shuffling them all the way round.
  if constexpr (P == 2 && E == 4) {
    const __m128 a = _mm_castsi128_ps(v[0]), b = _mm_castsi128_ps(v[1]);
    v[0] = _mm_castps_si128(_mm_shuffle_ps(a, b, 0x88));
    v[1] = _mm_castps_si128(_mm_shuffle_ps(a, b, 0xdd));
    return;
  }
  if constexpr (P == 2 && E == 2) {
    const Vec16 a = v[0], b = v[1];
    v[0] = _mm_packs_epi32(_mm_srai_epi32(_mm_slli_epi32(a, 16), 16),
                           _mm_srai_epi32(_mm_slli_epi32(b, 16), 16));
    v[1] = _mm_packs_epi32(_mm_srai_epi32(a, 16), _mm_srai_epi32(b, 16));
    return;
  }
  if constexpr (P == 2 && E == 1) {
    const Vec16 a = v[0], b = v[1], low = _mm_set1_epi16(0xff);
    v[0] = _mm_packus_epi16(_mm_and_si128(a, low), _mm_and_si128(b, low));
    v[1] = _mm_packus_epi16(_mm_srli_epi16(a, 8), _mm_srli_epi16(b, 8));
    return;
  }
#endif
  shuffle<E, P, log2_of(kVector / E)>(v);
}

}  // namespace fastconv::rearrange::FASTCONV_ISA
