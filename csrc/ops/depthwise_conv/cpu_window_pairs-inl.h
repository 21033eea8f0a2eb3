// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Windows in bf16 where one instruction multiplies pairs: a band's input rows go two by two, and 9
// products of a 3x3 filter take 6 instructions.  An output row that needs one row of a pair meets
// it with zero in place of the other, so that nothing outside a filter is multiplied.
#pragma once

#include "ops/depthwise_conv/cpu_window-inl.h"

#if FASTCONV_LEVEL >= 3

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// Two rows of a column of channels: alone, with zero for the other, and together.
struct RowPair {
  VecF32 first, second, both;

  // What filter rows kh and kh + 1 meet, of a filter of so many.
  FASTCONV_INLINE VecF32 meets(int kh, int kernel) const {
    return kh < 0 ? second : kh + 1 >= kernel ? first : both;
  }
};

// Row `i` of a column, zero outside the image: see window_load().
template <class S, Rows R>
FASTCONV_INLINE __m256i load_row(const SlidingWindow<bf16>& t, const bf16* p, int i,
                                 uint64_t rows) {
  constexpr int kHalf = S::kKernel / 2;
  if (i >= S::kInputRows) return _mm256_setzero_si256();
  const bool tested =
      R == Rows::kAny || (R == Rows::kEdge && (i < kHalf || i >= S::kInputRows - kHalf));
  if (!tested) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i * t.row_stride));
  const bool inside = (rows >> i & 1) != 0;
  const int place = inside ? i : R == Rows::kEdge ? kHalf : __builtin_ctzll(rows);
  return _mm256_maskz_loadu_epi16(static_cast<__mmask16>(-static_cast<int>(inside)),
                                  p + place * t.row_stride);
}
template <class S, Rows R>
FASTCONV_INLINE RowPair load_pair(const SlidingWindow<bf16>& t, const bf16* p, int i,
                                  uint64_t rows) {
  RowPair v;
  v.first = as_first(load_row<S, R>(t, p, i, rows));
  v.second = as_second(load_row<S, R>(t, p, i + 1, rows));
  v.both = i + 1 < S::kInputRows ? together(v.first, v.second) : v.first;
  return v;
}

// Weights are by the first row of a pair, from -1 on.
template <class S, int U, int J, Rows R, class T>
FASTCONV_INLINE void window_pairs(const SlidingWindow<T>& t, WindowState<S, T>& s, const T* p,
                                  const Accum<T>* weight, uint64_t rows) {
  constexpr int kV = kLanes<float>, K = S::kKernel, kRowPairs = (S::kInputRows + 1) / 2;
  if (R == Rows::kAny && rows == 0) return;
  const auto slot = [](int kw) { return (U - kw / S::kStep + S::kSlots) % S::kSlots; };
  if constexpr (K == 3) {
    // The weights of whole pairs in registers, and those of a pair's one row from memory: of the 42
    // products of 7 rows 21.
    VecF32 held[S::kHoldWeights ? 1 : (K - 1) * K];
    if constexpr (!S::kHoldWeights) {
      for_each<(K - 1) * K>(FASTCONV_EACH(i) {
        held[i.value] = load(weight + (K + i.value) * kV);
        pin(held[i.value]);
      });
    }
    for_each<kRowPairs>(FASTCONV_EACH(pair) {
      constexpr int i = 2 * pair.value;
      if (R == Rows::kAny && !(rows >> i & 3)) return;
      const RowPair v = load_pair<S, R>(t, p, i, rows);
      for_each<S::kRows>(FASTCONV_EACH(r) {
        constexpr int kh = i - r.value * S::kStep;
        if constexpr (kh >= -1 && kh < K) {
          for_each<S::kSlots>(FASTCONV_EACH(q) {
            constexpr int kw = q.value * S::kStep + J;
            if constexpr (kw < K) {
              VecF32 w;
              if constexpr (kh < 0 || kh + 1 >= K) {
                w = load(weight + ((kh + 1) * K + kw) * kV);
              } else if constexpr (S::kHoldWeights) {
                w = s.weight[kh * K + kw];
              } else {
                w = held[kh * K + kw];
              }
              VecF32& sum = s.sums[r.value][slot(kw)];
              sum = multiply_add<Bf16Pair>(v.meets(kh, K), w, sum);
            }
          });
        }
      });
    });
  } else {
    RowPair v[kRowPairs];
    for_each<kRowPairs>(
        FASTCONV_EACH(i) { v[i.value] = load_pair<S, R>(t, p, 2 * i.value, rows); });
    for_each<K + 1>(FASTCONV_EACH(row) {
      constexpr int kh = row.value - 1;
      for_each<S::kSlots>(FASTCONV_EACH(q) {
        constexpr int kw = q.value * S::kStep + J;
        if constexpr (kw < K && (S::kStep == 1 || kh % 2 == 0)) {
          VecF32 w = load(weight + (row.value * K + kw) * kV);
          pin(w);
          for_each<S::kRows>(FASTCONV_EACH(r) {
            constexpr int i = kh + r.value * S::kStep;
            if constexpr (i % 2 == 0) {
              VecF32& sum = s.sums[r.value][slot(kw)];
              sum = multiply_add<Bf16Pair>(v[i / 2].meets(kh, K), w, sum);
            }
          });
        }
      });
    });
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA

#endif
