// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling, backward by gathering: every input asks the windows that cover it, in a fixed
// order.
//
// On the inner axis an input i = q*stride + phase meets tap k in window q - shift(k) alone, where
// k*dilation - pad = shift*stride + phase.  So lanes run along q: each tap adds one contiguous
// piece of dy to the accumulator of its phase, and at the end the phases are interleaved into dx.
#pragma once

#include "ops/depth_max_pool/cpu_expand-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

// A row of windows that covers the row of inputs at hand: where it starts, and the winner that
// means "this row".  `base` is the flat position of a window at inner coordinate 0.
struct Window {
  int64_t dy_at, index_at, code, base;
};

struct InnerTap {
  int64_t shift, phase;
};

// kStride: the inner stride if it is 1, 2 or 4; 0 for any.  I: uint8_t, or void for the others.
template <class T, class I, int kStride>
struct GatherRun {
  using A = Accum<T>;
  static constexpr int kL = kLanes<A>;
  static constexpr bool kBytes = __is_same(I, uint8_t);
  static constexpr int kTable = 64;      // taps whose shift and phase are kept
  static constexpr int kMaxPhases = 16;  // larger strides take the phases one after another
  static constexpr int kSlots = kStride > 0 ? kStride : kMaxPhases;

  const Backward& p;
  Axis inner;
  Codes codes;
  int64_t flat, code_step;
  InnerTap table[kTable];
  int64_t low_shift = 0, high_shift = 0;
  Window* windows;
  int64_t count = 0;
  int64_t input[kAxes] = {};

  GatherRun(const Backward& p_in, void* scratch)
      : p(p_in),
        inner(p_in.axis[p_in.inner]),
        codes(codes_of(p_in)),
        flat(codes.flat[p_in.inner]),
        code_step(codes.code[p_in.inner]),
        table{},
        windows(static_cast<Window*>(scratch)) {
    for (int64_t k = 0; k < min_of(inner.kernel, kTable); ++k) table[k] = inner_tap(k);
    low_shift = inner_tap(0).shift;
    high_shift = inner_tap(inner.kernel - 1).shift;
  }

  FASTCONV_INLINE InnerTap inner_tap(int64_t k) const {
    const int64_t at = k * inner.dilation - inner.pad;
    return {floor_div(at, inner.stride), floor_mod(at, inner.stride)};
  }

  // The windows of one outer axis that cover its input: o in [first, last], by tap_of() each.
  struct Cover {
    int64_t first, last;
  };
  FASTCONV_INLINE Cover cover(int a) const {
    const Axis& axis = p.axis[a];
    const int64_t reach = (axis.kernel - 1) * axis.dilation, from = input[a] + axis.pad;
    if (axis.stride == 1) return {max_of(0, from - reach), min_of(axis.out - 1, from)};
    return {from <= reach ? 0 : (from - reach + axis.stride - 1) / axis.stride,
            min_of(axis.out - 1, from / axis.stride)};
  }
  FASTCONV_INLINE int64_t tap_of(int a, int64_t o) const {
    const int64_t distance = input[a] + p.axis[a].pad - o * p.axis[a].stride;
    if (p.axis[a].dilation == 1) return distance;
    return distance % p.axis[a].dilation == 0 ? distance / p.axis[a].dilation : -1;
  }
  FASTCONV_INLINE void list_windows(int64_t n) {
    const int a0 = p.inner == 0 ? 1 : 0;
    count = 0;
    list_axis(a0, a0 + 2, {n * p.dy_strides.n, n * p.index_strides.n, 0, 0});
  }
  // One level of the nest over the outer axes: `w` sums up those before.
  void list_axis(int a, int last, const Window& w) {
    const Cover c = cover(a);
    for (int64_t o = c.first; o <= c.last; ++o) {
      const int64_t k = tap_of(a, o);
      if (k < 0) continue;
      const Window next{w.dy_at + o * p.dy_strides.axis[a],
                        w.index_at + o * p.index_strides.axis[a], w.code + k * codes.code[a],
                        w.base + (o * p.axis[a].stride - p.axis[a].pad) * codes.flat[a]};
      if (a == last) {
        windows[count++] = next;
      } else {
        list_axis(a + 1, last, next);
      }
    }
  }

  // Lanes of windows o, o + 1, ... (element `at` of the index) that `code` has won; their flat base
  // is `base` and `scale` more for each.  Lanes outside of [a, b) are anything.
  FASTCONV_INLINE Ints<A> winners(int64_t at, int64_t a, int64_t b, int64_t code, int64_t base,
                                  int64_t scale) const {
    if constexpr (kBytes) {
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
        if (a <= 0 && b >= kL) {
          const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(index));
          return (VecI32)_mm256_cvtepu8_epi32(bytes) == set1_int<A>(code);
        }
      }
#endif
      return compare(index, a, b, code, 0);
    } else if (p.index_type == IndexType::kInt32) {
      return compare(static_cast<const int32_t*>(p.index) + at, a, b, code, 0);
    } else {
      return compare(static_cast<const int64_t*>(p.index) + at, a, b, base + code, scale);
    }
  }
  template <class Stored>
  FASTCONV_INLINE Ints<A> compare(const Stored* index, int64_t a, int64_t b, int64_t code,
                                  int64_t scale) const {
    IntLane<A> lanes[kL];
    if (a <= 0 && b >= kL) {
      for (int i = 0; i < kL; ++i) lanes[i] = int64_t{index[i]} == code + i * scale ? -1 : 0;
    } else {
      for (int i = 0; i < kL; ++i) {
        lanes[i] = i >= a && i < b && int64_t{index[i]} == code + i * scale ? -1 : 0;
      }
    }
    Ints<A> v;
    std::memcpy(&v, lanes, sizeof v);
    return v;
  }

  // Sums into acc[v][phase] for inputs from q0*stride on; only that phase if `only` >= 0.
  template <int kVectors, bool kInside>
  FASTCONV_INLINE void sum_windows(Vec<A> (&acc)[kVectors][kSlots], int64_t q0,
                                   int64_t only) const {
    const T* dy = static_cast<const T*>(p.dy);
    const int64_t scale = inner.stride * flat;
    for (int64_t t = 0; t < count; ++t) {
      const Window& w = windows[t];
      for (int64_t k = inner.kernel - 1; k >= 0; --k) {  // windows in ascending order
        const InnerTap tap = k < kTable ? table[k] : inner_tap(k);
        if (kStride == 0 && only >= 0 && tap.phase != only) continue;
        const int64_t slot = kStride == 1 || (kStride == 0 && only >= 0) ? 0 : tap.phase;
        for (int v = 0; v < kVectors; ++v) {
          const int64_t o = q0 + v * kL - tap.shift;
          const int64_t a = kInside ? 0 : -o, b = kInside ? kL : inner.out - o;
          if (!kInside && (b <= 0 || a >= kL)) continue;
          const Ints<A> won = winners(w.index_at + o, a, b, w.code + k * code_step,
                                      w.base + o * scale - inner.pad * flat, scale);
          const Vec<A> grad =
              kInside ? load(dy + w.dy_at + o) : load_range(dy + w.dy_at + o, a, b, A{0});
          acc[v][slot] += (Vec<A>)(won & (Ints<A>)grad);
        }
      }
    }
  }

  // Turns phases into neighbouring elements.
  FASTCONV_INLINE void interleave(Vec<A> (&acc)[kSlots]) const {
    if constexpr (kStride > 0) {
      interleave_phases(acc);
    } else {
      A lanes[kMaxPhases][kL], mixed[kMaxPhases * kL];
      for (int r = 0; r < inner.stride; ++r) fastconv::FASTCONV_ISA::store(lanes[r], acc[r]);
      A* next = mixed;
      for (int i = 0; i < kL; ++i) {
        for (int r = 0; r < inner.stride; ++r) *next++ = lanes[r][i];
      }
      for (int r = 0; r < inner.stride; ++r) acc[r] = load(mixed + r * kL);
    }
  }

  // kVectors times kL groups of `stride` inputs from q0*stride on, of a run of `size` inputs.
  template <int kVectors, bool kInside>
  FASTCONV_INLINE void block(T* dx, int64_t q0, int64_t size) const {
    Vec<A> acc[kVectors][kSlots] = {};
    sum_windows<kVectors, kInside>(acc, q0, -1);
    const int phases = kStride > 0 ? kStride : static_cast<int>(inner.stride);
    for (int v = 0; v < kVectors; ++v) {
      interleave(acc[v]);
      for (int r = 0; r < phases; ++r) {
        const int64_t at = (q0 + v * kL) * phases + r * kL;
        const int64_t left = size - at;
        if (left >= kL) {
          store(dx + at, acc[v][r]);
        } else if (left > 0) {
          store_n(dx + at, acc[v][r], static_cast<int>(left));
        }
      }
    }
  }

  // Strides without a table of accumulators.
  FASTCONV_INLINE void block_by_phase(T* dx, int64_t q0, int64_t size) const {
    for (int64_t phase = 0; phase < inner.stride; ++phase) {
      Vec<A> acc[1][kSlots] = {};
      A lanes[kL];
      sum_windows<1, false>(acc, q0, phase);
      fastconv::FASTCONV_ISA::store(lanes, acc[0][0]);
      int64_t to = q0 * inner.stride + phase;
      for (int i = 0; i < kL && to < size; ++i, to += inner.stride)
        dx[to] = from_float<T>(lanes[i]);
    }
  }

  FASTCONV_INLINE void run(T* dx, int64_t begin, int64_t end) const {
    constexpr int kVectors = kStride == 0 ? 1 : 4 / kStride;
    for (int64_t q = begin; q < end;) {
      // Windows q - high_shift .. q + lanes - low_shift are there for every tap.
      const int64_t first = q - high_shift, room = inner.out - (q - low_shift);
      if (kStride == 0 && inner.stride > kMaxPhases) {
        block_by_phase(dx, q, inner.in);
      } else if (kVectors > 1 && first >= 0 && room >= kVectors * kL && q + kVectors * kL <= end) {
        block<kVectors, true>(dx, q, inner.in);
        q += kVectors * kL;
        continue;
      } else if (first >= 0 && room >= kL) {
        block<1, true>(dx, q, inner.in);
      } else {
        block<1, false>(dx, q, inner.in);
      }
      q += kL;
    }
  }

  FASTCONV_INLINE void tasks(int64_t begin, int64_t end) {
    const int a0 = p.inner == 0 ? 1 : 0, outer[3] = {a0, a0 + 1, a0 + 2};
    const int64_t pieces = gather_pieces(p);
    const int64_t groups = (inner.in + inner.stride - 1) / inner.stride;
    int64_t piece = begin % pieces, n = begin / pieces;
    for (int i = 2; i >= 0; --i) {
      input[outer[i]] = n % p.axis[outer[i]].in;
      n /= p.axis[outer[i]].in;
    }
    for (int64_t task = begin; task < end; ++task) {
      if (task == begin || piece == 0) list_windows(n);
      int64_t dx_at = n * p.dx_strides.n;
      for (int a : outer) dx_at += input[a] * p.dx_strides.axis[a];
      run(static_cast<T*>(p.dx) + dx_at, piece * kRunPiece,
          min_of(groups, (piece + 1) * kRunPiece));
      if (++piece < pieces) continue;
      piece = 0;
      int i = 2;
      while (i >= 0 && ++input[outer[i]] == p.axis[outer[i]].in) input[outer[i--]] = 0;
      if (i < 0) ++n;
    }
  }
};

template <class T, class I>
void gather_indexed(const Backward& p, void* scratch, int64_t begin, int64_t end) {
  switch (p.axis[p.inner].stride) {
    case 1:
      return GatherRun<T, I, 1>(p, scratch).tasks(begin, end);
    case 2:
      return GatherRun<T, I, 2>(p, scratch).tasks(begin, end);
    case 4:
      return GatherRun<T, I, 4>(p, scratch).tasks(begin, end);
    default:
      return GatherRun<T, I, 0>(p, scratch).tasks(begin, end);
  }
}

template <class T>
void gather_typed(const Backward& p, void* scratch, int64_t begin, int64_t end) {
  if (p.index_type == IndexType::kUint8) {
    gather_indexed<T, uint8_t>(p, scratch, begin, end);
  } else {
    gather_indexed<T, void>(p, scratch, begin, end);
  }
}

void gather(const Backward& p, void* scratch, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case Dtype::kFloat32:
      return gather_typed<float>(p, scratch, begin, end);
    case Dtype::kFloat64:
      return gather_typed<double>(p, scratch, begin, end);
    case Dtype::kFloat16:
      return gather_typed<f16>(p, scratch, begin, end);
    case Dtype::kBFloat16:
      return gather_typed<bf16>(p, scratch, begin, end);
  }
}

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
