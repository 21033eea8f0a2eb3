// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What follows a convolution.  Activations of a few instructions are applied to sums in registers
// where a tile stores them, behind a branch: no tile is compiled twice.  The others take a copy of
// the sums, or go over results that were just written and are still in L1: an engine calls
// finish_rows() or finish_pixels() on each piece of its output once all of that piece is there.  A
// tile that overlaps the one before has written the plain result once more by then.
#pragma once

#include "common/activation-inl.h"
#include "ops/depthwise_conv/cpu.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

using namespace ::fastconv::FASTCONV_ISA;

// Which activations tiles apply.  Tight tiles have one register to spare for hardswish, which is
// enough where constants come from memory: 3x3 windows that spilled lost a tenth without any
// activation.  Where sums are rounded first, what does not commute with that follows.  Pixels of
// thousands of channels fall into a few sets of L1, so that their tiles apply every activation.
enum class Tile { kEvery, kRoomy, kTight };
template <class T>
constexpr bool kBroadcastsConstants = FASTCONV_LEVEL >= 2 && sizeof(Accum<T>) == 4;
template <class T, Tile K>
constexpr bool is_brief(Activation activation) {
  return activation == Activation::kRelu || activation == Activation::kRelu6 ||
         ((K != Tile::kTight || kBroadcastsConstants<T>) && activation == Activation::kHardswish &&
          sizeof(T) == sizeof(Accum<T>));
}
template <class T, Tile K>
constexpr Activation brief(Activation activation) {
  return is_brief<T, K>(activation) ? activation : Activation::kNone;
}

// For each of several sums, the constants of a brief activation come anew from memory whose address
// the compiler does not know: else it keeps them in registers, at the expense of loops that have
// none to spare.
template <class A>
constexpr A kBriefConstants[] = {0, 6, 3, A{1} / A{6}};

#if FASTCONV_LEVEL >= 2
// With one register beside `z`, and one instruction that takes it to [-3, 3]: of z and 3 the one
// that is nearer to zero, with the sign of z.  A NaN in z comes back with the last product.
FASTCONV_INLINE void hardswish_in_place(VecF32& z, const float& three, const float& sixth) {
  VecF32 t;
  asm("vrangeps $2, %[three]%{1to16%}, %[z], %[t]\n\t"
      "vaddps %[three]%{1to16%}, %[t], %[t]\n\t"
      "vmulps %[sixth]%{1to16%}, %[t], %[t]\n\t"
      "vmulps %[t], %[z], %[z]"
      : [z] "+v"(z), [t] "=&v"(t)
      : [three] "m"(three), [sixth] "m"(sixth));
}
#endif

template <class T>
__attribute__((noinline)) void finish_long(Activation activation, Vec<Accum<T>>* sums, int count) {
  with_activation(activation, [&](auto k) {
    for (int i = 0; i < count; ++i)
      sums[i] = activate<decltype(k)::kActivation>(rounded<T>(sums[i]));
  });
}

// Applies an activation that such tiles apply, or none, to sums.
template <class T, Tile K, int N>
FASTCONV_INLINE void finish_sums(Activation activation, Vec<Accum<T>> (&sums)[N]) {
  using A = Accum<T>;
  if (__builtin_expect(activation == Activation::kNone, true)) return;
  if constexpr (K == Tile::kEvery) {
    if (!is_brief<T, K>(activation)) {
      Vec<A> copy[N];  // so that only this branch has the sums in memory
      for_each<N>(FASTCONV_EACH(i) { copy[i.value] = sums[i.value]; });
      finish_long<T>(activation, copy, N);
      for_each<N>(FASTCONV_EACH(i) { sums[i.value] = copy[i.value]; });
      return;
    }
  }
  const A* c = kBriefConstants<A>;
  if (is_brief<T, K>(Activation::kHardswish) && activation == Activation::kHardswish) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
#if FASTCONV_LEVEL >= 2
      if constexpr (kBroadcastsConstants<T>) {
        hardswish_in_place(sums[i], c[2], c[3]);
        continue;
      }
#endif
      asm volatile("" : "+r"(c));
      sums[i] = hardswish(sums[i], set1<A>(c[2]), set1<A>(c[0]), set1<A>(c[1]), set1<A>(c[3]));
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      asm volatile("" : "+r"(c));
      sums[i] = at_least(sums[i], set1<A>(c[0]));
    }
    if (activation != Activation::kRelu6) return;
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      asm volatile("" : "+r"(c));
      sums[i] = at_most(sums[i], set1<A>(c[1]));
    }
  }
}
template <class T, Tile K, int M, int N>
FASTCONV_INLINE void finish_sums(Activation activation, Vec<Accum<T>> (&sums)[M][N]) {
  if (__builtin_expect(activation == Activation::kNone, true)) return;
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) finish_sums<T, K>(activation, sums[i]);
}

// `rows` x `columns` runs of `length` neighbouring elements.
template <class T>
struct Piece {
  T* y;
  const T* z;         // y itself, or sums in the same places
  const T* gradient;  // null, or what the slope is multiplied by, in the same places
  int64_t rows, row_stride, columns, column_stride, length;
};

template <Activation K, bool Gradient, class Rounded, class T>
void finish_piece(const Piece<T>& p) {
  constexpr int kV = kLanes<Accum<T>>;
  const auto f = [](auto z, auto dy) {
    if constexpr (Gradient) {
      return activation_gradient<K>(z, dy);
    } else {
      return activate<K>(rounded<Rounded>(z));
    }
  };
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t column = 0; column < p.columns; ++column) {
      const int64_t at = row * p.row_stride + column * p.column_stride;
      T* const y = p.y + at;
      const T* const z = p.z + at;
      const T* const dy = Gradient ? p.gradient + at : z;
      int64_t i = 0;
      if constexpr (!Gradient) {
        constexpr int kGroup = 4;
        for (; i + kGroup * kV <= p.length; i += kGroup * kV) {
          Vec<Accum<T>> group[kGroup];
          for (int j = 0; j < kGroup; ++j) group[j] = rounded<Rounded>(load(z + i + j * kV));
          activate_each<K>(group);
          for (int j = 0; j < kGroup; ++j) store(y + i + j * kV, group[j]);
        }
      }
      for (; i + kV <= p.length; i += kV) store(y + i, f(load(z + i), load(dy + i)));
      if (i < p.length) {
        const int left = static_cast<int>(p.length - i);
        store_n(y + i, f(load_n(z + i, left), load_n(dy + i, left)), left);
      }
    }
  }
}

// `Rounded` is what sums are rounded to first, if they are not yet.
template <class T, class Rounded = Accum<T>>
__attribute__((noinline)) void finish_all(Activation activation, Piece<T> p) {
  if (p.column_stride == p.length) {
    p.length *= p.columns;
    p.columns = 1;
  }
  if (p.columns == 1 && p.row_stride == p.length) {
    p.length *= p.rows;
    p.rows = 1;
  }
  with_activation(activation, [&](auto k) {
    constexpr Activation kActivation = decltype(k)::kActivation;
    if constexpr (sizeof(Rounded) == sizeof(Accum<T>)) {
      if (p.gradient != nullptr) return finish_piece<kActivation, true, Rounded>(p);
    }
    finish_piece<kActivation, false, Rounded>(p);
  });
}

// Vectors [vector, vector + count) of the channels of a band of pixels.
struct Band {
  int64_t rows, row_stride, columns, column_stride;  // of the result
  int64_t step;                                      // of the sums from one vector to the next
  int64_t vector, count, channels;
};
// Sums, [vector][column][row][lane], on their way to y.
template <class T>
__attribute__((noinline)) void finish_band(Activation activation, const T* sums, T* y,
                                           const Band& band) {
  constexpr int kV = kLanes<Accum<T>>;
  const Band b = band;
  with_activation(activation, [&](auto k) {
    for (int64_t row = 0; row < b.rows; ++row) {
      const T* from = sums + row * kV;
      T* to = y + row * b.row_stride;
      for (int64_t column = 0; column < b.columns; ++column) {
        for (int64_t i = 0; i < b.count; ++i) {
          const int64_t c = min_of((b.vector + i) * kV, b.channels - kV);
          store(to + c, activate<decltype(k)::kActivation>(load(from + i * b.step)));
        }
        from += b.rows * kV;
        to += b.column_stride;
      }
    }
  });
}

// Rows of neighbouring elements, from `y` on, of several channels.
template <Tile K, class T>
FASTCONV_INLINE void finish_rows(const Correlation& p, T* y, int64_t channels,
                                 int64_t channel_stride, int64_t rows, int64_t row_stride,
                                 int64_t length) {
  if (p.activation == Activation::kNone || is_brief<T, K>(p.activation)) return;
  finish_all<T>(p.activation, {y, y, nullptr, channels, channel_stride, rows, row_stride, length});
}
// Pixels of neighbouring channels.
template <Tile K, class T>
FASTCONV_INLINE void finish_pixels(const Correlation& p, T* y, int64_t rows, int64_t columns,
                                   int64_t channels) {
  if (p.activation == Activation::kNone || is_brief<T, K>(p.activation)) return;
  finish_all<T>(p.activation,
                {y, y, nullptr, rows, p.y_strides.sp[1], columns, p.y_strides.sp[2], channels});
}

// A pass of its own.
template <class T>
void pointwise(const Pointwise& p, int64_t begin, int64_t end) {
  const int64_t from = begin * Pointwise::kChunk;
  const int64_t length = min_of(end * Pointwise::kChunk, p.elements) - from;
  const T* const gradient = static_cast<const T*>(p.gradient);
  finish_all<T>(p.activation,
                {static_cast<T*>(p.y) + from, static_cast<const T*>(p.z) + from,
                 gradient == nullptr ? nullptr : gradient + from, 1, 0, 1, 0, length});
}

// Output rows of about this many bytes are finished at once, where an engine would do more.
constexpr int64_t kPieceBytes = 24 << 10;

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
