// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The variants of the kernels for filters along one axis (line.cuh), and what they fit: 1-D
// convolutions, and the (k, 1), (1, k), (k, 1, 1), ... of 2-D and 3-D ones.  Pure host code.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "ops/depthwise_conv/view.h"

namespace fastconv::depthwise_conv {

// What a thread of a line kernel owns.
enum class LineKind : uint8_t {
  kNone,        // no line
  kRows,        // the filter's axis is contiguous: 16 bytes of positions
  kDown,        // 16 bytes of what is contiguous, channels or positions, down the filter's axis
  kDownScalar,  // a single channel or position, with any strides
};

// Rows that a thread of a line down takes at a time, and taps of a filter that meet them.
constexpr int kLineRows = 4;
// Vectors of taps that a gradient of the weight has sums for: 16 taps in 2 bytes, of which at most
// 7 are lost to alignment, 12 in 4 bytes, 8 in 8 bytes.
constexpr int line_chunks(int64_t element_size) {
  return element_size == 2 ? 2 : element_size == 4 ? 3 : 4;
}
// Taps that a gradient down a line has sums for.
constexpr int kLineDownTaps = 2 * kLineRows;

// Positions, of taps and what dilation leaves between them: 8 KB of sums' operands in fp64.
constexpr int64_t kLinePositions = 1024;
// Bytes of shared memory for the filters of a block.
constexpr int64_t kLineSmem = 48 << 10;
// Up to so many taps a line is at least as fast as the kernels for large filters: its multiply-adds
// take 0.75 of the instructions, against 0.65 to 0.8 there, and each input is read K / 4 times from
// the first-level cache.
constexpr int64_t kLineTapsPreferred = 64;

// Elements of a thread along what is contiguous.
constexpr int line_lanes(LineKind kind, int64_t element_size) {
  return kind == LineKind::kDownScalar ? 1 : static_cast<int>(kPackBytes / element_size);
}
// The same for a gradient: 4 at most, for the sums of 8 taps to fit in registers.
constexpr int line_gradient_lanes(LineKind kind, int64_t element_size) {
  const int lanes = line_lanes(kind, element_size);
  return kind == LineKind::kRows || lanes <= 4 ? lanes : 4;
}

// One tensor of a problem along a line: image n, channel c, line m, place l, lane.
struct LineTensor {
  const void* data;
  int64_t n, c, m, l, lane;
};

// A problem as lines: `outer` of them in each image (and channel, unless the lanes are channels),
// each with `lanes` neighbours.
struct Lines {
  bool served;
  bool rows;           // the lines themselves are contiguous, or at least nothing else is
  bool channel_lanes;  // otherwise lanes are positions that share a channel
  int axis;
  int64_t outer, lanes;
  LineTensor big, small, extra;
};

namespace internal {

// Two axes as one, in every tensor.
struct Merged {
  bool ok;
  int64_t size;
  int64_t big, small, extra;  // strides
};

inline Merged merge_axes(const View& v, int outer, int inner) {
  const Axis* a = v.problem.axis;
  const auto one = [&](int i) {
    return Merged{true, a[i].in, v.big_strides.sp[i], v.small_strides.sp[i], v.extra_strides.sp[i]};
  };
  if (a[outer].in == 1) return one(inner);
  if (a[inner].in == 1) return one(outer);
  Merged m = one(inner);
  const auto follows = [&](const Strides5& s) { return s.sp[outer] == m.size * s.sp[inner]; };
  m.ok = follows(v.big_strides) && follows(v.small_strides) &&
         (v.pass != Pass::kBackward || follows(v.extra_strides));
  m.size *= a[outer].in;
  return m;
}

}  // namespace internal

inline Lines lines_of(const View& v) {
  const Problem& p = v.problem;
  Lines lines{};
  lines.axis = -1;
  for (int i = 0; i < kSpatial; ++i) {
    if (idle_axis(p.axis[i])) continue;
    if (lines.axis >= 0) return lines;
    lines.axis = i;
  }
  if (lines.axis < 0) lines.axis = 2;
  const int axis = lines.axis, first = axis == 0 ? 1 : 0, second = axis == 2 ? 1 : 2;
  if (p.multiplier != 1 || p.axis[axis].stride != 1) return lines;
  internal::Merged outer = internal::merge_axes(v, first, second);
  internal::Merged inner{true, 1, 0, 0, 0};
  bool behind = false;  // whether anything lies behind the axis
  for (int i = axis + 1; i < kSpatial; ++i) behind = behind || p.axis[i].in != 1;
  lines.channel_lanes = p.channels_last;
  lines.rows = !p.channels_last && !behind;
  if (!p.channels_last && behind) {
    inner = outer;
    outer = {true, 1, 0, 0, 0};
    if (axis == 1 || !inner.ok) {
      const auto one = [&](int i) {
        return internal::Merged{true, p.axis[i].in, v.big_strides.sp[i], v.small_strides.sp[i],
                                v.extra_strides.sp[i]};
      };
      inner = one(2);
      outer = one(1 - axis);
    }
  }
  if (!outer.ok) return lines;
  lines.served = true;
  lines.outer = outer.size;
  lines.lanes = p.channels_last ? p.channels : inner.size;
  const auto tensor = [&](const void* data, const Strides5& s, int64_t m, int64_t lane) {
    return p.channels_last ? LineTensor{data, s.n, 0, m, s.sp[axis], s.c}
                           : LineTensor{data, s.n, s.c, m, s.sp[axis], lane};
  };
  lines.big = tensor(v.big, v.big_strides, outer.big, inner.big);
  lines.small = tensor(v.small, v.small_strides, outer.small, inner.small);
  lines.extra = tensor(v.extra, v.extra_strides, outer.extra, inner.extra);
  return lines;
}

namespace internal {

// Whether one tensor's lanes can be accessed `vector` at a time.
inline bool lane_vectors(const View& v, const Lines& lines, const LineTensor& t, int64_t length,
                         int64_t vector) {
  const Problem& p = v.problem;
  return lines.lanes % vector == 0 && (lines.lanes <= 1 || t.lane == 1) &&
         (p.batch <= 1 || t.n % vector == 0) &&
         (lines.channel_lanes || p.channels <= 1 || t.c % vector == 0) &&
         (lines.outer <= 1 || t.m % vector == 0) && (length <= 1 || t.l % vector == 0) &&
         reinterpret_cast<uintptr_t>(t.data) % (vector * element_size(p.dtype)) == 0;
}

inline bool line_fits(const View& v, LineKind kind) {
  const Problem& p = v.problem;
  const Lines lines = lines_of(v);
  if (!lines.served || lines.rows != (kind == LineKind::kRows)) return false;
  const Axis& a = p.axis[lines.axis];
  const int64_t size = element_size(p.dtype);
  const bool weight = v.pass == Pass::kBackwardWeight || v.pass == Pass::kBackward;
  const int64_t vector = weight ? line_gradient_lanes(kind, size) : line_lanes(kind, size);
  // Lines are counted in ints, and so are the places on all lines of a channel; all elements are
  // not.
  const int64_t length = max_of(max_of(a.in, a.out), 1) + a.kernel * a.dilation;
  const int64_t lanes = lines.channel_lanes ? 1 : lines.lanes;
  const int64_t counted = lines.channel_lanes ? 1 : p.channels;
  constexpr int64_t kLimit = int64_t{1} << 30;
  if (p.batch * lines.outer * max_of(lanes * length, counted * a.dilation) >= kLimit) return false;
  if (kind == LineKind::kRows) {
    // The least alignment costs vector - 1 positions before the first tap.
    const int64_t positions = round_up((a.kernel - 1) * a.dilation + vector, vector);
    // A fused backward has one set of sums.
    return positions <= (v.pass == Pass::kBackward ? line_chunks(size) * vector : kLinePositions);
  }
  // Filters of four packs of lanes, or of four channels, wait in shared memory.
  const int64_t sum = size == 8 ? 8 : 4;
  if (a.kernel * line_lanes(kind, size) * sum > kLineSmem / 4) return false;
  if (v.pass == Pass::kBackward && a.kernel > kLineDownTaps) return false;
  if (kind == LineKind::kDownScalar) return true;
  return lane_vectors(v, lines, lines.big, a.in, vector) &&
         lane_vectors(v, lines, lines.small, a.out, vector) &&
         (v.pass != Pass::kBackward || lane_vectors(v, lines, lines.extra, a.in, vector));
}

}  // namespace internal

}  // namespace fastconv::depthwise_conv
