// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// From a problem to the parameters and grid of the walking kernels.
#include "common/gpu.h"
#include "ops/depthwise_conv/launch.cuh"
#include "ops/depthwise_conv/walk_launch.cuh"

namespace fastconv::depthwise_conv {
namespace {

// Rows are cut into segments until there are enough threads.  A cut costs kernel - 1 rows of loads,
// so segments stay longer than two filters, unless threads are really few.
constexpr int64_t kThreadsWanted = 3 * kWalkThreadsEnough;
constexpr int64_t kThreadsNeeded = kWalkThreadsEnough / 4;

// Blocks of the gradient of the weight: eight to a multiprocessor of the largest chips.
constexpr int64_t kGradientBlocksWanted = 1024;

WalkAxis axis_of(const View& v, int i, bool runs) {
  const Axis& a = v.problem.axis[i];
  const bool backward = v.pass == Pass::kBackwardData;
  WalkAxis w{};
  w.in = static_cast<int>(backward ? a.out : a.in);
  w.out = static_cast<int>(backward ? a.in : a.out);
  if (!backward || a.stride == 1) {
    w.groups = w.out;
    if (!runs) w.in_shift = static_cast<int>(backward ? a.pad - (a.kernel - 1) : -a.pad);
    return w;
  }
  // dx[i] with i + pad = 2 * u + e reads dy from u down: group 0 is the first u that is not empty.
  w.out_shift = runs ? 0 : static_cast<int>(floor_mod(a.pad, 2));
  w.groups = static_cast<int>(ceil_div(w.out + w.out_shift, 2));
  if (!runs) w.in_shift = static_cast<int>(floor_div(a.pad, 2) - (a.kernel - 1) / 2);
  return w;
}

// The stride of a single column may be any number, and is of no use.
int column_stride(int columns, const Strides5& strides) {
  return columns <= 1 ? 0 : static_cast<int>(strides.sp[2]);
}

// Lanes that 1024 rows of slots take in blocks of so many threads along `fast`, those of half-empty
// warps and blocks included.
int64_t lanes_taken(int64_t fast, int64_t width) {
  const int64_t slots = kWalkThreads / width;
  return ceil_div(fast, width) * round_up(width * slots, 32) * 1024 / slots;
}

// Threads of a block along `fast`, at most `limit`: the most, for neighbouring addresses, that
// leave no more than an eighth of the lanes idle beyond what is unavoidable.
int block_width(int64_t fast, int64_t limit) {
  const int64_t most = max_of(1, min_of(fast, limit));
  int64_t fewest = INT64_MAX;
  for (int64_t width = 1; width <= most; ++width) {
    fewest = min_of(fewest, lanes_taken(fast, width));
  }
  int64_t width = most;
  while (lanes_taken(fast, width) > fewest + fewest / 8) --width;
  return static_cast<int>(width);
}

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
  const int64_t lanes = walk_lanes(kind, size, plan.kernel);

  Walk& w = plan.walk;
  w.rows = axis_of(v, 1, false);
  w.columns = axis_of(v, 2, runs);
  const Strides5 &in = backward ? v.small_strides : v.big_strides,
                 &out = backward ? v.big_strides : v.small_strides;
  w.in_n = in.n;
  w.in_c = in.c;
  w.in_row = in.sp[1];
  w.in_column = column_stride(w.columns.in, in);
  w.out_n = out.n;
  w.out_c = out.c;
  w.out_row = out.sp[1];
  w.out_column = column_stride(w.columns.out, out);
  w.channels = static_cast<int>(p.channels);
  w.channels_last = p.channels_last;
  w.flip = backward && plan.up == 1;

  const int64_t strips = ceil_div(w.columns.groups, walk_outputs(kind, plan.down, plan.up));
  const int64_t inner = p.channels_last ? strips : p.channels;
  w.fast = static_cast<int>(p.channels_last ? p.channels / lanes : strips);
  w.slots = static_cast<int>(p.batch * inner);
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
  return plan;
}

// Blocks and slots of a gradient, and segments enough for the blocks to have work.
void share_out(int64_t packs, int64_t rows, int kernel, WalkGradient& w, int64_t& chunks) {
  if (w.channels_last) {
    w.block_fast = block_width(packs, kWalkThreads);
    w.block_slots = static_cast<int>(max_of(1, min_of(kWalkThreads / w.block_fast, w.slots)));
  } else {  // whole warps of slots
    const int64_t slots = round_up(max_of(w.slots, 1), 32);
    w.block_slots = static_cast<int>(min_of(kWalkThreads, slots));
    w.block_fast = static_cast<int>(max_of(1, min_of(kWalkThreads / w.block_slots, packs)));
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

}  // namespace

WalkGradientPlan plan_walk_gradient(const View& v, int tile) {
  const Problem& p = v.problem;
  const WalkKind kind = kTiles[tile].walk;
  WalkGradientPlan plan{};
  plan.tile = tile;
  plan.kernel = static_cast<int>(p.axis[2].kernel);
  plan.down = walk_down(v);
  const int64_t lanes = walk_lanes(kind, element_size(p.dtype), plan.kernel);
  const int64_t sum_bytes = p.dtype == Dtype::kFloat64 ? 8 : 4;

  WalkGradient& w = plan.walk;
  w.rows = axis_of(v, 1, false);
  w.columns = axis_of(v, 2, in_columns(kind));
  w.x_n = v.big_strides.n;
  w.x_c = v.big_strides.c;
  w.x_row = v.big_strides.sp[1];
  w.x_column = column_stride(w.columns.in, v.big_strides);
  w.dy_n = v.small_strides.n;
  w.dy_c = v.small_strides.c;
  w.dy_row = v.small_strides.sp[1];
  w.dy_column = column_stride(w.columns.out, v.small_strides);
  w.channels = static_cast<int>(p.channels);
  w.channels_last = p.channels_last;

  const int64_t strips = ceil_div(w.columns.out, walk_outputs(kind, plan.down, 1));
  w.slots = static_cast<int>(p.batch * strips);
  int64_t chunks = 0;
  share_out(p.channels / lanes, w.rows.out, plan.kernel, w, chunks);
  const int64_t split_bytes = (p.taps() + 1) * p.channels * sum_bytes;
  int64_t splits = min_of(ceil_div(kGradientBlocksWanted, chunks), w.units);
  splits = min_of(splits, min_of(kMaxSplits, kMaxWorkspace / split_bytes));
  w.splits = static_cast<int>(max_of(1, splits));
  w.by_minor = gpu::Divider<int>(p.channels_last ? w.block_fast : w.block_slots);
  w.by_chunks = gpu::Divider<int>(chunks);
  w.by_strips = gpu::Divider<int>(max_of(strips, 1));
  plan.grid = chunks * w.splits;
  const int64_t rows = p.channels_last ? w.block_slots : w.block_slots / 32;
  plan.smem = rows * plan.kernel * w.block_fast * lanes * sum_bytes;
  plan.workspace = w.splits * split_bytes;
  return plan;
}

namespace {

template <class T>
cudaError_t both_stages(const WalkGradientPlan& plan, const Splits& splits, cudaStream_t stream) {
  const cudaError_t error = launch_walk_gradient<T>(plan, stream);
  return error != cudaSuccess ? error : add_splits<T>(splits, stream);
}

}  // namespace

cudaError_t walk_gradient(const BackwardWeight& p, const View& v, int tile, cudaStream_t stream) {
  WalkGradientPlan plan = plan_walk_gradient(v, tile);
  plan.walk.x = p.x;
  plan.walk.dy = p.dy;
  plan.walk.partial = p.workspace;
  plan.walk.with_bias = p.db != nullptr;
  const Splits splits{p.channels, p.taps(), plan.walk.splits, p.workspace, p.dw, p.db};
  switch (p.dtype) {
    case Dtype::kFloat32:
      return both_stages<float>(plan, splits, stream);
    case Dtype::kFloat64:
      return both_stages<double>(plan, splits, stream);
    case Dtype::kFloat16:
      return both_stages<gpu::half>(plan, splits, stream);
    case Dtype::kBFloat16:
      return both_stages<gpu::bfloat16>(plan, splits, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t walk(const View& v, const void* in, const void* weight, const void* bias, void* out,
                 int tile, cudaStream_t stream) {
  WalkPlan plan = plan_walk(v, tile);
  plan.walk.in = in;
  plan.walk.weight = weight;
  plan.walk.bias = bias;
  plan.walk.out = out;
  switch (v.problem.dtype) {
    case Dtype::kFloat32:
      return launch_walk<float>(plan, stream);
    case Dtype::kFloat64:
      return launch_walk<double>(plan, stream);
    case Dtype::kFloat16:
      return launch_walk<gpu::half>(plan, stream);
    case Dtype::kBFloat16:
      return launch_walk<gpu::bfloat16>(plan, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace fastconv::depthwise_conv
