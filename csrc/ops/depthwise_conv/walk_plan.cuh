// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the plans of the walking kernels have in common.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/walk_launch.cuh"

namespace fastconv::depthwise_conv {

inline WalkAxis axis_of(const View& v, int i, bool runs) {
  const Axis& a = v.problem.axis[i];
  const bool backward = v.pass == Pass::kBackwardData;
  WalkAxis w{};
  w.in = static_cast<int>(backward ? a.out : a.in);
  w.out = static_cast<int>(backward ? a.in : a.out);
  if (!backward || a.stride == 1) {
    w.groups = w.out;
    if (!runs) w.in_shift = static_cast<int>(backward ? a.pad - (a.kernel - 1) : -a.pad);
    return w;
  }
  // dx[i] with i + pad = 2 * u + e reads dy from u down: group 0 is the first u that is not empty.
  w.out_shift = runs ? 0 : static_cast<int>(floor_mod(a.pad, 2));
  w.groups = static_cast<int>(ceil_div(w.out + w.out_shift, 2));
  if (!runs) w.in_shift = static_cast<int>(floor_div(a.pad, 2) - (a.kernel - 1) / 2);
  return w;
}

// The stride of a single column may be any number, and is of no use.
inline int column_stride(int columns, const Strides5& strides) {
  return columns <= 1 ? 0 : static_cast<int>(strides.sp[2]);
}

// Lanes that 1024 rows of slots take in blocks of so many threads along `fast`, those of half-empty
// warps and blocks included.
inline int64_t lanes_taken(int64_t fast, int64_t width) {
  const int64_t slots = kWalkThreads / width;
  return ceil_div(fast, width) * round_up(width * slots, 32) * 1024 / slots;
}

// Threads of a block along `fast`, at most `limit`: the most, for neighbouring addresses, that
// leave no more than an eighth of the lanes idle beyond what is unavoidable.
inline int block_width(int64_t fast, int64_t limit) {
  const int64_t most = max_of(1, min_of(fast, limit));
  int64_t fewest = INT64_MAX;
  for (int64_t width = 1; width <= most; ++width) {
    fewest = min_of(fewest, lanes_taken(fast, width));
  }
  int64_t width = most;
  while (lanes_taken(fast, width) > fewest + fewest / 8) --width;
  return static_cast<int>(width);
}

}  // namespace fastconv::depthwise_conv
