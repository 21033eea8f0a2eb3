// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Transposition of small matrices in registers, re-included per ISA level.
#pragma once

#include "common/simd-inl.h"

namespace fastconv::FASTCONV_ISA {

// Lanes alternate between the low (or high) halves of a and b.
template <bool High, class V>
FASTCONV_INLINE V interleave(V a, V b) {
  constexpr int kV = sizeof(V) / sizeof(a[0]);
  typedef decltype(V{} < V{}) Index;
  Index index;
#pragma GCC unroll 16
  for (int i = 0; i < kV; ++i) index[i] = i / 2 + (High ? kV / 2 : 0) + (i % 2 == 0 ? 0 : kV);
  return __builtin_shuffle(a, b, index);
}

// 2 * kV neighbouring lanes, split into the even and the odd ones.
template <class V>
FASTCONV_INLINE void split_pairs(V a, V b, V& even, V& odd) {
  constexpr int kV = sizeof(V) / sizeof(a[0]);
  typedef decltype(V{} < V{}) Index;
  Index evens, odds;
  for (int i = 0; i < kV; ++i) {
    evens[i] = 2 * i;
    odds[i] = 2 * i + 1;
  }
  even = __builtin_shuffle(a, b, evens);
  odd = __builtin_shuffle(a, b, odds);
}
#if FASTCONV_LEVEL == 1
// GCC permutes each vector across its halves and blends, which takes twice as many.  (3x3 at stride
// 2 on 1x144x112x112, contiguous: 179 us, and 152 so.)
FASTCONV_INLINE void split_pairs(VecF32 a, VecF32 b, VecF32& even, VecF32& odd) {
  const __m256 evens = _mm256_shuffle_ps((__m256)a, (__m256)b, 0x88);
  const __m256 odds = _mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd);
  even = (VecF32)_mm256_permute4x64_pd((__m256d)evens, 0xd8);
  odd = (VecF32)_mm256_permute4x64_pd((__m256d)odds, 0xd8);
}
#endif

// In place: r[i][j] <-> r[j][i].  Each of the log2(kV) rounds interleaves the rows' two halves,
// which rotates the bits of (row, lane) by one.
template <class A>
FASTCONV_INLINE void transpose(Vec<A> (&r)[kLanes<A>]) {
  constexpr int kV = kLanes<A>;
#pragma GCC unroll 4
  for (int round = 1; round < kV; round *= 2) {
    Vec<A> next[kV];
#pragma GCC unroll 8
    for (int i = 0; i < kV / 2; ++i) {
      next[2 * i] = interleave<false>(r[i], r[i + kV / 2]);
      next[2 * i + 1] = interleave<true>(r[i], r[i + kV / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kV; ++i) r[i] = next[i];
  }
}

// So few columns in all are moved one by one.
constexpr int kFew = 2;

// dst[j * dst_stride + i] = src[i * src_stride + j] for i < rows <= kV and j < columns; lanes
// i >= rows of dst are written with zeros.  The last columns overlap those before: a plane of 7x7 =
// 3 * 16 + 1 is four matrices.
template <class T>
void gather_transposed(Accum<T>* dst, int64_t dst_stride, const T* src, int64_t src_stride,
                       int rows, int64_t columns) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  if (columns <= kFew) {
    for (int64_t j = 0; j < columns; ++j) {
      for (int i = 0; i < kV; ++i) {
        dst[j * dst_stride + i] = i < rows ? to_float(src[i * src_stride + j]) : A{0};
      }
    }
    return;
  }
  for (int64_t next = 0; next < columns; next += kV) {
    const int64_t j = max_of(0, min_of(next, columns - kV));
    const int left = static_cast<int>(min_of(kV, columns - j));
    Vec<A> r[kV];
    if (left == kV) {
#pragma GCC unroll 16
      for (int i = 0; i < kV; ++i) r[i] = i < rows ? load(src + i * src_stride + j) : Vec<A>{};
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < kV; ++i) {
        r[i] = i < rows ? load_n(src + i * src_stride + j, left) : Vec<A>{};
      }
    }
    transpose<A>(r);
#pragma GCC unroll 16
    for (int i = 0; i < kV; ++i) {
      if (i < left) store(dst + (j + i) * dst_stride, r[i]);
    }
  }
}

// The reverse: dst[i * dst_stride + j] = src[j * src_stride + i] for i < rows, j < columns.  Reads
// whole vectors of src.
template <class T>
void scatter_transposed(T* dst, int64_t dst_stride, const Accum<T>* src, int64_t src_stride,
                        int rows, int64_t columns) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  if (columns <= kFew) {
    for (int64_t j = 0; j < columns; ++j) {
      for (int i = 0; i < rows; ++i)
        dst[i * dst_stride + j] = from_float<T>(src[j * src_stride + i]);
    }
    return;
  }
  for (int64_t next = 0; next < columns; next += kV) {
    const int64_t j = max_of(0, min_of(next, columns - kV));
    const int left = static_cast<int>(min_of(kV, columns - j));
    Vec<A> r[kV];
#pragma GCC unroll 16
    for (int i = 0; i < kV; ++i) r[i] = i < left ? load(src + (j + i) * src_stride) : Vec<A>{};
    transpose<A>(r);
    if (left == kV) {
#pragma GCC unroll 16
      for (int i = 0; i < kV; ++i) {
        if (i < rows) store(dst + i * dst_stride + j, r[i]);
      }
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < kV; ++i) {
        if (i < rows) store_n(dst + i * dst_stride + j, r[i], left);
      }
    }
  }
}

}  // namespace fastconv::FASTCONV_ISA
