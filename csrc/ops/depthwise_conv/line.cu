// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// From a problem to the parameters and grid of the line kernels' forward and gradient of the input.
#include "common/gpu.h"
#include "ops/depthwise_conv/dispatch.cuh"
#include "ops/depthwise_conv/line_plan.cuh"

namespace fastconv::depthwise_conv {
namespace {

// Threads that keep the largest chips busy: 132 multiprocessors times 1024, twice.
constexpr int64_t kLineThreadsWanted = int64_t{1} << 18;

// Threads of a block along `fast`: the even share of what is not above the limit.
int64_t even_share(int64_t fast, int64_t limit) {
  return ceil_div(max_of(fast, 1), ceil_div(max_of(fast, 1), limit));
}

void plan_rows(const View& v, const Lines& lines, LinePlan& plan) {
  const Problem& p = v.problem;
  const bool backward = v.pass == Pass::kBackwardData;
  const Axis& a = p.axis[lines.axis];
  const LineTensor &in = backward ? lines.small : lines.big,
                   &out = backward ? lines.big : lines.small;
  const int64_t size = element_size(p.dtype), vector = line_lanes(LineKind::kRows, size);
  LineRows& g = plan.rows;
  g.in_strides = line_strides(in);
  g.out_strides = line_strides(out);
  g.filter = line_filter(a, backward);
  g.in_size = static_cast<int>(backward ? a.out : a.in);
  g.out_size = static_cast<int>(backward ? a.in : a.out);
  const LineShift shift = line_shift(v, lines, in, out, g.filter.pad, vector);
  g.vectors = shift.aligned;
  g.first = static_cast<int>(shift.first);
  g.shift = g.filter.pad + g.first;
  g.chunks = static_cast<int>(ceil_div(g.first + (a.kernel - 1) * a.dilation + 1, vector));
  g.rows = static_cast<int>(p.batch * p.channels * lines.outer);
  g.row_vectors = static_cast<int>(line_vectors(v, lines, out, g.out_size, vector));

  const int64_t positions = g.chunks * vector, sum = p.dtype == Dtype::kFloat64 ? 8 : 4;
  const int64_t most = max_of(1, kLineSmem / 2 / (positions * sum));
  g.block_fast = static_cast<int>(even_share(g.row_vectors, kLineThreads));
  g.block_slots = static_cast<int>(min_of(min_of(kLineThreads / g.block_fast, most), g.rows));
  plan.threads = g.block_fast * g.block_slots;
  plan.smem = round_up(g.block_slots * positions * sum, 16) + g.chunks * 4;
  // Up to eight vectors of outputs a thread share the filters of a block.
  const int64_t turns = max_of(1, min_of(8, int64_t{g.rows} * g.row_vectors / kLineThreadsWanted));
  g.segment_vectors = static_cast<int>(g.block_fast * turns);
  const int64_t segments = ceil_div(g.row_vectors, g.segment_vectors);
  plan.grid = segments * ceil_div(g.rows, g.block_slots);
  g.by_block_fast = divider(g.block_fast);
  g.by_segments = divider(segments);
  g.by_outer = divider(lines.outer);
  g.by_channels = divider(p.channels);
  g.by_positions = divider(positions);
}

void plan_down(const View& v, const Lines& lines, LineKind kind, LinePlan& plan) {
  const Problem& p = v.problem;
  const bool backward = v.pass == Pass::kBackwardData;
  const Axis& a = p.axis[lines.axis];
  const int64_t lanes = line_lanes(kind, element_size(p.dtype));
  LineDown& g = plan.down;
  g.in_strides = line_strides(backward ? lines.small : lines.big);
  g.out_strides = line_strides(backward ? lines.big : lines.small);
  g.filter = line_filter(a, backward);
  g.in_size = static_cast<int>(backward ? a.out : a.in);
  g.out_size = static_cast<int>(backward ? a.in : a.out);
  g.channel_lanes = lines.channel_lanes;
  g.channels = static_cast<int>(p.channels);
  const int64_t channels = lines.channel_lanes ? 1 : p.channels;
  g.fast = static_cast<int>(lines.lanes / lanes);
  g.slots = static_cast<int>(p.batch * channels * lines.outer * a.dilation);

  const int64_t column_bytes = a.kernel * lanes * (p.dtype == Dtype::kFloat64 ? 8 : 4);
  const int64_t most = max_of(1, kLineSmem / column_bytes);
  // A warp's accesses are whole; more packs would only mean more filters for each block.
  g.block_fast = static_cast<int>(even_share(g.fast, g.channel_lanes ? min_of(32, most) : 32));
  const int64_t slots = min_of(kLineThreads / g.block_fast, max_of(g.slots, 1));
  g.block_slots = static_cast<int>(g.channel_lanes ? slots : min_of(slots, most));
  plan.threads = g.block_fast * g.block_slots;
  plan.smem = column_bytes * (g.channel_lanes ? g.block_fast : g.block_slots);
  const int64_t rows = ceil_div(g.out_size, a.dilation);
  const int64_t wanted = ceil_div(kLineThreadsWanted, max_of(1, int64_t{g.fast} * g.slots));
  g.segment_rows = static_cast<int>(line_segment(rows, wanted, a.kernel));
  const int64_t segments = max_of(1, ceil_div(rows, g.segment_rows));
  const int64_t chunks = ceil_div(g.fast, g.block_fast);
  plan.grid = segments * chunks * ceil_div(g.slots, g.block_slots);
  g.by_block_fast = divider(g.block_fast);
  g.by_segments = divider(segments);
  g.by_chunks = divider(chunks);
  g.by_outer = divider(lines.outer);
  g.by_channels = divider(channels);
}

}  // namespace

cudaError_t line(const View& v, const void* in, const void* weight, const void* bias,
                 Activation activation, void* out, int tile, cudaStream_t stream) {
  LinePlan plan;
  plan.tile = tile;
  const Lines lines = lines_of(v);
  const auto fill = [&](auto& g) {
    g.in = in;
    g.weight = weight;
    g.bias = bias;
    g.activation = activation;
    g.out = out;
  };
  if (lines.rows) {
    plan.rows = {};
    plan_rows(v, lines, plan);
    fill(plan.rows);
  } else {
    plan.down = {};
    plan_down(v, lines, kTiles[tile].line, plan);
    fill(plan.down);
  }
  return for_dtype(v.problem.dtype,
                   [&](auto zero) { return launch_line<decltype(zero)>(plan, stream); });
}

}  // namespace fastconv::depthwise_conv
