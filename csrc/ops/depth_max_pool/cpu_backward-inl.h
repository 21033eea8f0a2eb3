// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling, backward: every input gathers from the windows that cover it, in a fixed
// order.
//
// On the inner axis an input i = q*stride + phase meets tap k in window q - shift(k) alone, where
// k*dilation - pad = shift*stride + phase.  So lanes run along q: each tap adds one contiguous
// piece of dy to the accumulator of its phase, and at the end the phases are interleaved into dx.
#pragma once

namespace fastconv::depth_max_pool::FASTCONV_ISA {

// The windows of one outer axis that cover one input: o in [first, last], with tap
// (input + pad - o*stride) / dilation where that is whole.
struct Cover {
  int64_t first, last;
};

struct InnerTap {
  int64_t shift, phase;
};

template <class T>
struct BackwardRun {
  using A = Accum<T>;
  static constexpr int kL = kLanes<A>;
  static constexpr int kTable = 64;      // taps whose shift and phase are kept
  static constexpr int kMaxPhases = 16;  // strides above take the phases one after another

  const Backward& p;
  const Axis& inner;
  Codes codes;
  InnerTap table[kTable];
  Cover cover[kAxes];
  int64_t input[kAxes];

  explicit BackwardRun(const Backward& p_in)
      : p(p_in), inner(p_in.axis[p_in.inner]), codes(codes_of(p_in)), table{}, cover{}, input{} {
    for (int64_t k = 0; k < min_of(inner.kernel, kTable); ++k) table[k] = inner_tap(k);
  }

  FASTCONV_INLINE InnerTap inner_tap(int64_t k) const {
    const int64_t at = k * inner.dilation - inner.pad;
    return {floor_div(at, inner.stride), floor_mod(at, inner.stride)};
  }

  // Lanes of windows o.. whose winner is `code`; window o has flat base `base`, its neighbours
  // `scale` more.  Lanes outside of [a, b) are anything.
  FASTCONV_INLINE Ints<A> winners(int64_t at, int64_t a, int64_t b, int64_t code, int64_t base,
                                  int64_t scale) const {
    const bool whole = a <= 0 && b >= kL;
    if (p.index_type == IndexType::kUint8) {
      const auto* index = static_cast<const uint8_t*>(p.index) + at;
#if FASTCONV_LEVEL == 2
      if constexpr (sizeof(A) == 4) {
        const int first = a <= 0 ? 0 : a >= kL ? kL : static_cast<int>(a);
        const int last = b >= kL ? kL : b <= 0 ? 0 : static_cast<int>(b);
        const auto mask = static_cast<__mmask16>(lane_mask(last) & ~lane_mask(first));
        return (VecI32)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, index)) == set1_int<A>(code);
      }
#elif FASTCONV_LEVEL == 1
      if constexpr (sizeof(A) == 4) {
        if (whole) {
          const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(index));
          return (VecI32)_mm256_cvtepu8_epi32(bytes) == set1_int<A>(code);
        }
      }
#endif
      return compare(index, a, b, code, 0);
    }
    if (p.index_type == IndexType::kInt32) {
      const auto* index = static_cast<const int32_t*>(p.index) + at;
      if constexpr (sizeof(A) == 4) {
        if (whole) {
          VecI32 v;
          std::memcpy(&v, index, sizeof v);
          return v == set1_int<A>(code);
        }
      }
      return compare(index, a, b, code, 0);
    }
    return compare(static_cast<const int64_t*>(p.index) + at, a, b, base + code, scale);
  }
  template <class I>
  FASTCONV_INLINE Ints<A> compare(const I* index, int64_t a, int64_t b, int64_t code,
                                  int64_t scale) const {
    IntLane<A> lanes[kL];
    for (int i = 0; i < kL; ++i) {
      lanes[i] = i >= a && i < b && int64_t{index[i]} == code + i * scale ? -1 : 0;
    }
    Ints<A> v;
    std::memcpy(&v, lanes, sizeof v);
    return v;
  }

  // Adds to acc[phase - only] the windows of one outer position, for inputs q0*stride...
  template <int kStride>
  FASTCONV_INLINE void gather(Vec<A>* acc, int64_t q0, int64_t only, const T* dy, int64_t index_at,
                              int64_t outer_code, int64_t base) const {
    const int64_t scale = inner.stride * codes.flat[p.inner];
    for (int64_t k = inner.kernel - 1; k >= 0; --k) {  // windows in ascending order
      const InnerTap tap = k < kTable ? table[k] : inner_tap(k);
      if (only >= 0 && tap.phase != only) continue;
      const int64_t o = q0 - tap.shift;
      const int64_t a = -o, b = inner.out - o;
      if (b <= 0 || a >= kL) continue;
      const Ints<A> hit = winners(index_at + o, a, b, outer_code + k * codes.code[p.inner],
                                  base + o * scale - inner.pad * codes.flat[p.inner], scale);
      const Vec<A> grad = load_range(dy + o, a, b, A{0});
      const int64_t slot = kStride == 1 || only >= 0 ? 0 : tap.phase;
      acc[slot] += (Vec<A>)(hit & (Ints<A>)grad);
    }
  }

  template <int kStride>
  FASTCONV_INLINE void accumulate(Vec<A>* acc, int64_t q0, int64_t only, const T* dy,
                                  int64_t index_at) const {
    int outer[3], count = 0;
    for (int a = 0; a < kAxes; ++a) {
      if (a != p.inner) outer[count++] = a;
    }
    const int a0 = outer[0], a1 = outer[1], a2 = outer[2];
    for (int64_t o0 = cover[a0].first; o0 <= cover[a0].last; ++o0) {
      const int64_t k0 = tap_of(a0, o0);
      if (k0 < 0) continue;
      for (int64_t o1 = cover[a1].first; o1 <= cover[a1].last; ++o1) {
        const int64_t k1 = tap_of(a1, o1);
        if (k1 < 0) continue;
        for (int64_t o2 = cover[a2].first; o2 <= cover[a2].last; ++o2) {
          const int64_t k2 = tap_of(a2, o2);
          if (k2 < 0) continue;
          gather<kStride>(acc, q0, only,
                          dy + o0 * p.dy_strides.axis[a0] + o1 * p.dy_strides.axis[a1] +
                              o2 * p.dy_strides.axis[a2],
                          index_at + o0 * p.index_strides.axis[a0] + o1 * p.index_strides.axis[a1] +
                              o2 * p.index_strides.axis[a2],
                          k0 * codes.code[a0] + k1 * codes.code[a1] + k2 * codes.code[a2],
                          window_base(a0, o0) + window_base(a1, o1) + window_base(a2, o2));
        }
      }
    }
  }
  FASTCONV_INLINE int64_t tap_of(int a, int64_t o) const {
    const int64_t distance = input[a] + p.axis[a].pad - o * p.axis[a].stride;
    if (p.axis[a].dilation == 1) return distance;
    return distance % p.axis[a].dilation == 0 ? distance / p.axis[a].dilation : -1;
  }
  FASTCONV_INLINE int64_t window_base(int a, int64_t o) const {
    return (o * p.axis[a].stride - p.axis[a].pad) * codes.flat[a];
  }

  // Inputs [q0*stride, ...) of one run, kL groups of `stride` of them, up to `size`.
  template <int kStride>
  FASTCONV_INLINE void block(T* dx, int64_t q0, int64_t size, const T* dy, int64_t index_at) const {
    constexpr int kSlots = kStride > 0 ? kStride : kMaxPhases;
    Vec<A> acc[kSlots] = {};
    const int64_t at = q0 * inner.stride;
    if (kStride > 0 || inner.stride <= kMaxPhases) {
      accumulate<kStride>(acc, q0, -1, dy, index_at);
      if constexpr (kStride == 4) {
        const Vec<A> a = interleave_low(acc[0], acc[2]), b = interleave_high(acc[0], acc[2]);
        const Vec<A> c = interleave_low(acc[1], acc[3]), d = interleave_high(acc[1], acc[3]);
        acc[0] = interleave_low(a, c);
        acc[1] = interleave_high(a, c);
        acc[2] = interleave_low(b, d);
        acc[3] = interleave_high(b, d);
      } else if constexpr (kStride == 2) {
        const Vec<A> low = interleave_low(acc[0], acc[1]);
        acc[1] = interleave_high(acc[0], acc[1]);
        acc[0] = low;
      } else if constexpr (kStride == 0) {
        A lanes[kMaxPhases][kL], mixed[kMaxPhases * kL];
        for (int r = 0; r < inner.stride; ++r) fastconv::FASTCONV_ISA::store(lanes[r], acc[r]);
        A* next = mixed;
        for (int i = 0; i < kL; ++i) {
          for (int r = 0; r < inner.stride; ++r) *next++ = lanes[r][i];
        }
        for (int r = 0; r < inner.stride; ++r) acc[r] = load(mixed + r * kL);
      }
      const int vectors = kStride > 0 ? kStride : static_cast<int>(inner.stride);
      for (int v = 0; v < vectors; ++v) {
        const int64_t left = size - at - v * kL;
        if (left >= kL) {
          store(dx + at + v * kL, acc[v]);
        } else if (left > 0) {
          store_n(dx + at + v * kL, acc[v], static_cast<int>(left));
        }
      }
      return;
    }
    for (int64_t phase = 0; phase < inner.stride; ++phase) {
      A lanes[kL];
      acc[0] = Vec<A>{};
      accumulate<kStride>(acc, q0, phase, dy, index_at);
      fastconv::FASTCONV_ISA::store(lanes, acc[0]);
      for (int64_t i = 0, to = at + phase; i < kL && to < size; ++i, to += inner.stride) {
        dx[to] = from_float<T>(lanes[i]);
      }
    }
  }

  template <int kStride>
  FASTCONV_INLINE void tasks(int64_t begin, int64_t end) {
    int outer[3], count = 0;
    for (int a = 0; a < kAxes; ++a) {
      if (a != p.inner) outer[count++] = a;
    }
    const int64_t pieces = backward_pieces(p);
    const int64_t groups = (inner.in + inner.stride - 1) / inner.stride;
    int64_t piece = begin % pieces, n = begin / pieces;
    for (int i = 2; i >= 0; --i) {
      input[outer[i]] = n % p.axis[outer[i]].in;
      n /= p.axis[outer[i]].in;
    }
    for (int64_t task = begin; task < end; ++task) {
      int64_t dx_at = n * p.dx_strides.n;
      for (int a : outer) {
        const Axis& axis = p.axis[a];
        const int64_t reach = (axis.kernel - 1) * axis.dilation, from = input[a] + axis.pad;
        dx_at += input[a] * p.dx_strides.axis[a];
        if (axis.stride == 1) {
          cover[a] = {max_of(0, from - reach), min_of(axis.out - 1, from)};
        } else {
          cover[a] = {from <= reach ? 0 : (from - reach + axis.stride - 1) / axis.stride,
                      min_of(axis.out - 1, from / axis.stride)};
        }
      }
      const T* dy = static_cast<const T*>(p.dy) + n * p.dy_strides.n;
      const int64_t last = min_of(groups, (piece + 1) * kRunPiece);
      for (int64_t q = piece * kRunPiece; q < last; q += kL) {
        block<kStride>(static_cast<T*>(p.dx) + dx_at, q, inner.in, dy, n * p.index_strides.n);
      }
      if (++piece < pieces) continue;
      piece = 0;
      int i = 2;
      while (i >= 0 && ++input[outer[i]] == p.axis[outer[i]].in) input[outer[i--]] = 0;
      if (i < 0) ++n;
    }
  }
};

template <class T>
void backward_typed(const Backward& p, int64_t begin, int64_t end) {
  BackwardRun<T> run(p);
  switch (p.axis[p.inner].stride) {
    case 1:
      return run.template tasks<1>(begin, end);
    case 2:
      return run.template tasks<2>(begin, end);
    case 4:
      return run.template tasks<4>(begin, end);
    default:
      return run.template tasks<0>(begin, end);
  }
}

void backward(const Backward& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case Dtype::kFloat32:
      return backward_typed<float>(p, begin, end);
    case Dtype::kFloat64:
      return backward_typed<double>(p, begin, end);
    case Dtype::kFloat16:
      return backward_typed<f16>(p, begin, end);
    case Dtype::kBFloat16:
      return backward_typed<bf16>(p, begin, end);
  }
}

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
