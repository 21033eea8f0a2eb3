// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernels' entry points: task ranges for a thread pool that the caller owns.
#pragma once

#include "common/isa.h"
#include "ops/depthwise_conv/correlation.h"
#include "ops/depthwise_conv/depthwise_conv.h"

namespace fastconv::depthwise_conv {

// Plans for one level: engines that need wide vectors are not chosen for the others.
Correlation make_forward(const Forward& p, Isa isa);
Correlation make_backward_data(const BackwardData& p, Isa isa);

// Backward-weight in two stages.  Stage one: each task adds up a group of units (a unit is
// `row_chunk` x `column_chunk` outputs of one image's plane) for a block of channels, into its own
// part of the workspace, (groups, out_channels, taps + 1), the last column being the bias.  Stage
// two adds the groups in order.  Groups depend on the problem alone.
struct WeightPlan : BackwardWeight {
  Engine engine;
  int64_t channel_block, row_chunk, column_chunk, units_per_group, groups;
  CorrelationAxis reads[kSpatial];  // how the forward reads x
  bool prefetch;                    // tensors far larger than a core's own caches

  constexpr int64_t row_chunks() const { return ceil_div(axis[1].out, row_chunk); }
  constexpr int64_t column_chunks() const { return ceil_div(axis[2].out, column_chunk); }
  constexpr int64_t units() const { return batch * axis[0].out * row_chunks() * column_chunks(); }
  constexpr int64_t tasks() const { return ceil_div(out_channels(), channel_block) * groups; }
  constexpr int64_t columns() const { return taps() + 1; }
  constexpr int64_t workspace_bytes() const {
    return groups * out_channels() * columns() * (dtype == Dtype::kFloat64 ? 8 : 4);
  }
  constexpr int64_t work() const {
    const int64_t pixels = min_of(row_chunk, axis[1].out) * min_of(column_chunk, axis[2].out);
    return 1 + units_per_group * pixels * min_of(channel_block, out_channels()) * (taps() + 8) / 32;
  }

  // One unit: image n, plane z, output rows [y0, y1), columns [x0, x1).
  struct Unit {
    int64_t n, z, y0, y1, x0, x1;
  };
  constexpr Unit unit(int64_t index) const {
    const int64_t column = index % column_chunks() * column_chunk;
    index /= column_chunks();
    const int64_t row = index % row_chunks() * row_chunk;
    index /= row_chunks();
    return {index / axis[0].out,
            index % axis[0].out,
            row,
            min_of(row + row_chunk, axis[1].out),
            column,
            min_of(column + column_chunk, axis[2].out)};
  }
};
WeightPlan make_backward_weight(const BackwardWeight& p, Isa isa);

// An activation in a pass of its own, over dense tensors that lie alike: y = activation(z), or
// y = gradient * activation'(z).  A result depends on its element alone.
struct Pointwise {
  static constexpr int64_t kChunk = 4096;  // elements of one task

  Dtype dtype;
  Activation activation;
  int64_t elements;
  const void* z;
  const void* gradient;  // may be null
  void* y;

  constexpr int64_t tasks() const { return ceil_div(elements, kChunk); }
};

// Per level: bytes of scratch a thread needs, and the work itself over tasks [begin, end).
FASTCONV_DECLARE_EVERY_ISA(int64_t, correlation_scratch, const Correlation&)
FASTCONV_DECLARE_EVERY_ISA(void, correlation_run, const Correlation&, int64_t, int64_t, void*)
FASTCONV_DECLARE_EVERY_ISA(int64_t, weight_scratch, const WeightPlan&)
FASTCONV_DECLARE_EVERY_ISA(void, weight_run, const WeightPlan&, int64_t, int64_t, void*)
FASTCONV_DECLARE_EVERY_ISA(void, pointwise_run, const Pointwise&, int64_t, int64_t)
// Stage two of the weight's gradient, over output channels [begin, end).
FASTCONV_DECLARE_EVERY_ISA(void, reduce_weight, const WeightPlan&, int64_t, int64_t)

}  // namespace fastconv::depthwise_conv
