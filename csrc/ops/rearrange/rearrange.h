// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Rearrangements (space to depth, depth to space, channel shuffle): the contract between torch.cpp
// and the kernels.
//
// Each of them is a permutation of axes: a strided copy of a view of the input, with up to three
// block axes next to channels and space, into a dense output.  Kernels move raw elements of 1, 2,
// 4, 8 or 16 bytes and know nothing of dtypes or of which rearrangement it was.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fastconv::rearrange {

// C, three spatial axes and their three blocks, and up to five batch axes that do not merge.
constexpr int kMaxAxes = 12;

// Strides count bytes.  An input stride may be zero (expanded views).
struct Axis {
  int64_t size, in, out;
};
using Stride = int64_t Axis::*;

struct Copy {
  const void* in;
  void* out;
  int64_t element;  // bytes
  int rank;
  Axis axis[kMaxAxes];  // outermost first
};

// Brings the axes into the order of the output, drops those of size 1 and merges the ones that are
// one axis in both tensors.  The output is dense, so its innermost axis ends up last, with a stride
// of one element.
constexpr void coalesce(Copy& copy) {
  int kept = 0;
  for (int i = 0; i < copy.rank; ++i) {
    const Axis axis = copy.axis[i];
    if (axis.size == 1) continue;
    int at = kept++;
    for (; at > 0 && copy.axis[at - 1].out < axis.out; --at) copy.axis[at] = copy.axis[at - 1];
    copy.axis[at] = axis;
  }
  int merged = 0;
  for (int i = 0; i < kept; ++i) {
    const Axis inner = copy.axis[i];
    if (merged > 0) {
      Axis& outer = copy.axis[merged - 1];
      if (outer.in == inner.in * inner.size && outer.out == inner.out * inner.size) {
        outer = {outer.size * inner.size, inner.in, inner.out};
        continue;
      }
    }
    copy.axis[merged++] = inner;
  }
  copy.rank = merged;
}

// The innermost axis where it is contiguous in both tensors, taken off as a run of bytes; one
// element where there is none.
constexpr int64_t take_run(Copy& copy) {
  if (copy.rank == 0) return copy.element;
  const Axis& inner = copy.axis[copy.rank - 1];
  if (inner.in != copy.element || inner.out != copy.element) return copy.element;
  --copy.rank;
  return inner.size * copy.element;
}

// The axis along which the input is contiguous, or -1.
constexpr int contiguous_input_axis(const Copy& copy) {
  for (int i = copy.rank - 1; i >= 0; --i) {
    if (copy.axis[i].in == copy.element) return i;
  }
  return -1;
}

}  // namespace fastconv::rearrange
