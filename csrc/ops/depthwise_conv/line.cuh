// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the kernels for filters along one axis share.
//
// Such a filter loads little per output and multiplies little: a 16-byte vector of bf16 outputs
// takes 11 ps of an H100's memory, in which a thread's share of the schedulers issues 316
// instructions.  So one kernel serves all widths and paddings, with taps as data, and the care goes
// to the accesses: 16 bytes wherever addresses allow, each input from memory once.
#pragma once

#include <cstring>

#include "common/activation.cuh"
#include "common/gpu.h"
#include "ops/depthwise_conv/line_launch.cuh"
#include "ops/depthwise_conv/walk_row.cuh"

namespace fastconv::depthwise_conv {

// Elements [at, at + V) of a row of `size`, `step` apart, or zeros where there are none: as one
// vector if `vectors` says that it is aligned.
template <class T, int V>
__device__ __forceinline__ Raw<T, V> load_run(const T* row, int at, int size, int64_t step,
                                              bool vectors) {
  using Word = typename Raw<T, V>::Word;
  Raw<T, V> run;
#pragma unroll
  for (int i = 0; i < Raw<T, V>::kWords; ++i) run.words.v[i] = Word(0);
  if (vectors && at >= 0 && at + V <= size) {
    run.words = gpu::load_pack<Word, Raw<T, V>::kWords>(reinterpret_cast<const Word*>(row + at));
  } else if (at > -V && at < size) {
#pragma unroll
    for (int q = 0; q < V; ++q) {
      if (at + q < 0 || at + q >= size) continue;
      const T value = row[(at + q) * step];
      if constexpr (Raw<T, V>::kPairs) {
        uint16_t bits;
        std::memcpy(&bits, &value, sizeof(bits));
        run.words.v[q / 2] |= static_cast<uint32_t>(bits) << (q % 2 * 16);
      } else {
        run.words.v[q] = value;
      }
    }
  }
  return run;
}

// Stores elements [at, at + V) of a row of `size`; the first of them is aligned.
template <class T, int V>
__device__ __forceinline__ void store_run(T* row, int at, int size, Activation activation,
                                          Accum<T> (&sum)[V]) {
  activate(activation, sum);
  Pack<T, V> y;
#pragma unroll
  for (int q = 0; q < V; ++q) y.v[q] = gpu::narrow<T>(sum[q]);
  if (at >= 0 && at + V <= size) {
    gpu::store_whole<T, V>(row + at, y);
  } else {
#pragma unroll
    for (int q = 0; q < V; ++q) {
      if (at + q >= 0 && at + q < size) row[at + q] = y.v[q];
    }
  }
}

// How many elements lie between the last aligned address and p.
template <class T, int V>
__device__ __forceinline__ int misalignment(const T* p) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(p) / sizeof(T) % V);
}

// The tap at a position of a filter that begins at `first`, or -1.
__device__ __forceinline__ int tap_at(const LineFilter& f, int position, int first) {
  const int offset = position - first;
  if (offset < 0) return -1;
  const int tap = f.dilation.divide(offset);
  return tap * f.dilation.value == offset && tap < f.taps ? tap : -1;
}

// Where the weight of that tap lies in memory, in a channel's filter.
__device__ __forceinline__ int stored_tap(const LineFilter& f, int tap) {
  return f.flip ? f.taps - 1 - tap : tap;
}

// The sum over a warp, in lane 0.
template <class A>
__device__ __forceinline__ A sum_warp(A value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_down_sync(~0u, value, lanes);
  return value;
}

}  // namespace fastconv::depthwise_conv
