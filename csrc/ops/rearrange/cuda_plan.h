// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Parameters of the CUDA kernels, worked out from a Copy: pure host code.
#pragma once

#include <cstdint>

#include "common/gpu.h"
#include "ops/rearrange/rearrange.h"
#include "ops/rearrange/tiles.h"

namespace fastconv::rearrange {

// Division by a number that the host knows: a multiplication for 32 bits (dividends below 2^31).
template <class Index>
struct Divisor {
  Index d = 1;
  __host__ __device__ __forceinline__ Index divide(Index n) const { return n / d; }
};
template <>
struct Divisor<uint32_t> {
  uint32_t d = 1, magic = 1, shift = 0;
  __host__ __device__ __forceinline__ uint32_t divide(uint32_t n) const {
    return (static_cast<uint32_t>(static_cast<uint64_t>(n) * magic >> 32) + n) >> shift;
  }
};

template <class Index>
Divisor<Index> make_divisor(int64_t d) {
  Divisor<Index> divisor;
  divisor.d = static_cast<Index>(d);
  if constexpr (sizeof(Index) == 4) {
    while (divisor.shift < 31 && (uint64_t{1} << divisor.shift) < static_cast<uint64_t>(d)) {
      ++divisor.shift;
    }
    const uint64_t power = uint64_t{1} << divisor.shift;
    divisor.magic = static_cast<uint32_t>(((power - static_cast<uint64_t>(d)) << 32) / d + 1);
  }
  return divisor;
}

// ---- kRuns and kRegisters: positions in the order of the output, innermost axis first ----

constexpr int kMaxPieces = 4;

template <class Index>
struct PackParams {
  const char* in;
  char* out;
  Index count;
  int rank;
  Divisor<Index> size[kMaxAxes];
  Index in_stride[kMaxAxes], out_stride[kMaxAxes];  // bytes
  Index piece[kMaxPieces];  // kRegisters: offsets of the rows, in the tensor where they are apart
};

struct PackPlan {
  Copy copy;        // the axes that positions run over; the pack is taken off
  int64_t bytes;    // of a pack
  int64_t run;      // kRuns: bytes that are contiguous in both tensors
  int element;      // kRegisters
  int pieces;       // kRegisters: 2 or 4; 0 for kRuns
  bool interleave;  // the pieces are apart in the input
  int64_t offset[kMaxPieces];
};

constexpr int64_t largest_power_of_two(int64_t multiple_of, int64_t at_most) {
  int64_t power = 1;
  while (2 * power <= at_most && multiple_of % (2 * power) == 0) power *= 2;
  return power;
}

// The widest access, up to `at_most`, that `stride` of every axis but `skip` keeps aligned.
inline int64_t aligned_bytes(const Copy& copy, const void* base, Stride stride, int skip,
                             int64_t at_most) {
  int64_t bits = static_cast<int64_t>(reinterpret_cast<uintptr_t>(base) & 15);
  for (int i = 0; i < copy.rank; ++i) {
    if (i != skip) bits |= copy.axis[i].*stride;
  }
  return largest_power_of_two(bits, at_most);
}

// `copy` is coalesced.
inline PackPlan plan_runs(const Copy& copy) {
  PackPlan plan{copy, 0, 0, 0, 0, false, {}};
  const int64_t run = take_run(plan.copy);
  int64_t bytes = largest_power_of_two(run, 16);
  bytes = aligned_bytes(plan.copy, copy.in, &Axis::in, -1, bytes);
  bytes = aligned_bytes(plan.copy, copy.out, &Axis::out, -1, bytes);
  plan.bytes = bytes;
  plan.run = run;
  if (run > bytes) plan.copy.axis[plan.copy.rank++] = {run / bytes, bytes, bytes};
  return plan;
}

inline void remove_axis(Copy& copy, int axis) {
  --copy.rank;
  for (int i = axis; i < copy.rank; ++i) copy.axis[i] = copy.axis[i + 1];
}

// The pieces of a pack lie along one or two axes, dense after `element` in the tensor where the
// pack is contiguous (`dense`), apart by `apart` in the other.  Then comes the axis of the lanes.
inline bool take_pieces(PackPlan& plan, Stride dense, Stride apart) {
  const int64_t element = plan.copy.element;
  int64_t count = 1;
  plan.offset[0] = 0;
  while (count < kMaxPieces) {
    int found = -1;
    for (int i = 0; i < plan.copy.rank; ++i) {
      const Axis& axis = plan.copy.axis[i];
      if (axis.*dense == count * element && axis.*apart != element) found = i;
    }
    if (found < 0) break;
    const Axis axis = plan.copy.axis[found];
    if (axis.size > kMaxPieces / count) return false;
    for (int64_t k = count; k < count * axis.size; ++k) {
      plan.offset[k] = plan.offset[k % count] + k / count * (axis.*apart);
    }
    count *= axis.size;
    remove_axis(plan.copy, found);
  }
  plan.pieces = static_cast<int>(count);
  return count == 2 || count == 4;
}

// `copy` is coalesced.  False where rows do not come in twos or fours of small elements.
inline bool plan_registers(const Copy& copy, bool interleave, PackPlan& plan) {
  plan = {copy, 0, 0, static_cast<int>(copy.element), 0, interleave, {}};
  const Stride dense = interleave ? &Axis::out : &Axis::in;
  const Stride apart = interleave ? &Axis::in : &Axis::out;
  if (!take_pieces(plan, dense, apart)) return false;
  const int64_t element = copy.element, pack = plan.pieces * element;
  if (pack > 16) return false;
  int lanes_axis = -1;
  for (int i = 0; i < plan.copy.rank; ++i) {
    const Axis& axis = plan.copy.axis[i];
    if (axis.*apart == element && axis.*dense == pack) lanes_axis = i;
  }
  if (lanes_axis < 0) return false;
  const void* dense_base = interleave ? copy.out : copy.in;
  const void* apart_base = interleave ? copy.in : copy.out;
  Axis& lanes = plan.copy.axis[lanes_axis];
  int64_t count = largest_power_of_two(lanes.size, 16 / pack);
  count = aligned_bytes(plan.copy, dense_base, dense, lanes_axis, count * pack) / pack;
  if (count == 0) return false;
  int64_t piece = aligned_bytes(plan.copy, apart_base, apart, lanes_axis, count * element);
  for (int k = 1; k < plan.pieces; ++k) piece = largest_power_of_two(plan.offset[k], piece);
  count = piece / element;
  if (count == 0) return false;
  plan.bytes = count * pack;
  lanes.size /= count;
  lanes.in *= count;
  lanes.out *= count;
  return true;
}

template <class Index>
PackParams<Index> pack_params(const PackPlan& plan) {
  PackParams<Index> p;
  p.in = static_cast<const char*>(plan.copy.in);
  p.out = static_cast<char*>(plan.copy.out);
  p.rank = 0;
  int64_t count = 1;
  for (int i = plan.copy.rank - 1; i >= 0; --i) {
    const Axis& axis = plan.copy.axis[i];
    if (axis.size == 1) continue;
    p.size[p.rank] = make_divisor<Index>(axis.size);
    p.in_stride[p.rank] = static_cast<Index>(axis.in);
    p.out_stride[p.rank] = static_cast<Index>(axis.out);
    ++p.rank;
    count *= axis.size;
  }
  p.count = static_cast<Index>(count);
  for (int k = 0; k < kMaxPieces; ++k) {
    p.piece[k] = static_cast<Index>(k < plan.pieces ? plan.offset[k] : 0);
  }
  return p;
}

// ---- kBox ----

template <class Index>
struct BoxParams {
  const char* in;
  char* out;
  int rank;  // axes innermost of the output first
  Index boxes;
  uint32_t box;                    // elements of a whole box
  Divisor<Index> along[kMaxAxes];  // boxes
  Index size[kMaxAxes], in_stride[kMaxAxes], out_stride[kMaxAxes];
  uint32_t extent[kMaxAxes];
  // Both orders in which a box is walked; places are positions in the walk of the output.
  Divisor<uint32_t> out_extent[kMaxAxes], in_extent[kMaxAxes];
  int in_axis[kMaxAxes];
  uint32_t in_place[kMaxAxes];
};

struct BoxPlan {
  Copy copy;
  int64_t extent[kMaxAxes], boxes, box;
};

constexpr int64_t kEnoughBoxes = 1024;  // to fill a large GPU

// `copy` is coalesced; `capacity` elements fit a block.
inline BoxPlan plan_boxes(const Copy& copy, int64_t capacity) {
  BoxPlan plan{copy, {}, 1, 1};
  const int rank = copy.rank;
  int in_order[kMaxAxes];
  for (int i = 0; i < rank; ++i) {
    int at = i;
    for (; at > 0 && copy.axis[in_order[at - 1]].in > copy.axis[i].in; --at) {
      in_order[at] = in_order[at - 1];
    }
    in_order[at] = i;
  }
  const auto count_boxes = [&] {
    plan.box = plan.boxes = 1;
    for (int i = 0; i < rank; ++i) {
      plan.box *= plan.extent[i];
      plan.boxes *= ceil_div(copy.axis[i].size, plan.extent[i]);
    }
  };
  // Both tensors in rows of at least `row` elements, as far as their contiguous axes go.
  for (int64_t row = copy.element <= 2 ? 64 : 32;; row /= 2) {
    for (int i = 0; i < rank; ++i) plan.extent[i] = 1;
    for (const bool out : {true, false}) {
      int64_t got = 1;
      for (int k = 0; k < rank && got < row; ++k) {
        const int i = out ? rank - 1 - k : in_order[k];
        const int64_t size = copy.axis[i].size;
        if (!out && copy.axis[i].in > got * copy.element) break;
        plan.extent[i] = min_of(size, max_of(plan.extent[i], ceil_div(row, got)));
        got *= plan.extent[i];
        if (plan.extent[i] < size) break;
      }
    }
    count_boxes();
    if (plan.box <= capacity) break;
  }
  for (int i = rank - 1; i >= 0; --i) {
    const int64_t size = copy.axis[i].size, most = capacity / (plan.box / plan.extent[i]);
    if (most <= plan.extent[i] || plan.boxes <= kEnoughBoxes) continue;
    const int64_t pieces = ceil_div(size, min_of(size, most));
    plan.extent[i] = ceil_div(size, pieces);
    count_boxes();
  }
  return plan;
}

template <class Index>
BoxParams<Index> box_params(const BoxPlan& plan) {
  const Copy& copy = plan.copy;
  BoxParams<Index> p;
  p.in = static_cast<const char*>(copy.in);
  p.out = static_cast<char*>(copy.out);
  p.rank = copy.rank;
  p.boxes = static_cast<Index>(plan.boxes);
  p.box = static_cast<uint32_t>(plan.box);
  uint32_t place[kMaxAxes];
  uint32_t places = 1;
  for (int k = 0; k < copy.rank; ++k) {
    const int i = copy.rank - 1 - k;
    const Axis& axis = copy.axis[i];
    p.along[k] = make_divisor<Index>(ceil_div(axis.size, plan.extent[i]));
    p.size[k] = static_cast<Index>(axis.size);
    p.in_stride[k] = static_cast<Index>(axis.in);
    p.out_stride[k] = static_cast<Index>(axis.out);
    p.extent[k] = static_cast<uint32_t>(plan.extent[i]);
    p.out_extent[k] = make_divisor<uint32_t>(plan.extent[i]);
    place[k] = places;
    places *= p.extent[k];
    int at = k;
    for (; at > 0 && p.in_stride[p.in_axis[at - 1]] > p.in_stride[k]; --at) {
      p.in_axis[at] = p.in_axis[at - 1];
    }
    p.in_axis[at] = k;
  }
  for (int k = 0; k < copy.rank; ++k) {
    p.in_extent[k] = p.out_extent[p.in_axis[k]];
    p.in_place[k] = place[p.in_axis[k]];
  }
  return p;
}

// Whether every byte offset and every count fits into 31 bits.
inline bool fits_32_bits(const Copy& copy) {
  int64_t in = copy.element, out = copy.element;
  for (int i = 0; i < copy.rank; ++i) {
    in += (copy.axis[i].size - 1) * copy.axis[i].in;
    out += (copy.axis[i].size - 1) * copy.axis[i].out;
  }
  constexpr int64_t kLimit = int64_t{1} << 31;
  return in < kLimit && out < kLimit;
}

}  // namespace fastconv::rearrange
