// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// From a problem to the parameters and grid of the walking kernels.
#include "common/gpu.h"
#include "ops/depthwise_conv/dispatch.cuh"
#include "ops/depthwise_conv/walk_plan.cuh"

namespace fastconv::depthwise_conv {
namespace {

// Rows are cut into segments until there are enough threads.  A cut costs kernel - 1 rows of loads,
// so segments stay longer than two filters, unless threads are really few.
constexpr int64_t kThreadsWanted = 3 * kWalkThreadsEnough;
constexpr int64_t kThreadsNeeded = kWalkThreadsEnough / 4;

WalkPlan plan_walk(const View& v, int tile) {
  const Problem& p = v.problem;
  const bool backward = v.pass == Pass::kBackwardData;
  const WalkKind kind = kTiles[tile].walk;
  const bool runs = in_columns(kind);
  const int64_t size = element_size(p.dtype);
  const int64_t taps = p.taps();
  WalkPlan plan{};
  plan.tile = tile;
  plan.kernel = static_cast<int>(p.axis[2].kernel);
  plan.down = walk_down(v);
  plan.up = walk_up(v);
  plan.planes = internal::meets_planes(p);
  const int64_t lanes =
      plan.planes ? walk_planes_lanes(kind, size) : walk_lanes(kind, size, plan.kernel);

  Walk& w = plan.walk;
  w.rows = axis_of(v, 1, false);
  w.columns = axis_of(v, 2, runs);
  const Strides5 &in = backward ? v.small_strides : v.big_strides,
                 &out = backward ? v.big_strides : v.small_strides;
  w.in_n = in.n;
  w.in_c = in.c;
  w.in_plane = in.sp[0];
  w.in_row = in.sp[1];
  w.in_column = column_stride(w.columns.in, in);
  w.out_n = out.n;
  w.out_c = out.c;
  w.out_plane = out.sp[0];
  w.out_row = out.sp[1];
  w.out_column = column_stride(w.columns.out, out);
  w.channels = static_cast<int>(p.channels);
  w.channels_last = p.channels_last;
  w.flip = backward && plan.up == 1;

  const int64_t strips = ceil_div(w.columns.groups, walk_outputs(kind, plan.down, plan.up));
  const int64_t inner = p.channels_last ? strips : p.channels;
  w.fast = static_cast<int>(p.channels_last ? p.channels / lanes : strips);
  w.slots = static_cast<int>(p.batch * p.axis[0].out * inner);
  // With channels_last the filters of a block's packs wait in shared memory, otherwise one for each
  // slot: at most 128 * 49 * 4 bytes, or twice that in fp64, which takes half the threads.
  const int64_t filter_bytes = (p.channels_last ? lanes : 1) * taps * size;
  const int64_t most = min_of(kWalkThreads, kSmemPreferred / filter_bytes);
  if (p.channels_last) {
    w.block_fast = block_width(w.fast, most);
    w.block_slots = static_cast<int>(min_of(kWalkThreads / w.block_fast, w.slots));
  } else {
    w.block_fast = block_width(w.fast, kWalkThreads);
    w.block_slots = static_cast<int>(min_of(min_of(kWalkThreads / w.block_fast, most), w.slots));
  }
  plan.smem = filter_bytes * (p.channels_last ? w.block_fast : w.block_slots);

  const int64_t threads = int64_t{w.fast} * w.slots, groups = w.rows.groups;
  const int64_t wanted =
      min_of(ceil_div(kThreadsWanted, threads), ceil_div(groups, 2 * plan.kernel));
  const int64_t needed = min_of(ceil_div(kThreadsNeeded, threads), ceil_div(groups, 2));
  w.segment_rows = static_cast<int>(ceil_div(groups, max_of(wanted, needed)));
  const int64_t segments = ceil_div(groups, w.segment_rows);
  const int64_t chunks = ceil_div(w.fast, w.block_fast);
  plan.grid = segments * chunks * ceil_div(w.slots, w.block_slots);
  w.by_block_fast = gpu::Divider<int>(w.block_fast);
  w.by_segments = gpu::Divider<int>(segments);
  w.by_chunks = gpu::Divider<int>(chunks);
  w.by_inner = gpu::Divider<int>(inner);
  w.by_depth = gpu::Divider<int>(max_of(p.axis[0].out, 1));
  return plan;
}

}  // namespace

cudaError_t walk(const View& v, const void* in, const void* weight, const void* bias,
                 Activation activation, void* out, int tile, cudaStream_t stream) {
  WalkPlan plan = plan_walk(v, tile);
  plan.walk.in = in;
  plan.walk.weight = weight;
  plan.walk.bias = bias;
  plan.walk.activation = activation;
  plan.walk.out = out;
  return for_dtype(v.problem.dtype, [&](auto zero) {
    using T = decltype(zero);
    return plan.planes ? launch_walk_planes<T>(plan, stream) : launch_walk<T>(plan, stream);
  });
}

}  // namespace fastconv::depthwise_conv
