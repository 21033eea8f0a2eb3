// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling, forward.  Lanes run along the inner axis: neighbouring outputs, whose taps are
// `stride` elements apart.  Blocks whose taps all lie inside the input load whole vectors; the
// others ("border") load what exists and read -inf elsewhere, which never wins.
#pragma once

namespace fastconv::depth_max_pool::FASTCONV_ISA {

// The taps of one output run: those inside the input on the outer axes, all on the inner axis.
struct Taps {
  int64_t lo[kAxes], hi[kAxes];
  int64_t step[kAxes];  // in elements of x
  int64_t code[kAxes];
};

// First tap at or after coordinate 0, for a window that starts at `start`.
FASTCONV_INLINE int64_t first_tap(int64_t start, int64_t dilation) {
  return start >= 0 ? 0 : (-start + dilation - 1) / dilation;
}

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
  Codes codes;
  Loader<T, kAccess> load;
  Taps taps;
  int64_t x_step;  // of neighbouring inputs on the inner axis

  FASTCONV_INLINE explicit ForwardRun(const Forward& p_in)
      : p(p_in),
        codes(codes_of(p_in)),
        load(p_in.axis[p_in.inner].stride * p_in.x_strides.axis[p_in.inner],
             p_in.axis[p_in.inner].stride),
        taps{},
        x_step(p_in.x_strides.axis[p_in.inner]) {
    for (int a = 0; a < kAxes; ++a) {
      taps.lo[a] = 0;
      taps.hi[a] = p.axis[a].kernel;
      taps.step[a] = p.axis[a].dilation * p.x_strides.axis[a];
      taps.code[a] = codes.code[a];
    }
  }

  // kVectors vectors of outputs whose first window starts at coordinate `first`, element `x`.
  template <int kVectors, bool kBorder>
  FASTCONV_INLINE void reduce(const T* x, int64_t first, Ints<A> initial, Vec<A> (&best)[kVectors],
                              Ints<A> (&code)[kVectors]) const {
    const Axis& inner = p.axis[p.inner];
    const int64_t next = kL * load.step;
    for (int v = 0; v < kVectors; ++v) {
      best[v] = set1<A>(kLowest<A>);
      if constexpr (kTrack) code[v] = initial;
    }
    for (int64_t k0 = taps.lo[0]; k0 < taps.hi[0]; ++k0) {
      for (int64_t k1 = taps.lo[1]; k1 < taps.hi[1]; ++k1) {
        for (int64_t k2 = taps.lo[2]; k2 < taps.hi[2]; ++k2) {
          const T* row = x + k0 * taps.step[0] + k1 * taps.step[1] + k2 * taps.step[2];
          const int64_t row_code = k0 * taps.code[0] + k1 * taps.code[1] + k2 * taps.code[2];
          for (int64_t k3 = taps.lo[3]; k3 < taps.hi[3]; ++k3) {
            const T* at = row + k3 * taps.step[3];
            const int64_t tap = row_code + k3 * taps.code[3];
            for (int v = 0; v < kVectors; ++v) {
              Vec<A> value;
              if constexpr (kBorder) {
                const int64_t e = first + (p.inner == 0 ? k0 : k3) * inner.dilation;
                value = load.range(at, e, inner.in, x_step);
              } else {
                value = load(at + v * next);
              }
              if constexpr (kTrack) {
                take_max(best[v], code[v], value, tap);
              } else {
                take_max(best[v], value);
              }
            }
          }
        }
      }
    }
  }

  template <int kVectors, bool kBorder>
  FASTCONV_INLINE void block(const T* x, int64_t first, int64_t y_at, int n, int64_t outer_code,
                             int64_t base) const {
    const Axis& inner = p.axis[p.inner];
    Vec<A> best[kVectors];
    Ints<A> code[kVectors], initial = set1_int<A>(outer_code);
    if constexpr (kBorder && kTrack) {
      for (int i = 0; i < kL && first + i * inner.stride < 0; ++i) {
        initial[i] += static_cast<IntLane<A>>(first_tap(first + i * inner.stride, inner.dilation) *
                                              codes.code[p.inner]);
      }
    }
    reduce<kVectors, kBorder>(x, first, initial, best, code);
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
    const int64_t in = p.axis[p.inner].in;
    if constexpr (kAccess == Access::kGather) return first + (vectors * kL - 1) * load.stride < in;
    return vectors * kL * load.step <= (in - 1 - first) * x_step + 1;
  }

  // Outputs [begin, end) of the run whose outer taps are in `taps`; x and y are its origins.
  FASTCONV_INLINE void run(const T* x, int64_t y_at, int64_t outer_code, int64_t base,
                           int64_t begin, int64_t end) const {
    constexpr int kVectors = kAccess == Access::kUnit || kAccess == Access::kTwo ? 4 : 2;
    const Axis& inner = p.axis[p.inner];
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
    int outer[3], count = 0;
    for (int a = 0; a < kAxes; ++a) {
      if (a != p.inner) outer[count++] = a;
    }
    const int64_t pieces = forward_pieces(p), length = p.axis[p.inner].out;
    int64_t piece = begin % pieces, rest = begin / pieces, o[3];
    for (int i = 2; i >= 0; --i) {
      o[i] = rest % p.axis[outer[i]].out;
      rest /= p.axis[outer[i]].out;
    }
    for (int64_t task = begin, n = rest; task < end; ++task) {
      int64_t x_at = n * p.x_strides.n, y_at = n * p.y_strides.n, outer_code = 0, base = 0;
      for (int i = 0; i < 3; ++i) {
        const int a = outer[i];
        const Axis& axis = p.axis[a];
        const int64_t start = o[i] * axis.stride - axis.pad;
        taps.lo[a] = first_tap(start, axis.dilation);
        taps.hi[a] = start + (axis.kernel - 1) * axis.dilation < axis.in
                         ? axis.kernel
                         : (axis.in - start + axis.dilation - 1) / axis.dilation;
        x_at += start * p.x_strides.axis[a];
        y_at += o[i] * p.y_strides.axis[a];
        outer_code += taps.lo[a] * codes.code[a];
        base += start * codes.flat[a];
      }
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
void forward_tracked(const Forward& p, int64_t begin, int64_t end) {
  switch (access_of(p.axis[p.inner].stride * p.x_strides.axis[p.inner])) {
    case Access::kUnit:
      return ForwardRun<T, kTrack, Access::kUnit>(p).tasks(begin, end);
    case Access::kTwo:
      return ForwardRun<T, kTrack, Access::kTwo>(p).tasks(begin, end);
    case Access::kFour:
      return ForwardRun<T, kTrack, Access::kFour>(p).tasks(begin, end);
    case Access::kPermute:
      return ForwardRun<T, kTrack, Access::kPermute>(p).tasks(begin, end);
    default:
      return ForwardRun<T, kTrack, Access::kGather>(p).tasks(begin, end);
  }
}

template <class T>
void forward_typed(const Forward& p, int64_t begin, int64_t end) {
  if (p.index_type == IndexType::kNone) {
    forward_tracked<T, false>(p, begin, end);
  } else {
    forward_tracked<T, true>(p, begin, end);
  }
}

void forward(const Forward& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case Dtype::kFloat32:
      return forward_typed<float>(p, begin, end);
    case Dtype::kFloat64:
      return forward_typed<double>(p, begin, end);
    case Dtype::kFloat16:
      return forward_typed<f16>(p, begin, end);
    case Dtype::kBFloat16:
      return forward_typed<bf16>(p, begin, end);
  }
}

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
