// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Vectors of elements of E bytes, of every width that the level has, and their perfect shuffles.
#pragma once

#include "ops/rearrange/vec16-inl.h"

namespace fastconv::rearrange::FASTCONV_ISA {

#if FASTCONV_LEVEL >= 1

using Vec32 = __m256i;

FASTCONV_REARRANGE_INLINE Vec32 load32(const char* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
FASTCONV_REARRANGE_INLINE void store(char* p, Vec32 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
}

template <int E>
FASTCONV_REARRANGE_INLINE Vec32 unpack_low(Vec32 a, Vec32 b) {
  if constexpr (E == 1) return _mm256_unpacklo_epi8(a, b);
  if constexpr (E == 2) return _mm256_unpacklo_epi16(a, b);
  if constexpr (E == 4) return _mm256_unpacklo_epi32(a, b);
  if constexpr (E == 8) return _mm256_unpacklo_epi64(a, b);
}
template <int E>
FASTCONV_REARRANGE_INLINE Vec32 unpack_high(Vec32 a, Vec32 b) {
  if constexpr (E == 1) return _mm256_unpackhi_epi8(a, b);
  if constexpr (E == 2) return _mm256_unpackhi_epi16(a, b);
  if constexpr (E == 4) return _mm256_unpackhi_epi32(a, b);
  if constexpr (E == 8) return _mm256_unpackhi_epi64(a, b);
}

// Unpacking stays within 128 bits; the halves are exchanged afterwards.
template <int E>
FASTCONV_REARRANGE_INLINE void zip(Vec32 a, Vec32 b, Vec32& low, Vec32& high) {
  const Vec32 l = unpack_low<E>(a, b), h = unpack_high<E>(a, b);
  low = _mm256_permute2x128_si256(l, h, 0x20);
  high = _mm256_permute2x128_si256(l, h, 0x31);
}
// The even and the odd elements of a and b.
template <int E>
FASTCONV_REARRANGE_INLINE void unzip(Vec32 a, Vec32 b, Vec32& even, Vec32& odd) {
  static_assert(E > 1);
  Vec32 e, o;
  if constexpr (E == 4) {
    const __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    e = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88));
    o = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xdd));
  } else {
    if constexpr (E == 2) {
      const Vec32 mask = _mm256_broadcastsi128_si256(
          _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
      a = _mm256_shuffle_epi8(a, mask);
      b = _mm256_shuffle_epi8(b, mask);
    }
    e = _mm256_unpacklo_epi64(a, b);
    o = _mm256_unpackhi_epi64(a, b);
  }
  even = _mm256_permute4x64_epi64(e, 0xd8);
  odd = _mm256_permute4x64_epi64(o, 0xd8);
}
// v[mask[i]] within each 16 bytes.
FASTCONV_REARRANGE_INLINE Vec32 pick_bytes(Vec32 v, Vec16 mask) {
  return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(mask));
}

#endif

#if FASTCONV_LEVEL >= 2

using Vec64 = __m512i;

FASTCONV_REARRANGE_INLINE Vec64 load64(const char* p) { return _mm512_loadu_si512(p); }
FASTCONV_REARRANGE_INLINE void store(char* p, Vec64 v) { _mm512_storeu_si512(p, v); }

template <int E>
FASTCONV_REARRANGE_INLINE Vec64 unpack_low(Vec64 a, Vec64 b) {
  if constexpr (E == 1) return _mm512_unpacklo_epi8(a, b);
  if constexpr (E == 2) return _mm512_unpacklo_epi16(a, b);
  if constexpr (E == 4) return _mm512_unpacklo_epi32(a, b);
  if constexpr (E == 8) return _mm512_unpacklo_epi64(a, b);
}
template <int E>
FASTCONV_REARRANGE_INLINE Vec64 unpack_high(Vec64 a, Vec64 b) {
  if constexpr (E == 1) return _mm512_unpackhi_epi8(a, b);
  if constexpr (E == 2) return _mm512_unpackhi_epi16(a, b);
  if constexpr (E == 4) return _mm512_unpackhi_epi32(a, b);
  if constexpr (E == 8) return _mm512_unpackhi_epi64(a, b);
}

// Elements of two vectors, by their index in both.
template <int E>
FASTCONV_REARRANGE_INLINE Vec64 pick_two(Vec64 a, Vec64 indices, Vec64 b) {
  if constexpr (E == 2) return _mm512_permutex2var_epi16(a, indices, b);
  if constexpr (E == 4) return _mm512_permutex2var_epi32(a, indices, b);
  if constexpr (E == 8) return _mm512_permutex2var_epi64(a, indices, b);
}

template <int E>
struct IndexOf;
template <>
struct IndexOf<2> {
  using type = uint16_t;
};
template <>
struct IndexOf<4> {
  using type = uint32_t;
};
template <>
struct IndexOf<8> {
  using type = uint64_t;
};
template <int E>
struct Indices {
  static constexpr int kLanes = 64 / E;
  alignas(64) typename IndexOf<E>::type zip[2][kLanes], unzip[2][kLanes];

  constexpr Indices() : zip(), unzip() {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < kLanes; ++i) {
        using Index = typename IndexOf<E>::type;
        zip[half][i] = static_cast<Index>(half * kLanes / 2 + i / 2 + i % 2 * kLanes);
        unzip[half][i] = static_cast<Index>(2 * i + half);
      }
    }
  }
};
template <int E>
static constexpr Indices<E> kIndices;

template <int E>
FASTCONV_REARRANGE_INLINE void zip(Vec64 a, Vec64 b, Vec64& low, Vec64& high) {
  if constexpr (E == 1) {
    const Vec64 l = _mm512_unpacklo_epi8(a, b), h = _mm512_unpackhi_epi8(a, b);
    low = pick_two<8>(l, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), h);
    high = pick_two<8>(l, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), h);
  } else {
    low = pick_two<E>(a, _mm512_load_si512(kIndices<E>.zip[0]), b);
    high = pick_two<E>(a, _mm512_load_si512(kIndices<E>.zip[1]), b);
  }
}
template <int E>
FASTCONV_REARRANGE_INLINE void unzip(Vec64 a, Vec64 b, Vec64& even, Vec64& odd) {
  static_assert(E > 1);
  even = pick_two<E>(a, _mm512_load_si512(kIndices<E>.unzip[0]), b);
  odd = pick_two<E>(a, _mm512_load_si512(kIndices<E>.unzip[1]), b);
}
FASTCONV_REARRANGE_INLINE Vec64 pick_bytes(Vec64 v, Vec16 mask) {
  return _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(mask));
}

#endif

FASTCONV_REARRANGE_INLINE void store(char* p, Vec16 v) { store16(p, v); }
template <int E>
FASTCONV_REARRANGE_INLINE void zip(Vec16 a, Vec16 b, Vec16& low, Vec16& high) {
  low = zip_low<E>(a, b);
  high = zip_high<E>(a, b);
}

// The vector of kBytes.
template <int kBytes>
struct VecOf {
  using type = Vec16;
  static FASTCONV_REARRANGE_INLINE Vec16 load(const char* p) { return load16(p); }
};
#if FASTCONV_LEVEL >= 1
template <>
struct VecOf<32> {
  using type = Vec32;
  static FASTCONV_REARRANGE_INLINE Vec32 load(const char* p) { return load32(p); }
};
#endif
#if FASTCONV_LEVEL >= 2
template <>
struct VecOf<64> {
  using type = Vec64;
  static FASTCONV_REARRANGE_INLINE Vec64 load(const char* p) { return load64(p); }
};
#endif

constexpr int log2_of(int n) { return n <= 1 ? 0 : 1 + log2_of(n / 2); }

// `stages` perfect shuffles of the elements of all v, seen as one sequence.  A shuffle rotates the
// bits of an element's index, so log2(P) of them interleave P rows, and log2(lanes) of them undo
// that.
template <int E, int kStages, class V, int P>
FASTCONV_REARRANGE_INLINE void shuffle(V (&v)[P]) {
#pragma GCC unroll 4
  for (int stage = 0; stage < kStages; ++stage) {
    V next[P];
#pragma GCC unroll 8
    for (int i = 0; i < P / 2; ++i) zip<E>(v[i], v[i + P / 2], next[2 * i], next[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) v[i] = next[i];
  }
}

template <int E, class V, int P>
FASTCONV_REARRANGE_INLINE void interleave(V (&v)[P]) {
  shuffle<E, log2_of(P)>(v);
}

template <int E, int P>
FASTCONV_REARRANGE_INLINE void deinterleave16(Vec16 (&v)[P]) {
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
  shuffle<E, log2_of(kVector / E)>(v);
}

// The inverse of shuffle.
template <int E, int kStages, class V, int P>
FASTCONV_REARRANGE_INLINE void unshuffle(V (&v)[P]) {
  V next[P];
#pragma GCC unroll 8
  for (int i = 0; i < P / 2; ++i) unzip<E>(v[2 * i], v[2 * i + 1], next[i], next[i + P / 2]);
#pragma GCC unroll 16
  for (int i = 0; i < P; ++i) v[i] = next[i];
  if constexpr (kStages > 1) unshuffle<E, kStages - 1>(v);
}

// The bytes of 16 / P interleaved elements of P rows, row by row.
template <int E, int P>
struct RowsFirst {
  alignas(16) char mask[16];

  constexpr RowsFirst() : mask() {
    constexpr int kBlock = 16 / P;  // bytes of a row
    for (int i = 0; i < 16; ++i) {
      mask[i] = static_cast<char>((i % kBlock / E * P + i / kBlock) * E + i % E);
    }
  }
};
template <int E, int P>
static constexpr RowsFirst<E, P> kRowsFirst;

template <int E, class V, int P>
FASTCONV_REARRANGE_INLINE void deinterleave(V (&v)[P]) {
  if constexpr (sizeof(V) > 16) {
    // Bytes move in blocks: within 16 bytes first, blocks afterwards.
    constexpr int kWidest = sizeof(V) == 64 ? 1 : 2;
    if constexpr (E <= kWidest && 16 / P > E) {
#pragma GCC unroll 16
      for (int i = 0; i < P; ++i) v[i] = pick_bytes(v[i], load16(kRowsFirst<E, P>.mask));
      return deinterleave<16 / P>(v);
    } else {
      unshuffle<E, log2_of(P)>(v);
    }
  } else {
    deinterleave16<E>(v);
  }
}

}  // namespace fastconv::rearrange::FASTCONV_ISA
