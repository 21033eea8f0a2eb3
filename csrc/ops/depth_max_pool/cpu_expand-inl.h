// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling, backward for windows that share no input: lanes run along windows, and each
// writes its gradient, or zero, to every input that it has.  Nothing is read twice or added up.
#pragma once

#include "ops/depth_max_pool/cpu_forward-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

// kGroup: neighbouring inputs of a window on the inner axis (1, 2 or 4), which they tile.
template <class T, int kGroup>
struct ExpandRun {
  using A = Accum<T>;
  static constexpr int kL = kLanes<A>;

  const Backward& p;
  Axis inner;
  Codes codes;
  Tap* taps;
  int64_t count = 0;
  int64_t lo[kAxes] = {}, hi[kAxes] = {};  // what `taps` was made for

  ExpandRun(const Backward& p_in, void* scratch)
      : p(p_in),
        inner(p_in.axis[p_in.inner]),
        codes(codes_of(p_in)),
        taps(static_cast<Tap*>(scratch)) {}

  FASTCONV_INLINE Ints<A> load_index(const uint8_t* index, int n) const {
#if FASTCONV_LEVEL == 2
    if constexpr (sizeof(A) == 4) {
      const auto mask = static_cast<__mmask16>(lane_mask(n));
      return (VecI32)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, index));
    }
#elif FASTCONV_LEVEL == 1
    if constexpr (sizeof(A) == 4) {
      if (n == kL) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(index));
        return (VecI32)_mm256_cvtepu8_epi32(bytes);
      }
    }
#endif
    Ints<A> v{};
    for (int i = 0; i < n; ++i) v[i] = index[i];
    return v;
  }

  // Windows [j, j + n) of a run: dx is where the first one's tap 0 is.
  FASTCONV_INLINE void block(const T* dy, const uint8_t* index, T* dx, int n) const {
    const Vec<A> grad = n == kL ? load(dy) : load_n(dy, n);
    const Ints<A> winner = load_index(index, n);
    for (int64_t t = 0; t < count; ++t) {
      Vec<A> part[kGroup];
      for (int k = 0; k < kGroup; ++k) {
        const Ints<A> code = set1_int<A>(taps[t].code + k * codes.code[p.inner]);
        part[k] = (Vec<A>)((winner == code) & (Ints<A>)grad);
      }
      interleave_phases(part);
      for (int k = 0; k < kGroup; ++k) {
        const int left = n * kGroup - k * kL;
        if (left > 0) {
          store_exact(dx + taps[t].offset + k * kL, part[k], left < kL ? left : kL);
        }
      }
    }
  }

  FASTCONV_INLINE void tasks(int64_t begin, int64_t end) {
    const int a0 = p.inner == 0 ? 1 : 0, outer[3] = {a0, a0 + 1, a0 + 2};
    const int64_t pieces = pieces_of(inner.out);
    int64_t piece = begin % pieces, n = begin / pieces, o[3];
    for (int i = 2; i >= 0; --i) {
      o[i] = n % p.axis[outer[i]].out;
      n /= p.axis[outer[i]].out;
    }
    for (int64_t task = begin; task < end; ++task) {
      int64_t dy_at = n * p.dy_strides.n, index_at = n * p.index_strides.n;
      int64_t dx_at = n * p.dx_strides.n;
      bool changed = task == begin;
      for (int i = 0; i < 3; ++i) {
        const int a = outer[i];
        const int64_t start = o[i] * p.axis[a].stride - p.axis[a].pad;
        const int64_t from = first_tap(start, p.axis[a].dilation);
        const int64_t to = end_tap(start, p.axis[a]);
        changed = changed || from != lo[a] || to != hi[a];
        lo[a] = from;
        hi[a] = to;
        dy_at += o[i] * p.dy_strides.axis[a];
        index_at += o[i] * p.index_strides.axis[a];
        dx_at += start * p.dx_strides.axis[a];
      }
      if (changed) count = list_taps(p, p.dx_strides, codes, lo, hi, taps);
      const T* dy = static_cast<const T*>(p.dy) + dy_at;
      const auto* index = static_cast<const uint8_t*>(p.index) + index_at;
      T* dx = static_cast<T*>(p.dx) + dx_at;
      const int64_t last = min_of(inner.out, (piece + 1) * kRunPiece);
      for (int64_t j = piece * kRunPiece; j < last; j += kL) {
        block(dy + j, index + j, dx + j * kGroup, static_cast<int>(min_of(kL, last - j)));
      }
      if (++piece < pieces) continue;
      piece = 0;
      int i = 2;
      while (i >= 0 && ++o[i] == p.axis[outer[i]].out) o[i--] = 0;
      if (i < 0) ++n;
    }
  }
};

template <class T>
void expand_typed(const Backward& p, void* scratch, int64_t begin, int64_t end) {
  switch (p.axis[p.inner].kernel) {
    case 1:
      return ExpandRun<T, 1>(p, scratch).tasks(begin, end);
    case 2:
      return ExpandRun<T, 2>(p, scratch).tasks(begin, end);
    default:
      return ExpandRun<T, 4>(p, scratch).tasks(begin, end);
  }
}

void expand(const Backward& p, void* scratch, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case Dtype::kFloat32:
      return expand_typed<float>(p, scratch, begin, end);
    case Dtype::kFloat64:
      return expand_typed<double>(p, scratch, begin, end);
    case Dtype::kFloat16:
      return expand_typed<f16>(p, scratch, begin, end);
    case Dtype::kBFloat16:
      return expand_typed<bf16>(p, scratch, begin, end);
  }
}

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
