// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the plans of the line kernels have in common.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/line_launch.cuh"

namespace fastconv::depthwise_conv {

inline gpu::Divider<int> divider(int64_t value) { return gpu::Divider<int>(max_of(value, 1)); }

inline LineStrides line_strides(const LineTensor& t) { return {t.n, t.c, t.m, t.l, t.lane}; }

// Forward, or the gradient of the input: the same with the filter turned round.
inline LineFilter line_filter(const Axis& a, bool backward) {
  const int64_t pad = backward ? a.dilation * (a.kernel - 1) - a.pad : a.pad;
  return {static_cast<int>(a.kernel), static_cast<int>(pad), backward, divider(a.dilation),
          divider(a.kernel)};
}

// Whether every line of a tensor begins at the same place between aligned addresses as `other`'s.
inline bool in_step(const View& v, const Lines& lines, const LineTensor& t, const LineTensor& other,
                    int64_t vector) {
  const Problem& p = v.problem;
  return t.l == 1 && other.l == 1 && (p.batch <= 1 || (t.n - other.n) % vector == 0) &&
         (p.channels <= 1 || (t.c - other.c) % vector == 0) &&
         (lines.outer <= 1 || (t.m - other.m) % vector == 0);
}

// Where the first tap lies, for vectors of `in` to be aligned where those of `anchor` are.
struct LineShift {
  bool aligned;
  int64_t first;
};

inline LineShift line_shift(const View& v, const Lines& lines, const LineTensor& in,
                            const LineTensor& anchor, int64_t pad, int64_t vector) {
  if (!in_step(v, lines, in, anchor, vector)) return {false, 0};
  const int64_t size = element_size(v.problem.dtype);
  const auto place = [&](const LineTensor& t) {
    return static_cast<int64_t>(reinterpret_cast<uintptr_t>(t.data) / size % vector);
  };
  return {true, floor_mod(place(in) - place(anchor) - pad, vector)};
}

// Whether all lines of a tensor begin at aligned addresses.
inline bool all_aligned(const View& v, const Lines& lines, const LineTensor& t, int64_t vector) {
  const Problem& p = v.problem;
  return reinterpret_cast<uintptr_t>(t.data) % kPackBytes == 0 &&
         (p.batch <= 1 || t.n % vector == 0) && (p.channels <= 1 || t.c % vector == 0) &&
         (lines.outer <= 1 || t.m % vector == 0);
}

// Vectors of a line: one more where it may begin anywhere.
inline int64_t line_vectors(const View& v, const Lines& lines, const LineTensor& t, int64_t size,
                            int64_t vector) {
  return ceil_div(size + (all_aligned(v, lines, t, vector) ? 0 : vector - 1), vector);
}

// Rows of a line that one thread takes: so few that there are `wanted` threads for each line, but
// not fewer than the filter has, which are read twice, nor than four steps.
inline int64_t line_segment(int64_t rows, int64_t wanted, int64_t taps) {
  const int64_t least = max_of(4 * kLineRows, 2 * taps);
  return round_up(max_of(ceil_div(rows, wanted), min_of(least, max_of(rows, 1))), kLineRows);
}

}  // namespace fastconv::depthwise_conv
