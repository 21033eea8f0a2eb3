// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The variants of the kernels that walk down the rows (walk.cuh), and what they fit.  Pure host
// code.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "ops/depthwise_conv/view.h"

namespace fastconv::depthwise_conv {

// What a thread of a walk owns.
enum class WalkKind : uint8_t {
  kNone,        // no walk
  kScalar,      // one channel, any layout
  kChannels,    // channels_last: as many channels as registers hold filters for
  kChannels16,  // channels_last: 16 bytes of channels
  kColumns4,    // contiguous rows: 4 inputs in a row
  kColumns8,    // contiguous rows: 8 inputs in a row
};

constexpr bool in_columns(WalkKind kind) {
  return kind == WalkKind::kColumns4 || kind == WalkKind::kColumns8;
}

// Threads that keep the largest chips busy: 132 multiprocessors times 512.
constexpr int64_t kWalkThreadsEnough = int64_t{1} << 16;

// Channels per thread; 0: not compiled.  A filter of 3x3 leaves registers for 4 fp32 channels, the
// larger ones for 2.
constexpr int walk_lanes(WalkKind kind, int64_t element_size, int64_t kernel) {
  if (kind == WalkKind::kChannels) {
    const int lanes = (kernel == 3 ? 4 : 2) / (element_size == 8 ? 2 : 1);
    return lanes > 1 ? lanes : 0;
  }
  if (kind == WalkKind::kChannels16) return kernel == 3 && element_size == 2 ? 8 : 0;
  if (in_columns(kind)) return element_size == 8 ? 0 : 1;
  return 1;
}

// Whether the gradient of the weight is compiled: registers do not hold 49 sums in fp64 and what
// goes with them.
constexpr bool walks_for_weight(int64_t element_size, int64_t kernel) {
  return element_size < 8 || kernel < 7;
}

// Channels per thread of the kernel for both gradients at once; 0: not compiled (see
// walk_backward.cuh).  5x5 issues about 95 instructions per output, 3.5 ps of an H100: less than
// the 5.3 that two passes take to move fp32, but not less than two walks' 3.3 in 16 bits.
constexpr int walk_backward_lanes(WalkKind kind, int64_t element_size, int64_t kernel) {
  const bool fits = kernel == 3 || (kernel == 5 && element_size == 4);
  if (!fits) return 0;
  if (kind == WalkKind::kChannels) return kernel == 3 && element_size < 8 ? 2 : 0;
  if (kind == WalkKind::kColumns4) return element_size < 8 ? 1 : 0;
  return kind == WalkKind::kScalar ? 1 : 0;
}

// Channels per thread of the kernel for 3x3x3; 0: not compiled (see walk_planes.cuh).
constexpr int walk_planes_lanes(WalkKind kind, int64_t element_size) {
  if (kind == WalkKind::kChannels) return element_size < 8 ? 2 : 0;
  if (kind == WalkKind::kColumns4) return element_size < 8 ? 1 : 0;
  return kind == WalkKind::kScalar ? 1 : 0;
}

// Groups of outputs in a thread's strip (a group: the `up` outputs between neighbouring inputs of a
// gradient); 0: not compiled.
constexpr int walk_outputs(WalkKind kind, int64_t down, int64_t up) {
  const bool plain = down == 1 && up == 1;
  switch (kind) {
    case WalkKind::kScalar:
      return up == 1 ? 4 : 2;
    case WalkKind::kChannels:
      return plain ? 4 : 2;
    case WalkKind::kChannels16:
      return plain ? 2 : 0;
    case WalkKind::kColumns4:
      return 4;
    case WalkKind::kColumns8:
      return plain ? 8 : 0;
    default:
      return 0;
  }
}

// Elements of one access to a run of so many.
constexpr int walk_vector(int run, int64_t element_size) {
  return static_cast<int>(min_of(run, kPackBytes / element_size));
}

// The strides of a pass: inputs per group of outputs, and outputs per group.
constexpr int walk_down(const View& v) {
  return v.pass == Pass::kBackwardData ? 1 : static_cast<int>(v.problem.axis[2].stride);
}
constexpr int walk_up(const View& v) {
  return v.pass == Pass::kBackwardData ? static_cast<int>(v.problem.axis[2].stride) : 1;
}

namespace internal {

// Whether a tensor can be accessed `vector` elements at a time along W or, with channels_last, C.
inline bool vectors(const Problem& p, const void* data, const Strides5& strides, bool over_out,
                    int64_t vector) {
  const int64_t width = over_out ? p.axis[2].out : p.axis[2].in;
  const int64_t height = over_out ? p.axis[1].out : p.axis[1].in;
  const bool inner = p.channels_last
                         ? p.channels % vector == 0 && (width <= 1 || strides.sp[2] % vector == 0)
                         : width % vector == 0 && strides.sp[2] == 1 &&
                               (p.channels <= 1 || strides.c % vector == 0);
  return inner && (height <= 1 || strides.sp[1] % vector == 0) &&
         (p.axis[0].in <= 1 || strides.sp[0] % vector == 0) &&
         (p.batch <= 1 || strides.n % vector == 0) &&
         reinterpret_cast<uintptr_t>(data) % (vector * element_size(p.dtype)) == 0;
}

// Whether planes meet their neighbours: a filter of 3x3x3 at stride 1.
constexpr bool meets_planes(const Problem& p) {
  const Axis &d = p.axis[0], &h = p.axis[1], &w = p.axis[2];
  return d.kernel == 3 && d.stride == 1 && d.dilation == 1 && d.pad == 1 && d.in == d.out &&
         h.kernel == 3 && w.kernel == 3 && w.stride == 1;
}

// A dense square filter over planes, each by itself or with its neighbours, within the sizes that
// 32-bit positions serve.
inline bool walks(const View& v) {
  const Problem& p = v.problem;
  const Axis &d = p.axis[0], &h = p.axis[1], &w = p.axis[2];
  return p.multiplier == 1 && (idle_axis(d) || meets_planes(p)) && h.kernel == w.kernel &&
         (w.kernel == 3 || w.kernel == 5 || w.kernel == 7) && h.dilation == 1 && w.dilation == 1 &&
         h.stride == w.stride && w.stride <= 2 &&
         p.channels < (int64_t{1} << 30) / max_of(p.batch * d.in * max_of(w.in, w.out), 1);
}

// Both gradients at once, of tensors of one size.
inline bool walk_backward_fits(const View& v, WalkKind kind) {
  const Problem& p = v.problem;
  const Axis &h = p.axis[1], &w = p.axis[2];
  const int64_t size = element_size(p.dtype), half = (w.kernel - 1) / 2;
  const int64_t lanes = walk_backward_lanes(kind, size, w.kernel);
  if (lanes == 0 || w.stride != 1 || meets_planes(p) || h.pad != half || w.pad != half ||
      h.in != h.out || w.in != w.out) {
    return false;
  }
  if (kind == WalkKind::kScalar) return true;
  if (in_columns(kind) == p.channels_last) return false;
  const int64_t vector = in_columns(kind) ? walk_vector(walk_outputs(kind, 1, 1), size) : lanes;
  return vectors(p, v.big, v.big_strides, false, vector) &&
         vectors(p, v.small, v.small_strides, true, vector) &&
         vectors(p, v.extra, v.extra_strides, false, vector);
}

inline bool walk_fits(const View& v, WalkKind kind) {
  const Problem& p = v.problem;
  if (!walks(v)) return false;
  if (v.pass == Pass::kBackward) return walk_backward_fits(v, kind);
  const Axis& w = p.axis[2];
  const int64_t size = element_size(p.dtype);
  const int down = walk_down(v), up = walk_up(v);
  const bool planes = meets_planes(p) && v.pass != Pass::kBackwardWeight;
  const int lanes = planes ? walk_planes_lanes(kind, size) : walk_lanes(kind, size, w.kernel);
  const int outputs = walk_outputs(kind, down, up);
  if (lanes == 0 || outputs == 0) return false;
  if (v.pass == Pass::kBackwardWeight && !walks_for_weight(size, w.kernel)) return false;
  if (kind == WalkKind::kScalar) return true;
  if (in_columns(kind) == p.channels_last) return false;
  if (!in_columns(kind)) {
    return vectors(p, v.big, v.big_strides, false, lanes) &&
           vectors(p, v.small, v.small_strides, true, lanes);
  }
  const int64_t read = walk_vector(outputs * down, size), write = walk_vector(outputs * up, size);
  const bool backward = v.pass == Pass::kBackwardData;
  return w.pad == (w.kernel - 1) / 2 &&
         vectors(p, v.big, v.big_strides, false, backward ? write : read) &&
         vectors(p, v.small, v.small_strides, true, backward ? read : write);
}

}  // namespace internal

}  // namespace fastconv::depthwise_conv
