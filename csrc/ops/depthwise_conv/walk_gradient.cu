// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// From a problem to the parameters and grid of the walking kernels' gradients of the weight.
#include "common/gpu.h"
#include "ops/depthwise_conv/dispatch.cuh"
#include "ops/depthwise_conv/walk_plan.cuh"

namespace fastconv::depthwise_conv {
namespace {

// Blocks of the gradient of the weight: eight to a multiprocessor of the largest chips.
constexpr int64_t kGradientBlocksWanted = 1024;

// Blocks and slots of a gradient, and segments enough for the blocks to have work.
void share_out(int64_t packs, int64_t rows, int kernel, WalkSums& w, int64_t& chunks) {
  if (w.channels_last) {
    w.block_fast = block_width(packs, kWalkThreads);
    w.block_slots = static_cast<int>(max_of(1, min_of(kWalkThreads / w.block_fast, w.slots)));
    w.warp_slots = 1;
  } else {  // whole warps: of slots of a channel or, where there are few, of several channels
    w.warp_slots = 1;
    while (w.warp_slots < 32 && w.warp_slots < w.slots) w.warp_slots *= 2;
    const int64_t slots = round_up(max_of(w.slots, 1), w.warp_slots);
    w.block_slots = static_cast<int>(min_of(kWalkThreads, slots));
    w.block_fast = static_cast<int>(max_of(1, min_of(kWalkThreads / w.block_slots, packs)));
    w.block_fast = static_cast<int>(round_up(w.block_fast, 32 / w.warp_slots));
  }
  chunks = ceil_div(packs, w.block_fast);
  const int64_t slot_blocks = ceil_div(w.slots, w.block_slots);
  const int64_t wanted = ceil_div(kGradientBlocksWanted, chunks * max_of(slot_blocks, 1));
  const int64_t cuts = max_of(1, min_of(wanted, ceil_div(rows, 2 * kernel)));
  w.segment_rows = static_cast<int>(max_of(1, ceil_div(rows, cuts)));
  const int64_t segments = max_of(1, ceil_div(rows, w.segment_rows));
  w.units = static_cast<int>(rows > 0 ? segments * slot_blocks : 0);
  w.by_segments = gpu::Divider<int>(segments);
}

// The rest of a plan for threads with so many lanes: slots, splits, shared memory, workspace.
template <class Plan>
void plan_sums(const Problem& p, int64_t lanes, int64_t strips, int64_t rows, Plan& plan) {
  WalkSums& w = plan.walk;
  w.channels = static_cast<int>(p.channels);
  w.channels_last = p.channels_last;
  w.slots = static_cast<int>(p.batch * p.axis[0].out * strips);
  int64_t chunks = 0;
  share_out(p.channels / lanes, rows, plan.kernel, w, chunks);
  const int64_t sum_bytes = p.dtype == Dtype::kFloat64 ? 8 : 4;
  const int64_t split_bytes = (p.taps() + 1) * p.channels * sum_bytes;
  const int64_t planes = p.axis[0].kernel;
  int64_t splits = min_of(ceil_div(kGradientBlocksWanted, chunks * planes), w.units);
  splits = min_of(splits, min_of(kMaxSplits, kMaxWorkspace / split_bytes));
  w.splits = static_cast<int>(max_of(1, splits));
  w.by_minor = gpu::Divider<int>(p.channels_last ? w.block_fast : w.block_slots);
  w.by_chunks = gpu::Divider<int>(chunks);
  w.by_strips = gpu::Divider<int>(max_of(strips, 1));
  w.by_depth = gpu::Divider<int>(max_of(p.axis[0].out, 1));
  w.by_planes = gpu::Divider<int>(planes);
  plan.grid = chunks * planes * w.splits;
  const int64_t staged = w.block_slots / w.warp_slots;
  plan.smem = staged * plan.kernel * w.block_fast * lanes * sum_bytes;
  plan.workspace = w.splits * split_bytes;
}

}  // namespace

WalkGradientPlan plan_walk_gradient(const View& v, int tile) {
  const Problem& p = v.problem;
  const WalkKind kind = kTiles[tile].walk;
  WalkGradientPlan plan{};
  plan.tile = tile;
  plan.kernel = static_cast<int>(p.axis[2].kernel);
  plan.down = walk_down(v);
  const int64_t lanes = walk_lanes(kind, element_size(p.dtype), plan.kernel);

  WalkGradient& w = plan.walk;
  w.rows = axis_of(v, 1, false);
  w.columns = axis_of(v, 2, in_columns(kind));
  w.x_n = v.big_strides.n;
  w.x_c = v.big_strides.c;
  w.x_plane = v.big_strides.sp[0];
  w.x_row = v.big_strides.sp[1];
  w.x_column = column_stride(w.columns.in, v.big_strides);
  w.dy_n = v.small_strides.n;
  w.dy_c = v.small_strides.c;
  w.dy_plane = v.small_strides.sp[0];
  w.dy_row = v.small_strides.sp[1];
  w.dy_column = column_stride(w.columns.out, v.small_strides);
  plan_sums(p, lanes, ceil_div(w.columns.out, walk_outputs(kind, plan.down, 1)), w.rows.out, plan);
  return plan;
}

WalkBackwardPlan plan_walk_backward(const View& v, int tile) {
  const Problem& p = v.problem;
  const WalkKind kind = kTiles[tile].walk;
  WalkBackwardPlan plan{};
  plan.tile = tile;
  plan.kernel = static_cast<int>(p.axis[2].kernel);
  WalkBackward& w = plan.walk;
  w.height = static_cast<int>(p.axis[1].in);
  w.width = static_cast<int>(p.axis[2].in);
  w.x_strides = v.big_strides;
  w.dy_strides = v.small_strides;
  w.dx_strides = v.extra_strides;
  w.x_column = column_stride(w.width, v.big_strides);
  w.dy_column = column_stride(w.width, v.small_strides);
  w.dx_column = column_stride(w.width, v.extra_strides);
  const int64_t lanes = walk_backward_lanes(kind, element_size(p.dtype), plan.kernel);
  plan_sums(p, lanes, ceil_div(w.width, walk_outputs(kind, 1, 1)), w.height, plan);
  return plan;
}

namespace {

template <class T>
cudaError_t launch(const WalkGradientPlan& plan, cudaStream_t stream) {
  return launch_walk_gradient<T>(plan, stream);
}
template <class T>
cudaError_t launch(const WalkBackwardPlan& plan, cudaStream_t stream) {
  return launch_walk_backward<T>(plan, stream);
}

template <class Plan>
cudaError_t run(const BackwardWeight& p, Plan& plan, cudaStream_t stream) {
  plan.walk.x = p.x;
  plan.walk.dy = p.dy;
  plan.walk.partial = p.workspace;
  plan.walk.with_bias = p.db != nullptr;
  const Splits splits{p.channels, p.taps(), plan.walk.splits, p.workspace, p.dw, p.db};
  return run_both_stages(p.dtype, splits, stream,
                         [&](auto zero) { return launch<decltype(zero)>(plan, stream); });
}

}  // namespace

cudaError_t walk_gradient(const BackwardWeight& p, const View& v, int tile, cudaStream_t stream) {
  WalkGradientPlan plan = plan_walk_gradient(v, tile);
  return run(p, plan, stream);
}

cudaError_t walk_backward(const Backward& p, const View& v, int tile, cudaStream_t stream) {
  WalkBackwardPlan plan = plan_walk_backward(v, tile);
  plan.walk.weight = p.weight;
  plan.walk.dx = p.dx;
  return run(p, plan, stream);
}

}  // namespace fastconv::depthwise_conv
