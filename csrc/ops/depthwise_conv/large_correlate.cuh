// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The correlation of strips in registers that large_tiles.h describes.
#pragma once

#include <cstdint>

#include "common/gpu.h"
#include "ops/depthwise_conv/geometry.cuh"
#include "ops/depthwise_conv/large_tiles.h"

namespace fastconv::depthwise_conv {

// Four neighbours, by accesses of up to 16 bytes.
template <class A, class T>
__device__ __forceinline__ void load_chunk(const T* p, A* out) {
  constexpr int kWidth = sizeof(T) == 8 ? 2 : kChunk;
#pragma unroll
  for (int i = 0; i < kChunk; i += kWidth) {
    const Pack<T, kWidth> pack = gpu::load_pack<T, kWidth>(p + i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) out[i + j] = gpu::widen(pack.v[j]);
  }
}

// sums[q][p] += sum_t filter[-q * pitch + t] * x[p + t], where x is made of three chunks.  Only
// over the rows q and the taps t whose bits are set, if these are looked at.
template <bool kSomeRows, bool kSomeTaps, class A, class F>
__device__ __forceinline__ void multiply_chunk(const A (&x0)[kChunk], const A (&x1)[kChunk],
                                               const A (&x2)[kChunk], const F* filter, int pitch,
                                               uint32_t rows, uint32_t taps,
                                               A (&sums)[kStripRows][kStripWidth]) {
  static_assert(kStripWidth == 2 * kChunk);
#pragma unroll
  for (int q = 0; q < kStripRows; ++q) {
    if (kSomeRows && (rows >> q & 1) == 0) continue;
    A f[kChunk];
    load_chunk(filter - q * pitch, f);
#pragma unroll
    for (int t = 0; t < kChunk; ++t) {
      if (kSomeTaps && (taps >> t & 1) == 0) continue;
#pragma unroll
      for (int p = 0; p < kStripWidth; ++p) {
        const int i = p + t;
        const A x = i < kChunk ? x0[i] : i < 2 * kChunk ? x1[i - kChunk] : x2[i - 2 * kChunk];
        sums[q][p] += f[t] * x;
      }
    }
  }
}

// How the taps of a filter row are cut.
struct Chunks {
  int count;
  uint32_t first, last;  // bits of the taps in the first and the last chunk
};

// Adds the products of filter rows `begin` to `end` - 1 of the strip's first row of results; `x` is
// where filter row 0 would find the strip's first column.  Of a warp all lanes take the same steps,
// and a lane sits out those in which its row of `in` does not exist: outside [lane_begin,
// lane_end).
template <class T, class F, class A>
__device__ __forceinline__ void correlate(const T* x, int x_pitch, const F* filter, int pitch,
                                          int filter_rows, const Chunks& chunks, int begin, int end,
                                          int lane_begin, int lane_end,
                                          A (&sums)[kStripRows][kStripWidth]) {
  constexpr uint32_t kAllRows = (1u << kStripRows) - 1, kAllTaps = (1u << kChunk) - 1;
#pragma unroll 1
  for (int step = begin; step < end; ++step) {
    if (step < lane_begin || step >= lane_end) continue;
    uint32_t rows = 0;
#pragma unroll
    for (int q = 0; q < kStripRows; ++q) {
      if (step >= q && step - q < filter_rows) rows |= 1u << q;
    }
    const T* from = x + step * x_pitch;
    const F* f = filter + step * pitch;
    A x0[kChunk], x1[kChunk], x2[kChunk];
    load_chunk(from, x0);
    load_chunk(from + kChunk, x1);
    from += kStripWidth;
    // The first and the last chunk may lack taps.
    const int whole_begin = chunks.first == kAllTaps ? 0 : 1;
    const int whole_end = chunks.last == kAllTaps ? chunks.count : chunks.count - 1;
    int k = 0;
#pragma unroll 1
    while (k < chunks.count) {
      if (rows == kAllRows && k >= whole_begin) {
        // Three chunks take turns as the window's end: nothing moves between registers.
#pragma unroll 1
        for (; k + 3 <= whole_end; k += 3, from += 3 * kChunk, f += 3 * kChunk) {
          load_chunk(from, x2);
          multiply_chunk<false, false>(x0, x1, x2, f, pitch, rows, kAllTaps, sums);
          load_chunk(from + kChunk, x0);
          multiply_chunk<false, false>(x1, x2, x0, f + kChunk, pitch, rows, kAllTaps, sums);
          load_chunk(from + 2 * kChunk, x1);
          multiply_chunk<false, false>(x2, x0, x1, f + 2 * kChunk, pitch, rows, kAllTaps, sums);
        }
        if (k == chunks.count) break;
      }
      load_chunk(from, x2);
      uint32_t taps = k == 0 ? chunks.first : kAllTaps;
      if (k == chunks.count - 1) taps &= chunks.last;
      if (taps != kAllTaps) {
        multiply_chunk<true, true>(x0, x1, x2, f, pitch, rows, taps, sums);
      } else if (rows != kAllRows) {
        multiply_chunk<true, false>(x0, x1, x2, f, pitch, rows, taps, sums);
      } else {
        multiply_chunk<false, false>(x0, x1, x2, f, pitch, rows, taps, sums);
      }
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        x0[i] = x1[i];
        x1[i] = x2[i];
      }
      ++k;
      from += kChunk;
      f += kChunk;
    }
  }
}

}  // namespace fastconv::depthwise_conv
