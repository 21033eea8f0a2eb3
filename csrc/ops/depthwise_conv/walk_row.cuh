// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The rows of strips that walking kernels load and store: see walk.cuh.
#pragma once

#include <type_traits>

#include "common/activation.cuh"
#include "common/gpu.h"
#include "ops/depthwise_conv/geometry.cuh"
#include "ops/depthwise_conv/walk_tiles.h"

namespace fastconv::depthwise_conv {

// Which input a tap of an output meets, along one axis.  kPad: the padding if the compiler knows
// it (the strips of a row in vectors), else 0, with the rest in WalkAxis.
template <int K, int kDown, int kUp, int P, int kPad>
struct WalkTaps {
  static constexpr int kAges = (K + kDown * kUp - 1) / (kDown * kUp);
  // The first input of a strip, relative to its first group times kDown.
  static constexpr int kFirst = kUp == 1 ? -kPad : -((K - 1 - kPad) / 2);
  static constexpr int kLast = kUp == 1 ? (P - 1) * kDown + K - 1 - kPad : P - 1 + (1 + kPad) / 2;
  static constexpr int kColumns = kLast - kFirst + 1;

  // The column of the strip that tap k of output e of group p meets; -1: none.
  static constexpr int column(int p, int e, int k) {
    if (kUp == 1) return p * kDown + k;
    return (e + kPad - k) % 2 != 0 ? -1 : p + (e + kPad - k) / 2 - kFirst;
  }
  // The filter row with which input row `sub` of an iteration meets output e of age `age`; K or
  // more: none.
  static constexpr int row_tap(int age, int sub, int e) {
    return kUp == 1 ? age * kDown + sub : (kAges - 1 - age) * kUp + e;
  }
};

// The least power of two that is not below n; 0 for 0.
constexpr int next_power(int n) { return n <= 1 ? n : 2 * next_power((n + 1) / 2); }

// N elements as they come from memory, in whole registers: elements of 2 bytes are taken apart
// where they are used, which costs the one instruction that widens them.
template <class T, int N>
struct Raw {
  static constexpr bool kPairs = sizeof(T) == 2 && N > 1;
  using Word = std::conditional_t<kPairs, uint32_t, T>;
  static constexpr int kWords = kPairs ? N / 2 : N;
  Pack<Word, kWords> words;

  // `bytes` behind p; zeros where nothing may be read.
  __device__ __forceinline__ void load(bool valid, const T* p, int64_t bytes) {
    const char* at = reinterpret_cast<const char*>(p) + bytes;
#pragma unroll
    for (int i = 0; i < kWords; ++i) words.v[i] = Word(0);
    if (valid) words = gpu::load_pack<Word, kWords>(reinterpret_cast<const Word*>(at));
  }
  __device__ __forceinline__ Accum<T> operator[](int i) const {
    if constexpr (kPairs) {
      return gpu::widen_half<T>(words.v[i / 2], i % 2);
    } else {
      return gpu::widen(words.v[i]);
    }
  }
};

// One row of a strip, element by element or pack by pack.
template <class T, int V, class Taps, int kStrip, bool kRuns>
struct WalkRow {
  static constexpr int kLoads = Taps::kColumns;
  Raw<T, V> raw[kLoads];

  // Bit c: whether load c, of a strip that begins at input `first`, reads anything.
  static __device__ __forceinline__ uint32_t mask(int first, int in) {
    uint32_t bits = 0;
#pragma unroll
    for (int c = 0; c < kLoads; ++c) {
      if (first + c >= 0 && first + c < in) bits |= 1u << c;
    }
    return bits;
  }
  // `column`: bytes between columns.
  __device__ __forceinline__ void load(const T* row, int column, uint32_t bits) {
#pragma unroll
    for (int c = 0; c < kLoads; ++c) raw[c].load((bits & (1u << c)) != 0, row, int64_t{c} * column);
  }
  __device__ __forceinline__ Accum<T> widened(int c, int v) const { return raw[c][v]; }
};

// One row of a strip as vectors: the strip's own inputs, kStrip of them, and what it needs of its
// neighbours left and right.  Sizes and strides are multiples of the vectors.
template <class T, class Taps, int kStrip>
struct WalkRow<T, 1, Taps, kStrip, true> {
  static constexpr int kVector = walk_vector(kStrip, sizeof(T));
  static constexpr int kOwn = kStrip / kVector;
  static constexpr int kLeft = next_power(-Taps::kFirst);
  static constexpr int kRight = next_power(Taps::kFirst + Taps::kColumns - kStrip);
  static_assert(kLeft <= kVector && kRight <= kVector && kStrip % kVector == 0);
  Raw<T, kVector> own[kOwn];
  Raw<T, kLeft == 0 ? 1 : kLeft> left;
  Raw<T, kRight == 0 ? 1 : kRight> right;

  // Bit 0: left; bit 1: right; the strip's own from bit 2 on.  `first` is its first own input.
  static __device__ __forceinline__ uint32_t mask(int first, int in) {
    uint32_t bits = (first > 0 && first <= in ? 1u : 0u) | (first + kStrip < in ? 2u : 0u);
#pragma unroll
    for (int q = 0; q < kOwn; ++q) {
      if (first + q * kVector < in) bits |= 4u << q;
    }
    return bits;
  }
  __device__ __forceinline__ void load(const T* row, int, uint32_t bits) {
    constexpr int kSize = sizeof(T);
    if constexpr (kLeft > 0) left.load((bits & 1) != 0, row, -kLeft * kSize);
#pragma unroll
    for (int q = 0; q < kOwn; ++q) own[q].load((bits & (4u << q)) != 0, row, q * kVector * kSize);
    if constexpr (kRight > 0) right.load((bits & 2) != 0, row, kStrip * kSize);
  }
  __device__ __forceinline__ Accum<T> widened(int c, int) const {
    const int at = c + Taps::kFirst;
    if (at < 0) return left[at + kLeft];
    if (at >= kStrip) return right[at - kStrip];
    return own[at / kVector][at % kVector];
  }
};

// Stores a row of outputs, those in `bits`, `column` bytes apart, from sums that are done with.
template <class T, int V, int kOutputs, bool kRuns>
__device__ __forceinline__ void store_row(T* to, int column, uint32_t bits, Activation activation,
                                          Accum<T> (&sum)[kOutputs][V]) {
  activate<kOutputs * V>(activation, [&](int i) -> Accum<T>& { return sum[i / V][i % V]; });
  if constexpr (kRuns) {
    constexpr int kVector = walk_vector(kOutputs, sizeof(T));
#pragma unroll
    for (int p = 0; p < kOutputs; p += kVector) {
      Pack<T, kVector> y;
#pragma unroll
      for (int q = 0; q < kVector; ++q) y.v[q] = gpu::narrow<T>(sum[p + q][0]);
      if ((bits >> p & 1) != 0) gpu::store_pack<T, kVector>(to + p, y);
    }
  } else {
#pragma unroll
    for (int p = 0; p < kOutputs; ++p) {
      Pack<T, V> y;
#pragma unroll
      for (int v = 0; v < V; ++v) y.v[v] = gpu::narrow<T>(sum[p][v]);
      if ((bits >> p & 1) != 0) {
        gpu::store_pack<T, V>(
            reinterpret_cast<T*>(reinterpret_cast<char*>(to) + int64_t{p} * column), y);
      }
    }
  }
}

}  // namespace fastconv::depthwise_conv
