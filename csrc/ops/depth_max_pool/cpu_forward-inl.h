// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling, forward.  Lanes run along the inner axis: neighbouring outputs, whose taps are
// `stride` elements apart.  Blocks whose taps all lie inside the input load whole vectors; the
// others ("border") load what exists and read -inf elsewhere, which never wins.
#pragma once

#include "ops/depth_max_pool/cpu_taps-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

// Writes n winners.  `scale` is the distance of neighbouring windows in flat positions.
template <class A>
FASTCONV_INLINE void store_codes(IndexType type, void* index, int64_t at, Ints<A> code, int n,
                                 int64_t base, int64_t scale) {
  if (type == IndexType::kUint8) {
    [[maybe_unused]] constexpr int kL = kLanes<A>;
    auto* p = static_cast<uint8_t*>(index) + at;
#if FASTCONV_LEVEL == 2
    if constexpr (sizeof(A) == 4) {
      const auto mask = static_cast<__mmask16>(lane_mask(n));
      if (n == kL) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)code));
      } else {
        _mm512_mask_cvtepi32_storeu_epi8(p, mask, (__m512i)code);
      }
      return;
    }
#elif FASTCONV_LEVEL == 1
    if constexpr (sizeof(A) == 4) {
      if (n == kL) {
        const __m128i low = _mm256_castsi256_si128((__m256i)code);
        const __m128i high = _mm256_extracti128_si256((__m256i)code, 1);
        const __m128i words = _mm_packus_epi32(low, high);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
        return;
      }
    }
#endif
    for (int i = 0; i < n; ++i) p[i] = static_cast<uint8_t>(code[i]);
  } else if (type == IndexType::kInt32) {
    auto* p = static_cast<int32_t*>(index) + at;
    for (int i = 0; i < n; ++i) p[i] = static_cast<int32_t>(code[i]);
  } else {
    auto* p = static_cast<int64_t*>(index) + at;
    for (int i = 0; i < n; ++i) p[i] = base + i * scale + code[i];
  }
}

template <class T, bool kTrack, Access kAccess>
struct ForwardRun {
  using A = Accum<T>;
  static constexpr int kL = kLanes<A>;

  const Forward& p;
  Axis inner;
  Codes codes;
  Loader<T, kAccess> load;
  int64_t x_step;              // of neighbouring inputs on the inner axis
  int64_t tap_step, tap_code;  // of neighbouring taps there
  bool inner_first;            // the inner axis is the channels: visited before the others
  bool grouped;                // windows of two or four neighbours that tile the inner axis
  Tap* taps;
  int64_t count = 0;
  int64_t lo[kAxes] = {}, hi[kAxes] = {};  // what `taps` was made for

  FASTCONV_INLINE ForwardRun(const Forward& p_in, void* scratch)
      : p(p_in),
        inner(p_in.axis[p_in.inner]),
        codes(codes_of(p_in)),
        load(inner.stride * p_in.x_strides.axis[p_in.inner], inner.stride),
        x_step(p_in.x_strides.axis[p_in.inner]),
        tap_step(inner.dilation * x_step),
        tap_code(codes.code[p_in.inner]),
        inner_first(p_in.inner == 0),
        grouped(load.kGroup > 1 && inner.kernel == load.kGroup && tap_step == 1),
        taps(static_cast<Tap*>(scratch)) {}

  FASTCONV_INLINE void take(Vec<A>& best, Ints<A>& code, Vec<A> value, int64_t tap) const {
    if constexpr (kTrack) {
      take_max(best, code, value, tap);
    } else {
      take_max(best, value);
    }
  }

  // kVectors vectors of outputs whose first window starts at coordinate `first`, element `x`.
  template <int kVectors, bool kBorder>
  FASTCONV_INLINE void reduce(const T* x, int64_t first, Vec<A> (&best)[kVectors],
                              Ints<A> (&code)[kVectors]) const {
    const int64_t next = kL * load.step;
    const auto visit = [&](const Tap& tap, int64_t k) __attribute__((always_inline)) {
      const T* at = x + tap.offset + k * tap_step;
      for (int v = 0; v < kVectors; ++v) {
        const Vec<A> value = kBorder ? load.range(at, first + k * inner.dilation, inner.in, x_step)
                                     : load(at + v * next);
        take(best[v], code[v], value, tap.code + k * tap_code);
      }
    };
    if (inner_first) {
      for (int64_t k = 0; k < inner.kernel; ++k) {
        for (int64_t t = 0; t < count; ++t) visit(taps[t], k);
      }
    } else {
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t k = 0; k < inner.kernel; ++k) visit(taps[t], k);
      }
    }
  }

  // The same for grouped windows: each set of loads serves all taps of the inner axis.
  template <int kVectors>
  FASTCONV_INLINE void reduce_grouped(const T* x, Vec<A> (&best)[kVectors],
                                      Ints<A> (&code)[kVectors]) const {
    constexpr int kGroup = load.kGroup;
    const int64_t next = kL * load.step;
    Vec<A> values[kGroup];
    if (!inner_first || count == 1) {
      for (int64_t t = 0; t < count; ++t) {
        for (int v = 0; v < kVectors; ++v) {
          load.group(x + taps[t].offset + v * next, values);
          for (int k = 0; k < kGroup; ++k) {
            take(best[v], code[v], values[k], taps[t].code + k * tap_code);
          }
        }
      }
      return;
    }
    // Channels come first in the order of visits, so each has a maximum of its own until the end.
    for (int v = 0; v < kVectors; ++v) {
      Vec<A> part[kGroup];
      Ints<A> part_code[kGroup];
      for (int k = 0; k < kGroup; ++k) {
        part[k] = best[v];
        if constexpr (kTrack) part_code[k] = code[v];
      }
      for (int64_t t = 0; t < count; ++t) {
        load.group(x + taps[t].offset + v * next, values);
        for (int k = 0; k < kGroup; ++k) {
          take(part[k], part_code[k], values[k], taps[t].code + k * tap_code);
        }
      }
      for (int k = 0; k < kGroup; ++k) {
        if constexpr (kTrack) {
          take_later(best[v], code[v], part[k], part_code[k]);
        } else {
          take_max(best[v], part[k]);
        }
      }
    }
  }

  template <int kVectors, bool kBorder>
  FASTCONV_INLINE void block(const T* x, int64_t first, int64_t y_at, int n, int64_t outer_code,
                             int64_t base) const {
    Vec<A> best[kVectors];
    Ints<A> code[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      best[v] = set1<A>(kLowest<A>);
      if constexpr (kTrack) code[v] = set1_int<A>(outer_code);
    }
    if constexpr (kBorder && kTrack) {
      for (int i = 0; i < kL && first + i * inner.stride < 0; ++i) {
        code[0][i] +=
            static_cast<IntLane<A>>(first_tap(first + i * inner.stride, inner.dilation) * tap_code);
      }
    }
    if constexpr (!kBorder && load.kGroup > 1) {
      if (grouped) {
        reduce_grouped<kVectors>(x, best, code);
      } else {
        reduce<kVectors, false>(x, first, best, code);
      }
    } else {
      reduce<kVectors, kBorder>(x, first, best, code);
    }
    const int64_t scale = inner.stride * codes.flat[p.inner];
    for (int v = 0; v < kVectors; ++v) {
      const int count = kVectors > 1 ? kL : n;
      store_exact(static_cast<T*>(p.y) + y_at + v * kL, best[v], count);
      if constexpr (kTrack) {
        store_codes<A>(p.index_type, p.index, y_at + v * kL, code[v], count, base + v * kL * scale,
                       scale);
      }
    }
  }

  // Whether `vectors` whole loads that start at coordinate `first` stay inside the input.
  FASTCONV_INLINE bool fits(int64_t first, int vectors) const {
    if constexpr (kAccess == Access::kGather) {
      return first + (vectors * kL - 1) * load.stride < inner.in;
    }
    return vectors * kL * load.step <= (inner.in - 1 - first) * x_step + 1;
  }

  // Outputs [begin, end) of the run whose outer taps are in `taps`; x and y are its origins.
  FASTCONV_INLINE void run(const T* x, int64_t y_at, int64_t outer_code, int64_t base,
                           int64_t begin, int64_t end) const {
    constexpr int kVectors = kAccess == Access::kUnit || kAccess == Access::kTwo ? 4 : 2;
    const int64_t reach = (inner.kernel - 1) * inner.dilation;
    for (int64_t j = begin; j < end;) {
      const int64_t first = j * inner.stride - inner.pad;
      const T* at = x + first * x_step;
      const int64_t flat = base + first * codes.flat[p.inner];
      const int64_t left = end - j;
      const int64_t last = first + reach;  // coordinate of the last tap of lane 0
      if (left >= kVectors * kL && first >= 0 && fits(last, kVectors)) {
        block<kVectors, false>(at, first, y_at + j, kVectors * kL, outer_code, flat);
        j += kVectors * kL;
        continue;
      }
      const int n = static_cast<int>(min_of(left, kL));
      if (first >= 0 && fits(last, 1)) {
        block<1, false>(at, first, y_at + j, n, outer_code, flat);
      } else {
        block<1, true>(at, first, y_at + j, n, outer_code, flat);
      }
      j += n;
    }
  }

  FASTCONV_INLINE void tasks(int64_t begin, int64_t end) {
    const int a0 = inner_first ? 1 : 0, outer[3] = {a0, a0 + 1, a0 + 2};
    const int64_t pieces = forward_pieces(p), length = inner.out;
    int64_t piece = begin % pieces, rest = begin / pieces, o[3];
    for (int i = 2; i >= 0; --i) {
      o[i] = rest % p.axis[outer[i]].out;
      rest /= p.axis[outer[i]].out;
    }
    for (int64_t task = begin, n = rest; task < end; ++task) {
      int64_t x_at = n * p.x_strides.n, y_at = n * p.y_strides.n, outer_code = 0, base = 0;
      bool changed = task == begin;
      for (int i = 0; i < 3; ++i) {
        const int a = outer[i];
        const Axis& axis = p.axis[a];
        const int64_t start = o[i] * axis.stride - axis.pad;
        const int64_t from = first_tap(start, axis.dilation);
        const int64_t to = end_tap(start, axis);
        changed = changed || from != lo[a] || to != hi[a];
        lo[a] = from;
        hi[a] = to;
        x_at += start * p.x_strides.axis[a];
        y_at += o[i] * p.y_strides.axis[a];
        outer_code += from * codes.code[a];
        base += start * codes.flat[a];
      }
      if (changed) count = list_taps(p, p.x_strides, codes, lo, hi, taps);
      run(static_cast<const T*>(p.x) + x_at, y_at, outer_code, base, piece * kRunPiece,
          min_of(length, (piece + 1) * kRunPiece));
      if (++piece < pieces) continue;
      piece = 0;
      int i = 2;
      while (i >= 0 && ++o[i] == p.axis[outer[i]].out) o[i--] = 0;
      if (i < 0) ++n;
    }
  }
};

template <class T, bool kTrack>
void forward_tracked(const Forward& p, void* scratch, int64_t begin, int64_t end) {
  switch (access_of(p.axis[p.inner].stride * p.x_strides.axis[p.inner])) {
    case Access::kUnit:
      return ForwardRun<T, kTrack, Access::kUnit>(p, scratch).tasks(begin, end);
    case Access::kTwo:
      return ForwardRun<T, kTrack, Access::kTwo>(p, scratch).tasks(begin, end);
    case Access::kFour:
      return ForwardRun<T, kTrack, Access::kFour>(p, scratch).tasks(begin, end);
    case Access::kPermute:
      return ForwardRun<T, kTrack, Access::kPermute>(p, scratch).tasks(begin, end);
    default:
      return ForwardRun<T, kTrack, Access::kGather>(p, scratch).tasks(begin, end);
  }
}

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
