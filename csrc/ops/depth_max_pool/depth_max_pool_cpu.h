// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernels of depth max pooling.  A task is a piece of one inner run of y (dx in backward);
// tasks are independent, and torch.cpp spreads them over threads.
#pragma once

#include "common/isa.h"
#include "ops/depth_max_pool/depth_max_pool.h"

namespace fastconv::depth_max_pool {

// Elements of a run in one task: a multiple of every vector block of the kernels, forward (outputs)
// and backward (inputs, counted in strides).
constexpr int64_t kRunPiece = 4096;

constexpr int64_t pieces_of(int64_t run) { return ceil_div(run, kRunPiece); }
constexpr int64_t forward_pieces(const Forward& p) { return pieces_of(p.axis[p.inner].out); }

// Windows over several axes, one axis after the other: see cpu_stages-inl.h.
struct Stages {
  int axis[kAxes];        // in the order of memory, outermost first: rows are [2], columns [3]
  int64_t rows, columns;  // outputs of a task
  int64_t input_rows, input_columns;
  int64_t taps;     // on the outer axes
  int64_t padding;  // what windows reach beyond `columns` strides

  // Vectors may read and write so much beyond.
  static constexpr int64_t kOver = 64;
  static constexpr int64_t kMostKernel = 16;

  // The maxima of input rows over the outer axes; those of one row over rows, with padding; and of
  // those, where outputs are several apart, all that neighbour one another.
  constexpr int64_t merged_elements() const { return input_rows * input_columns + 2 * kOver; }
  constexpr int64_t line_elements() const { return padding + kOver; }
  constexpr int64_t elements() const {
    return round_up(merged_elements() + 2 * line_elements(), kOver);
  }
};

// Of an element there, with its winner if that is wanted.
constexpr int64_t maximum_bytes(const Forward& p) {
  const int64_t value = p.dtype == Dtype::kFloat64 ? 8 : 4;
  return p.index_type == IndexType::kNone ? element_size(p.dtype) : 2 * value;
}

constexpr bool in_stages(const Forward& p) {
  int axes = 0;
  for (const Axis& a : p.axis) {
    if (a.dilation > 1 || a.stride > a.kernel || a.kernel > Stages::kMostKernel) return false;
    axes += a.kernel > 1 ? 1 : 0;
  }
  return axes > 1 && p.x_strides.axis[p.inner] == 1 && p.index_type != IndexType::kInt64;
}

// (Static: too long to be inlined, it would be a weak symbol in the code of every level.)
static constexpr Stages stages_of(const Forward& p) {
  constexpr int64_t kMergedBytes = 24 << 10, kTasks = 32, kOver = Stages::kOver;  // stay in L1
  const int first = p.inner == 0 ? 1 : 0;
  Stages s{{first, first + 1, first + 2, p.inner}, 0, 0, 0, 0, 0, 0};
  const Axis &row = p.axis[s.axis[2]], &column = p.axis[p.inner];
  const auto reads = [](const Axis& a, int64_t outputs) {
    return min_of(a.in, (outputs - 1) * a.stride + a.kernel);
  };
  const int64_t elements = kMergedBytes / maximum_bytes(p);
  s.columns = column.out;
  s.input_columns = column.in;
  if (reads(row, 1) * column.in > elements) {
    const int64_t fitting = (elements / reads(row, 1) - column.kernel) / column.stride;
    s.columns = min_of(column.out, max_of(kOver, fitting / kOver * kOver));
    s.input_columns = s.columns < column.out ? reads(column, s.columns) : column.in;
  }
  const int64_t fitting = (elements / s.input_columns - row.kernel) / row.stride + 1;
  const int64_t others = p.out_elements() / row.out / column.out;
  const int64_t spread = ceil_div(row.out * others, kTasks);
  const int64_t rows = max_of(1, min_of(row.out, min_of(fitting, spread)));
  s.rows = ceil_div(row.out, ceil_div(row.out, rows));
  s.input_rows = reads(row, s.rows);
  s.taps = p.axis[s.axis[0]].kernel * p.axis[s.axis[1]].kernel;
  s.padding = (s.columns + kOver) * column.stride + column.kernel;
  return s;
}
constexpr int64_t stages_bytes(const Forward& p) {
  const Stages s = stages_of(p);
  return s.taps * 16 + maximum_bytes(p) * s.elements();
}
constexpr int64_t forward_tasks(const Forward& p) {
  if (!in_stages(p)) return p.out_elements() / p.axis[p.inner].out * forward_pieces(p);
  const Stages s = stages_of(p);
  const Axis &row = p.axis[s.axis[2]], &column = p.axis[p.inner];
  return p.out_elements() / row.out / column.out * ceil_div(row.out, s.rows) *
         ceil_div(column.out, s.columns);
}
// Nanoseconds, roughly.
constexpr int64_t forward_work(const Forward& p) {
  if (!in_stages(p)) return p.out_elements() * p.taps() / 4;
  return p.in_elements() / 8 + p.out_elements() / p.axis[p.inner].out * 10;
}

constexpr int64_t gather_pieces(const Backward& p) {
  return pieces_of(ceil_div(p.axis[p.inner].in, p.axis[p.inner].stride));
}

// The backward pass has three ways:
// - expand: windows that share no input write to all of theirs; for runs of a vector or more;
// - scatter: every window adds to its winner;
// - gather: vectors of inputs look at every window that covers them; for few taps and long runs.
enum class BackwardWay : uint8_t { kExpand, kScatter, kGather };

// To scatter, dx is cut into slabs that are contiguous in memory; a task owns one and visits all
// windows that reach into it, so that what an element sums up, and in which order, is fixed.
struct Slabs {
  int axis;        // the outermost in memory that has more than one coordinate
  int64_t length;  // coordinates of it per slab
  int64_t plane;   // elements per coordinate
  int64_t count;   // slabs per image
};

constexpr Slabs slabs_of(const Backward& p) {
  // Stays in L2.  Windows that reach into two slabs are visited twice: thin ones may take more.
  constexpr int64_t kElements = 32 << 10, kMostElements = 128 << 10, kSteps = 4;
  const int first = p.inner == 0 ? 1 : 0;
  int axis = first;
  while (axis < first + 3 && p.axis[axis % kAxes].in == 1) ++axis;
  axis %= kAxes;
  const Axis& a = p.axis[axis];
  const int64_t plane = p.in_elements() / p.batch / a.in;
  const int64_t thick = min_of(kSteps * a.stride, kMostElements / plane);
  const int64_t length =
      min_of(a.in, round_up(max_of(1, max_of(kElements / plane, thick)), a.stride));
  return {axis, length, plane, ceil_div(a.in, length)};
}

// Whether no input lies in two windows.
constexpr bool is_disjoint(const Problem& p) {
  for (const Axis& a : p.axis) {
    if (a.out > 1 && (a.kernel - 1) * a.dilation >= a.stride) return false;
  }
  return true;
}

// 16-bit types sum up overlapping windows in an fp32 slab.
constexpr bool needs_sum_slab(const Backward& p) {
  return element_size(p.dtype) == 2 && !is_disjoint(p);
}

// `lanes` of fp32 in a vector.  The costs are nanoseconds, roughly; only their ratio matters.
constexpr bool should_scatter(const Backward& p, int lanes) {
  double windows = 1, outputs = 1, inputs = 1;  // rows of windows per row of inputs; per image
  for (int i = 0; i < kAxes; ++i) {
    const Axis& a = p.axis[i];
    // Dilation beyond the input leaves windows without elements, whose winner is nowhere.
    if (a.kernel > 1 && a.dilation > a.in) return false;
    if (i != p.inner) windows *= static_cast<double>(a.kernel) / static_cast<double>(a.stride);
    outputs *= static_cast<double>(a.out);
    inputs *= static_cast<double>(a.in);
  }
  const Slabs slabs = slabs_of(p);
  if (needs_sum_slab(p) && slabs.length * slabs.plane > (int64_t{1} << 20)) return false;
  const Axis& inner = p.axis[p.inner];
  const bool wide = p.index_type != IndexType::kUint8;
  const bool shuffled = inner.stride == 1 || inner.stride == 2 || inner.stride == 4;
  const double blocks = static_cast<double>(ceil_div(ceil_div(inner.in, inner.stride), lanes));
  const double tap = (wide ? 6.0 : 1.0) * (blocks < 4 ? 2.0 : 1.0);
  const double phases = static_cast<double>(inner.stride) * (shuffled ? 1.0 : 8.0);
  const double row =
      25 + 8 * windows + blocks * (windows * static_cast<double>(inner.kernel) * tap + phases);
  const double scatter = outputs * (wide ? 2.0 : 1.2) + inputs * 0.1;
  return scatter < inputs / static_cast<double>(inner.in) * row;
}

constexpr bool can_expand(const Backward& p, int lanes) {
  const Axis& a = p.axis[p.inner];
  const bool tiles = a.kernel == a.stride && a.dilation == 1 && a.pad == 0 &&
                     (a.kernel == 2 || a.kernel == 4) && a.in >= a.out * a.stride;
  return p.index_type == IndexType::kUint8 && is_disjoint(p) && p.taps() <= 64 &&
         (a.is_plain() || tiles) && a.out >= lanes;
}

constexpr BackwardWay backward_way(const Backward& p, int lanes) {
  if (can_expand(p, lanes)) return BackwardWay::kExpand;
  return should_scatter(p, lanes) ? BackwardWay::kScatter : BackwardWay::kGather;
}

// Whether expanding writes all of dx: the rest would have to be cleared before.
constexpr bool covers_input(const Backward& p) {
  for (const Axis& a : p.axis) {
    if (!a.is_plain() &&
        (a.kernel != a.stride || a.dilation != 1 || a.out * a.stride - a.pad < a.in)) {
      return false;
    }
  }
  return true;
}

// What a thread needs beside the tensors: a list of the taps, or windows, of the outer axes, or
// what is staged; to scatter, the place of every tap and perhaps a slab of sums.
constexpr int64_t list_bytes(const Problem& p) { return p.taps() / p.axis[p.inner].kernel * 32; }
constexpr int64_t forward_bytes(const Forward& p) {
  return in_stages(p) ? stages_bytes(p) : list_bytes(p);
}
constexpr int64_t scatter_bytes(const Backward& p) {
  const Slabs slabs = slabs_of(p);
  const int64_t places = p.index_type == IndexType::kInt64 ? 0 : round_up(p.taps() * 8, 64);
  return places + (needs_sum_slab(p) ? slabs.length * slabs.plane * 4 : 0);
}
constexpr int64_t backward_bytes(const Backward& p, BackwardWay way) {
  return way == BackwardWay::kScatter ? scatter_bytes(p) : list_bytes(p);
}
constexpr int64_t backward_tasks(const Backward& p, BackwardWay way) {
  switch (way) {
    case BackwardWay::kExpand:
      return p.out_elements() / p.axis[p.inner].out * pieces_of(p.axis[p.inner].out);
    case BackwardWay::kScatter:
      return p.batch * slabs_of(p).count;
    default:
      return p.in_elements() / p.axis[p.inner].in * gather_pieces(p);
  }
}

FASTCONV_DECLARE_ISA(void, forward, const Forward& p, void* scratch, int64_t begin, int64_t end)
FASTCONV_DECLARE_ISA(void, expand, const Backward& p, void* scratch, int64_t begin, int64_t end)
FASTCONV_DECLARE_ISA(void, scatter, const Backward& p, void* scratch, int64_t begin, int64_t end)
FASTCONV_DECLARE_ISA(void, gather, const Backward& p, void* scratch, int64_t begin, int64_t end)
FASTCONV_DECLARE_ISA(int, lanes)  // of fp32 in a vector

}  // namespace fastconv::depth_max_pool
