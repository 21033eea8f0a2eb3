// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling: the contract between torch.cpp and the kernels.
//
//   y[n, o] = max over taps k of x[n, o*stride + k*dilation - pad]
//
// with o, k and the rest vectors over four window axes (C, D, H, W); lower ranks have leading
// spatial axes of size 1.  Taps outside the input are skipped.  Taps are visited in (C, D, H, W)
// order and a tap replaces the maximum when `v > max || v is NaN`: the first maximum wins ties, the
// last NaN wins over everything, and a window of -inf alone keeps its first tap inside the input.
//
// The winner is reported as an integer per output, laid out as y:
//   kUint8, kInt32  the tap's offset within the window, ((kc*KD + kd)*KH + kh)*KW + kw
//   kInt64          the flat position in the input image (C, D, H, W), as torch's indices
// Both are `base(o) + sum_a k[a] * code_stride[a]`, which is all that the kernels know about it.
//
// One axis is `inner`: the one along which y (dx in backward) is dense.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fastconv::depth_max_pool {

constexpr int kAxes = 4;

struct Axis {
  int64_t in = 1, out = 1, kernel = 1, stride = 1, dilation = 1, pad = 0;

  // Windows of one element, one per input: the axis is only a batch of smaller problems.
  constexpr bool is_plain() const { return kernel == 1 && stride == 1 && pad == 0; }
};

// Element strides; zero on expanded inputs.
struct Strides {
  int64_t n = 0;
  int64_t axis[kAxes] = {};
};

enum class IndexType : uint8_t { kNone, kUint8, kInt32, kInt64 };

struct Problem {
  Dtype dtype;
  IndexType index_type;
  int inner;  // 0 (channels last) or 3
  int64_t batch;
  Axis axis[kAxes];

  constexpr int64_t taps() const {
    return axis[0].kernel * axis[1].kernel * axis[2].kernel * axis[3].kernel;
  }
  constexpr int64_t out_elements() const {
    return batch * axis[0].out * axis[1].out * axis[2].out * axis[3].out;
  }
  constexpr int64_t in_elements() const {
    return batch * axis[0].in * axis[1].in * axis[2].in * axis[3].in;
  }
};

struct Forward : Problem {
  const void* x;
  Strides x_strides;
  void* y;  // y and index share their strides; index is null with kNone
  void* index;
  Strides y_strides;
};

// dx[n, i] = sum over windows o whose winner is i of dy[n, o]
struct Backward : Problem {
  const void* dy;
  Strides dy_strides;  // dy and index are dense along the inner axis
  const void* index;
  Strides index_strides;
  void* dx;
  Strides dx_strides;
};

// The integers of `base(o) + sum k*code`: code_stride per axis and, for flat positions, the input's
// own dense strides, from which base(o) = sum (o*stride - pad) * flat.
struct Codes {
  int64_t code[kAxes];
  int64_t flat[kAxes];  // zero for offsets within the window
};

constexpr Codes codes_of(const Problem& p) {
  Codes c{};
  int64_t flat = 1, offset = 1;
  for (int a = kAxes - 1; a >= 0; --a) {
    const bool is_flat = p.index_type == IndexType::kInt64;
    c.flat[a] = is_flat ? flat : 0;
    c.code[a] = is_flat ? flat * p.axis[a].dilation : offset;
    flat *= p.axis[a].in;
    offset *= p.axis[a].kernel;
  }
  return c;
}

// Merges neighbouring plain spatial axes that every tensor walks with one stride, so that the inner
// runs are long.  Flat positions are unchanged by it, as are offsets within windows.  An inner axis
// of one element gets the stride of its neighbour: that one must then be dense where the inner axis
// must be.
template <int kTensors>
constexpr void merge_plain_axes(Problem& p, Strides* const (&strides)[kTensors]) {
  int last = kAxes - 1;
  for (int a = kAxes - 2; a >= 1; --a) {
    const int64_t run = p.axis[last].in;
    bool merge = p.axis[a].is_plain() && p.axis[last].is_plain();
    for (Strides* s : strides) {
      if (run > 1 && p.axis[a].in > 1) merge = merge && s->axis[a] == s->axis[last] * run;
    }
    if (!merge) {
      last = a;
      continue;
    }
    for (Strides* s : strides) {
      if (run == 1) s->axis[last] = s->axis[a];
    }
    p.axis[last].in = p.axis[last].out = run * p.axis[a].in;
    p.axis[a] = Axis{};
  }
}

// Channels last, windows over channels alone that tile them exactly: the pixels of a dense tensor
// follow one another as if they were more channels, so the whole tensor becomes one long run.  Not
// for flat positions, which are not linear along that run.
template <int kTensors>
constexpr void merge_pixels_into_channels(Problem& p, Strides* const (&strides)[kTensors],
                                          const bool (&is_input)[kTensors]) {
  Axis& c = p.axis[0];
  const bool tiles =
      c.pad == 0 && c.in == c.out * c.stride && c.dilation * (c.kernel - 1) < c.stride;
  if (p.inner != 0 || p.index_type == IndexType::kInt64 || !tiles) return;
  for (int a = kAxes - 1; a >= 0; --a) {  // a == 0 stands for the batch
    const int64_t count = a == 0 ? p.batch : p.axis[a].in;
    if (a > 0 && !p.axis[a].is_plain()) return;
    for (int t = 0; t < kTensors; ++t) {
      const int64_t stride = a == 0 ? strides[t]->n : strides[t]->axis[a];
      const int64_t run = is_input[t] ? c.in : c.out;
      if (count > 1 && stride != run * strides[t]->axis[0]) return;
    }
    c.in *= count;
    c.out *= count;
    if (a == 0) {
      p.batch = 1;
    } else {
      p.axis[a] = Axis{};
    }
  }
}

}  // namespace fastconv::depth_max_pool
