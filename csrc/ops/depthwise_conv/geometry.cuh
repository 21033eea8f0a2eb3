// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the kernels know of a problem: its axes in the kernels' order, and how threads map onto it.
//
// Forward and the gradient of the input are one computation, a gather: every element of `out` sums
// taps over elements of `in`.  Along one axis, output o reads
//   forward:             in[o * stride - pad + t * step], with tap t
//   gradient, stride 1:  the same with the taps flipped
//   gradient, stride s:  the taps k with (o + pad - k * dilation) % s == 0.  They are equally
//                        spaced and read equally spaced inputs: a Span, found once per strip.
#pragma once

#include <cstdint>

#include "common/gpu.h"
#include "ops/depthwise_conv/tiles.h"

namespace fastconv::depthwise_conv {

using gpu::Accum;
using gpu::Divider;
using gpu::Pack;

// A pack, or zeros where nothing may be read.
template <class T, int V>
__device__ __forceinline__ Pack<T, V> load_if(bool valid, const T* p) {
  Pack<T, V> pack;
  if (valid) {
    pack = gpu::load_pack<T, V>(p);
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v) pack.v[v] = gpu::narrow<T>(0);
  }
  return pack;
}

// The taps that one output meets along one axis: t in [0, taps) reads input first + t * step with
// weight tap + t * tap_step.
template <class I>
struct Span {
  I first, taps, tap, tap_step;
};

template <class I>
struct GatherAxis {
  I in, out, kernel;
  I step;           // between the inputs of neighbouring taps
  I stride, pad;    // forward, and gradient of stride 1
  I tap, tap_step;  // first tap and direction of it
  I phases;         // gradient: the stride, else 1
  I tap_stride;     // in the weight
  I gcd, inverse;   // of stride and dilation; of dilation / gcd modulo stride / gcd
  I dilation, pad_quotient, pad_remainder;  // pad = pad_quotient * phases + pad_remainder
  int64_t in_stride, out_stride;

  __device__ __forceinline__ Span<I> span(I o, const Divider<I>& by_phases) const {
    if (phases == 1) return {o * stride - pad, kernel, tap, tap_step};
    const I quotient = by_phases.divide(o + pad_remainder);
    const I r = o + pad_remainder - quotient * phases;
    const I spacing = phases / gcd;
    I k = r;
    if (dilation != 1) {
      if (r % gcd != 0) return {0, 0, 0, 0};
      k = r / gcd * inverse % spacing;
    }
    if (k >= kernel) return {0, 0, 0, 0};
    const I last = (kernel - 1 - k) / spacing;  // index of the last tap of this phase
    const I at = quotient + pad_quotient - (k * dilation - r) / phases;
    return {at - last * step, last + 1, k + last * spacing, -spacing};
  }
};

// A span without the taps that meet the input nowhere, for outputs whose inputs extend up to
// `reach` behind the first one's.
template <class I>
__device__ __forceinline__ Span<I> trim(Span<I> s, I step, I in, I reach = 0) {
  // A division is as dear as a filter row, and most steps are 1.
  auto steps = [step](I distance) { return step == 1 ? distance : (distance + step - 1) / step; };
  if (s.first + reach < 0) {
    const I skip = steps(-reach - s.first);
    s.first += skip * step;
    s.tap += skip * s.tap_step;
    s.taps -= skip;
  }
  if (s.first + (s.taps - 1) * step >= in) s.taps = s.first < in ? steps(in - s.first) : 0;
  return s;
}

// How the strips of outputs are counted: u -> (n, a, b, unit), where `unit` is a strip's place on
// the strip axis.
template <class I>
struct Strips {
  I count;
  bool strip_first;  // the strip axis, not b, varies fastest
  Divider<I> fastest, second, third;
  Divider<I> by_unit_phases;  // gradient of a stride: unit = phase + phases * place
  I unit_phases;
  I apart;  // between a strip's outputs: 1, or for strips that interleave their number

  struct Place {
    I n, a, b, unit;
  };
  __device__ __forceinline__ Place place(I u) const {
    const I x = fastest.divide(u), i0 = u - x * fastest.value;
    const I y = second.divide(x), i1 = x - y * second.value;
    const I n = third.divide(y), a = y - n * third.value;
    return strip_first ? Place{n, a, i1, i0} : Place{n, a, i0, i1};
  }
};

// How a block's threads are shared out: `packs` of channels times `groups` (of taps; 1 in a gather)
// times `slots` of strips.
struct BlockShape {
  int packs, groups, slots;
  bool channels_first;  // the pack varies fastest, then the group; otherwise the slot, the group

  __host__ __device__ constexpr int threads() const { return packs * groups * slots; }
  struct Seat {
    int pack, group, slot;
  };
  __device__ __forceinline__ Seat seat(int thread) const {
    const int fast = channels_first ? packs : slots;
    const int x = thread / fast, i = thread - x * fast;
    const int y = x / groups, group = x - y * groups;
    return channels_first ? Seat{i, group, y} : Seat{y, group, i};
  }
  __device__ __forceinline__ int thread(Seat s) const {
    return channels_first ? (s.slot * groups + s.group) * packs + s.pack
                          : (s.pack * groups + s.group) * slots + s.slot;
  }
};

// Axes are in the kernels' order: two outer ones, a and b, and the strip axis s.
template <class I>
struct Gather {
  const void* in;
  const void* weight;
  const void* bias;
  void* out;
  Activation activation;
  GatherAxis<I> a, b, s;
  Divider<I> phases_a, phases_b, phases_s;
  Strips<I> strips;
  BlockShape block;
  I channels;        // of out
  I in_mul, in_div;  // out channel c reads in channels c * in_mul / in_div + [0, in_mul)
  I taps;
  int64_t in_n, in_c, out_n, out_c;
  I chunks, blocks_along;  // the grid: chunks of channels times blocks along the strips
};

// The gradient of the weight.  A group is a set of kWindow taps along s at one place on a and b.
template <class I>
struct WeightGradient {
  const void* x;
  const void* dy;
  void* partial;
  GatherAxis<I> a, b, s;
  Strips<I> strips;
  BlockShape block;
  I channels;  // of dy
  I in_div;
  I taps, groups;
  Divider<I> group_s, group_b;  // group -> (a, b, window along s)
  int64_t in_n, in_c, out_n, out_c;
  I chunks, group_blocks, splits;
  bool with_bias;
};

}  // namespace fastconv::depthwise_conv
