// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// From a problem to the parameters and grid of the line kernels' gradients of the weight.
#include "common/gpu.h"
#include "ops/depthwise_conv/dispatch.cuh"
#include "ops/depthwise_conv/line_plan.cuh"

namespace fastconv::depthwise_conv {
namespace {

// Blocks: eight to a multiprocessor of the largest chips, twice.
constexpr int64_t kLineGradientBlocks = 2048;

// Splits of the work of `columns` blocks among more of them, each with two turns of work at least.
int64_t splits_of(int64_t columns, int64_t units, int64_t block_units, int64_t split_bytes) {
  int64_t splits =
      min_of(ceil_div(kLineGradientBlocks, max_of(columns, 1)), ceil_div(units, 2 * block_units));
  splits = min_of(splits, min_of(kMaxSplits, kMaxWorkspace / split_bytes));
  return max_of(splits, 1);
}

void plan_rows(const View& v, const Lines& lines, LinePlan& plan) {
  const Problem& p = v.problem;
  const Axis& a = p.axis[lines.axis];
  const int64_t size = element_size(p.dtype), vector = line_lanes(LineKind::kRows, size);
  LineRowsGradient& g = plan.rows_gradient;
  g.with_input = v.pass == Pass::kBackward;
  const LineTensor& anchor = g.with_input ? lines.extra : lines.big;
  g.x_strides = line_strides(lines.big);
  g.dy_strides = line_strides(lines.small);
  g.dx_strides = line_strides(lines.extra);
  g.filter = line_filter(a, true);
  g.in_size = static_cast<int>(a.in);
  g.out_size = static_cast<int>(a.out);
  const LineShift own = line_shift(v, lines, lines.big, anchor, 0, vector);
  const LineShift window = line_shift(v, lines, lines.small, anchor, g.filter.pad, vector);
  g.x_vectors = own.aligned && own.first == 0;
  g.dy_vectors = window.aligned;
  g.first = static_cast<int>(window.first);
  g.shift = g.filter.pad + g.first;
  g.channels = static_cast<int>(p.channels);
  const int64_t positions = g.first + (a.kernel - 1) * a.dilation + 1;
  g.groups = static_cast<int>(ceil_div(positions, line_chunks(size) * vector));

  // Own vectors, of which the first of each window together meet every element of dy once: the
  // bias.
  const int64_t head = all_aligned(v, lines, anchor, vector) ? 0 : vector - 1;
  const int64_t begin = min_of(0, floor_div(g.shift, vector));
  const int64_t end =
      max_of(ceil_div(a.in + head, vector), ceil_div(a.out + g.shift + head, vector));
  const int64_t vectors = max_of(end - begin, 1);
  g.first_vector = static_cast<int>(begin);
  g.units = static_cast<int>(p.batch * lines.outer * vectors);
  plan.threads = static_cast<int>(min_of(kLineThreads, round_up(max_of(g.units, 1), 32)));
  const int64_t split_bytes = (a.kernel + 1) * p.channels * max_of(size, 4);
  g.splits = static_cast<int>(splits_of(p.channels * g.groups, g.units, plan.threads, split_bytes));
  plan.grid = p.channels * g.groups * g.splits;
  plan.workspace = g.splits * split_bytes;
  g.by_vectors = divider(vectors);
  g.by_outer = divider(lines.outer);
  g.by_groups = divider(g.groups);
  g.by_channels = divider(p.channels);
}

void plan_down(const View& v, const Lines& lines, LineKind kind, LinePlan& plan) {
  const Problem& p = v.problem;
  const Axis& a = p.axis[lines.axis];
  const int64_t size = element_size(p.dtype), lanes = line_gradient_lanes(kind, size);
  LineDownGradient& g = plan.down_gradient;
  g.with_input = v.pass == Pass::kBackward;
  g.x_strides = line_strides(lines.big);
  g.dy_strides = line_strides(lines.small);
  g.dx_strides = line_strides(lines.extra);
  g.filter = line_filter(a, true);
  g.in_size = static_cast<int>(a.in);
  g.out_size = static_cast<int>(a.out);
  g.channel_lanes = lines.channel_lanes;
  g.channels = static_cast<int>(p.channels);
  g.groups = static_cast<int>(ceil_div(a.kernel, kLineDownTaps));

  // Rows of x, of which each meets the row of dy `pad` before it once: the bias.
  const int64_t phases = a.dilation, pad = g.filter.pad;
  g.first_row = static_cast<int>(min_of(0, floor_div(pad, phases)));
  g.end_row = static_cast<int>(max_of(ceil_div(a.in, phases), ceil_div(a.out + pad, phases)));
  const int64_t rows = max_of(g.end_row - g.first_row, 0);
  const int64_t packs = lines.lanes / lanes;
  int64_t columns = p.channels, unit_packs = packs, block_units = kLineThreads;
  if (g.channel_lanes) {
    g.block_fast = static_cast<int>(ceil_div(packs, ceil_div(packs, 16)));
    g.block_slots = kLineThreads / g.block_fast;
    columns = ceil_div(packs, g.block_fast);
    unit_packs = 1;
    block_units = g.block_slots;
    plan.threads = g.block_fast * g.block_slots;
  } else {
    g.block_fast = g.block_slots = 1;
    plan.threads = kLineThreads;
  }
  const int64_t lines_each = p.batch * lines.outer * phases * unit_packs;
  const int64_t wanted =
      ceil_div(kLineGradientBlocks * block_units, max_of(1, lines_each * columns * g.groups));
  g.segment_rows = static_cast<int>(line_segment(rows, wanted, a.kernel));
  const int64_t segments = ceil_div(rows, g.segment_rows);
  g.units = static_cast<int>(lines_each * segments);
  const int64_t sum = max_of(size, 4), split_bytes = (a.kernel + 1) * p.channels * sum;
  g.splits = static_cast<int>(splits_of(columns * g.groups, g.units, block_units, split_bytes));
  plan.grid = columns * g.groups * g.splits;
  plan.workspace = g.splits * split_bytes;
  const int64_t width = g.channel_lanes ? g.block_fast * lanes : 1;
  const int64_t sum_rows = g.channel_lanes ? g.block_slots : kLineThreads / 32;
  const int64_t filters =
      g.with_input ? a.kernel * lanes * (g.channel_lanes ? g.block_fast : 1) : 0;
  plan.smem = max_of(filters, sum_rows * (kLineDownTaps + 1) * width) * sum;
  g.by_block_fast = divider(g.block_fast);
  g.by_packs = divider(unit_packs);
  g.by_segments = divider(segments);
  g.by_outer = divider(lines.outer);
  g.by_groups = divider(g.groups);
  g.by_columns = divider(columns);
}

void plan_line_gradient(const View& v, int tile, LinePlan& plan) {
  const Lines lines = lines_of(v);
  plan.tile = tile;
  if (lines.rows) {
    plan.rows_gradient = {};
    plan_rows(v, lines, plan);
  } else {
    plan.down_gradient = {};
    plan_down(v, lines, kTiles[tile].line, plan);
  }
}

}  // namespace

int64_t line_workspace(const View& v, int tile) {
  LinePlan plan;
  plan_line_gradient(v, tile, plan);
  return plan.workspace;
}

cudaError_t line_gradient(const Backward& p, const View& v, int tile, cudaStream_t stream) {
  LinePlan plan;
  plan_line_gradient(v, tile, plan);
  const auto fill = [&](auto& g) {
    g.x = p.x;
    g.dy = p.dy;
    g.weight = p.weight;
    g.dx = p.dx;
    g.partial = p.workspace;
    g.with_bias = p.db != nullptr;
    return int64_t{g.splits};
  };
  const int64_t count = lines_of(v).rows ? fill(plan.rows_gradient) : fill(plan.down_gradient);
  const Splits splits{p.channels, p.taps(), count, p.workspace, p.dw, p.db};
  return run_both_stages(p.dtype, splits, stream, [&](auto zero) {
    return launch_line_gradient<decltype(zero)>(plan, stream);
  });
}

}  // namespace fastconv::depthwise_conv
