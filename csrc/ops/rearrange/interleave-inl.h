// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Kernel::kInterleave and Kernel::kDeinterleave.
#pragma once

#include "ops/rearrange/weave-inl.h"

namespace fastconv::rearrange::FASTCONV_ISA {

// Rows of the input become one output row: out[j * I + i] = row_i[j].  I == P where kFull, else
// P / 2 < I < P: the last rows are read again, and each vector is stored over the useless end of
// the one before.
template <int kBytes, int E, int P, bool kFull>
struct Interleave {
  static FASTCONV_REARRANGE_INLINE void run(const Plan& p, const char* in, char* out, int64_t begin,
                                            int64_t end, int64_t left) {
    constexpr int64_t kLanes = kBytes / E;
    const char* row[P];
    for (int64_t i = 0; i < P; ++i) row[i] = in + p.rows.offset(min_of(i, p.rows.size - 1));
    if constexpr (kFull) {
      for (int64_t j = begin; j < end; j += kLanes) {
        j = min_of(j, end - kLanes);
        typename VecOf<kBytes>::type v[P];
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) v[i] = VecOf<kBytes>::load(row[i] + j * E);
        interleave<E>(v);
        char* to = out + j * P * E;
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) store(to + i * kBytes, v[i]);
      }
    } else {
      constexpr int64_t kGroups = kLanes / P;  // per vector
      const int64_t line = p.rows.size * E, useful = kGroups * line;
      const Vec16 mask = load16(reinterpret_cast<const char*>(p.mask));
      for (int64_t j = begin; j < end; j += kLanes) {
        j = min_of(j, end - kLanes);
        Vec16 v[P];
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) v[i] = load16(row[i] + j * E);
        interleave<E>(v);
        char* to = out + j * line;
        if constexpr (kGroups > 1) {
#pragma GCC unroll 16
          for (int i = 0; i < P; ++i) v[i] = pick_bytes(v[i], mask);
        }
        if (left > 0 || (end - j - kLanes) * line >= kVector - useful) {
#pragma GCC unroll 16
          for (int i = 0; i < P; ++i) store16(to + i * useful, v[i]);
        } else {  // what follows is not ours
          char last[P * kVector];
#pragma GCC unroll 16
          for (int i = 0; i < P; ++i) store16(last + i * useful, v[i]);
          copy_vectors(to, last, p.rows.size);  // kLanes lines
        }
      }
    }
  }
};

// One row of the input becomes the rows of the output: out_j[i] = in[i * J + j].
template <int kBytes, int E, int P, bool kFull>
struct Deinterleave {
  static FASTCONV_REARRANGE_INLINE void run(const Plan& p, const char* in, char* out, int64_t begin,
                                            int64_t end, int64_t) {
    constexpr int64_t kLanes = kBytes / E;
    const int64_t columns = kFull ? P : p.columns.size;
    char* row[P];
    for (int64_t j = 0; j < columns; ++j) row[j] = out + p.columns.offset(j);
    if constexpr (kFull) {
      for (int64_t i = begin; i < end; i += kLanes) {
        i = min_of(i, end - kLanes);
        const char* from = in + i * P * E;
        typename VecOf<kBytes>::type v[P];
#pragma GCC unroll 16
        for (int q = 0; q < P; ++q) v[q] = VecOf<kBytes>::load(from + q * kBytes);
        deinterleave<E>(v);
#pragma GCC unroll 16
        for (int j = 0; j < P; ++j) store(row[j] + i * E, v[j]);
      }
    } else {
      constexpr int64_t kGroups = kLanes / P;
      const int64_t line = columns * E, useful = kGroups * line;
      const Vec16 mask = load16(reinterpret_cast<const char*>(p.mask));
      for (int64_t i = begin; i < end; i += kLanes) {
        i = min_of(i, end - kLanes);
        const char* from = in + i * line;
        char last[P * kVector];
        if (from + (P - 1) * useful + kVector > p.in_end) {
          copy_vectors(last, from, columns);  // kLanes lines
          from = last;
        }
        Vec16 v[P];
#pragma GCC unroll 16
        for (int q = 0; q < P; ++q) v[q] = load16(from + q * useful);
        if constexpr (kGroups > 1) {
#pragma GCC unroll 16
          for (int q = 0; q < P; ++q) v[q] = pick_bytes(v[q], mask);
        }
        deinterleave<E>(v);
#pragma GCC unroll 16
        for (int j = 0; j < P; ++j) {
          if (j < columns) store16(row[j] + i * E, v[j]);
        }
      }
    }
  }
};

// The kernel for P rows of `length` elements: with the widest vectors that a piece fills.
template <template <int, int, int, bool> class Kernel, template <int, int> class Woven, int E,
          int P>
void for_full(const Plan& p, int64_t length, int64_t begin, int64_t end) {
#if FASTCONV_LEVEL >= 1
  if constexpr (P <= 8) {
    const int64_t piece = length / p.pieces * E;
#if FASTCONV_LEVEL >= 2
    // Vectors that straddle cache lines are half as fast: few of them may be partly wasted.
    if (piece >= 64 && (round_up(piece, 64) - piece) * 20 <= piece) {
      return for_each_position<Kernel<64, E, P, true>>(p, length, begin, end);
    }
#endif
    if (piece >= 32) return for_each_position<Kernel<32, E, P, true>>(p, length, begin, end);
    if constexpr (P * E == 32) return for_each_position<Woven<2, E>>(p, length, begin, end);
  }
#endif
  for_each_position<Kernel<16, E, P, true>>(p, length, begin, end);
}

// The kernel for `few` interleaved rows: the next power of two, full or not.
template <template <int, int, int, bool> class Kernel, template <int, int> class Woven, int E,
          int P>
void for_few(const Plan& p, int64_t few, int64_t length, int64_t begin, int64_t end) {
  if constexpr (P <= max_few(E)) {
    if (few > P) return for_few<Kernel, Woven, E, 2 * P>(p, few, length, begin, end);
    if (few == P) return for_full<Kernel, Woven, E, P>(p, length, begin, end);
    if constexpr (P > 2 && P * E <= kVector) {
      return for_each_position<Kernel<16, E, P, false>>(p, length, begin, end);
    }
  }
}

}  // namespace fastconv::rearrange::FASTCONV_ISA
