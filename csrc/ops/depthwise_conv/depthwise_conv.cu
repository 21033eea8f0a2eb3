// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// From a problem and a tile to the kernels' parameters and grid.
#include "common/gpu.h"
#include "ops/depthwise_conv/depthwise_conv_cuda.h"
#include "ops/depthwise_conv/dispatch.cuh"
#include "ops/depthwise_conv/large_launch.cuh"
#include "ops/depthwise_conv/large_pick.h"
#include "ops/depthwise_conv/launch.cuh"
#include "ops/depthwise_conv/line_launch.cuh"
#include "ops/depthwise_conv/tiles.h"
#include "ops/depthwise_conv/walk_launch.cuh"

namespace fastconv::depthwise_conv {
namespace {

// Enough blocks to fill the largest chips a few times over; more would only stage weights again.
constexpr int64_t kGatherBlocksWanted = 4096, kGradientBlocksWanted = 2048;

int64_t inverse_modulo(int64_t a, int64_t modulus) {
  for (int64_t i = 1; i < modulus; ++i) {
    if (a % modulus * i % modulus == 1) return i;
  }
  return 0;
}

template <class I>
GatherAxis<I> axis_of(const View& v, int i) {
  const Axis& a = v.problem.axis[i];
  GatherAxis<I> g{};
  g.kernel = static_cast<I>(a.kernel);
  g.dilation = static_cast<I>(a.dilation);
  g.step = static_cast<I>(a.dilation);
  g.phases = 1;
  int64_t tap_stride = 1;
  for (int j = i + 1; j < kSpatial; ++j) tap_stride *= v.problem.axis[j].kernel;
  g.tap_stride = static_cast<I>(tap_stride);
  if (v.pass != Pass::kBackwardData) {
    g.in = static_cast<I>(a.in);
    g.out = static_cast<I>(a.out);
    g.in_stride = v.big_strides.sp[i];
    g.out_stride = v.small_strides.sp[i];
    g.stride = static_cast<I>(a.stride);
    g.pad = static_cast<I>(a.pad);
    g.tap_step = 1;
    return g;
  }
  g.in = static_cast<I>(a.out);
  g.out = static_cast<I>(a.in);
  g.in_stride = v.small_strides.sp[i];
  g.out_stride = v.big_strides.sp[i];
  if (a.stride == 1) {
    g.stride = 1;
    g.pad = static_cast<I>(a.dilation * (a.kernel - 1) - a.pad);
    g.tap = static_cast<I>(a.kernel - 1);
    g.tap_step = -1;
    return g;
  }
  const int64_t gcd = gcd_of(a.dilation, a.stride);
  g.phases = static_cast<I>(a.stride);
  g.gcd = static_cast<I>(gcd);
  g.step = static_cast<I>(a.dilation / gcd);
  g.inverse = static_cast<I>(inverse_modulo(a.dilation / gcd, a.stride / gcd));
  g.pad_quotient = static_cast<I>(floor_div(a.pad, a.stride));
  g.pad_remainder = static_cast<I>(floor_mod(a.pad, a.stride));
  return g;
}

template <class I>
Divider<I> divider(int64_t value) {
  return Divider<I>(max_of(value, 1));
}

// The axes in the kernels' order, and the strips of `outputs` each along s.
template <class I, class Kernel>
void map_axes(const View& v, const Tile& tile, int64_t outputs, Kernel& k) {
  const int s = strip_axis(v.problem, tile);
  const int a = 0, b = 3 - s;
  k.a = axis_of<I>(v, a);
  k.b = axis_of<I>(v, b);
  k.s = axis_of<I>(v, s);
  const int64_t per_phase = ceil_div(k.s.out, k.s.phases);
  const int64_t places = ceil_div(per_phase, outputs);
  const int64_t unit_phases = max_of(1, min_of(k.s.phases, k.s.out));
  const int64_t units = unit_phases * places;
  const bool interleaved = !v.problem.channels_last && tile.window == 1;
  k.strips.count = static_cast<I>(v.problem.batch * k.a.out * k.b.out * units);
  k.strips.strip_first = v.problem.channels_last || interleaved;
  k.strips.fastest = divider<I>(k.strips.strip_first ? units : k.b.out);
  k.strips.second = divider<I>(k.strips.strip_first ? k.b.out : units);
  k.strips.third = divider<I>(k.a.out);
  k.strips.unit_phases = static_cast<I>(unit_phases);
  k.strips.by_unit_phases = divider<I>(unit_phases);
  k.strips.apart = interleaved ? static_cast<I>(max_of(places, 1)) : 1;
}

int strip_step(const View& v, const Tile& tile) {
  const Axis& a = v.problem.axis[strip_axis(v.problem, tile)];
  return v.pass == Pass::kBackwardData ? 1 : static_cast<int>(min_of(a.stride, 3));
}

// How many packs of channels a block takes, of `total`, when `limit` is the most it may.
int even_packs(int64_t total, int64_t limit) {
  limit = max_of(1, min_of(total, limit));
  return static_cast<int>(ceil_div(total, ceil_div(total, limit)));
}

template <class I>
void plan_gather(const View& v, const Tile& tile, GatherPlan& plan, Gather<I>& g) {
  const Problem& p = v.problem;
  const bool backward = v.pass == Pass::kBackwardData;
  const int64_t pack = tile.pack ? pack_size(p.dtype) : 1;
  map_axes<I>(v, tile, gather_outputs(static_cast<int>(pack), tile.window), g);
  g.phases_a = divider<I>(g.a.phases);
  g.phases_b = divider<I>(g.b.phases);
  g.phases_s = divider<I>(g.s.phases);
  const int64_t channels = backward ? p.in_channels() : p.out_channels();
  g.channels = static_cast<I>(channels);
  g.in_mul = static_cast<I>(fans_in(v) ? p.multiplier : 1);
  g.in_div = static_cast<I>(fans_in(v) ? 1 : p.multiplier);
  g.taps = static_cast<I>(p.taps());
  g.in_n = backward ? v.small_strides.n : v.big_strides.n;
  g.in_c = backward ? v.small_strides.c : v.big_strides.c;
  g.out_n = backward ? v.big_strides.n : v.small_strides.n;
  g.out_c = backward ? v.big_strides.c : v.small_strides.c;

  const int64_t bytes = tile.wide ? 0 : pack * weight_bytes(v);
  int64_t most = kGatherThreads;
  if (bytes > 0) {
    most = kSmemPreferred / bytes;
    if (most < 4) most = min_of(4, kSmemLimit / bytes);
  }
  const int64_t total = ceil_div(channels, pack);
  g.block.groups = 1;
  g.block.channels_first = p.channels_last;
  if (p.channels_last) {
    g.block.packs = even_packs(total, min_of(most, 32));
    g.block.slots = kGatherThreads / g.block.packs;
  } else {
    g.block.slots = static_cast<int>(min_of(kGatherThreads, g.strips.count));
    g.block.packs = even_packs(total, min_of(most, kGatherThreads / g.block.slots));
  }
  const int64_t chunks = ceil_div(total, g.block.packs);
  const int64_t along =
      min_of(ceil_div(g.strips.count, g.block.slots), max_of(1, kGatherBlocksWanted / chunks));
  g.chunks = static_cast<I>(chunks);
  g.blocks_along = static_cast<I>(along);
  plan.threads = g.block.threads();
  plan.grid = chunks * along;
  plan.smem = bytes * g.block.packs;
}

template <class I>
int64_t plan_gradient(const View& v, const Tile& tile, GradientPlan& plan, WeightGradient<I>& g) {
  const Problem& p = v.problem;
  const int64_t pack = tile.pack ? pack_size(p.dtype) : 1;
  map_axes<I>(v, tile, gradient_outputs(static_cast<int>(pack), tile.window), g);
  const int64_t windows = ceil_div(g.s.kernel, tile.window);
  const int64_t groups = windows * g.a.kernel * g.b.kernel;
  g.group_s = divider<I>(windows);
  g.group_b = divider<I>(g.b.kernel);
  g.groups = static_cast<I>(groups);
  g.channels = static_cast<I>(p.out_channels());
  g.in_div = static_cast<I>(p.multiplier);
  g.taps = static_cast<I>(p.taps());
  g.in_n = v.big_strides.n;
  g.in_c = v.big_strides.c;
  g.out_n = v.small_strides.n;
  g.out_c = v.small_strides.c;

  const int64_t total = ceil_div(p.out_channels(), pack);
  const int64_t strips = max_of(g.strips.count, 1);
  g.block.channels_first = p.channels_last;
  if (p.channels_last) {
    g.block.packs = even_packs(total, 16);
    g.block.groups = static_cast<int>(min_of(min_of(groups, 8), kGradientThreads / g.block.packs));
    g.block.slots =
        static_cast<int>(min_of(strips, kGradientThreads / (g.block.packs * g.block.groups)));
  } else {
    g.block.groups = static_cast<int>(min_of(groups, 4));
    g.block.slots = static_cast<int>(min_of(strips, kGradientThreads / g.block.groups));
    g.block.packs = even_packs(total, kGradientThreads / (g.block.groups * g.block.slots));
  }
  const int64_t chunks = ceil_div(total, g.block.packs);
  const int64_t group_blocks = ceil_div(groups, g.block.groups);
  const int64_t split_bytes =
      (p.taps() + 1) * p.out_channels() * (p.dtype == Dtype::kFloat64 ? 8 : 4);
  int64_t splits = kGradientBlocksWanted / (chunks * group_blocks);
  splits = min_of(splits, ceil_div(strips, int64_t{4} * g.block.slots));
  splits = min_of(splits, kMaxWorkspace / split_bytes);
  splits = max_of(1, min_of(splits, kMaxSplits));
  g.chunks = static_cast<I>(chunks);
  g.group_blocks = static_cast<I>(group_blocks);
  g.splits = static_cast<I>(splits);
  plan.threads = g.block.threads();
  plan.grid = chunks * group_blocks * splits;
  plan.smem =
      int64_t{plan.threads} * (tile.window + 1) * pack * (p.dtype == Dtype::kFloat64 ? 8 : 4);
  return splits * split_bytes;
}

// The plan for a tile that fits; returns the bytes of workspace.
int64_t plan_gradient(const View& v, int tile, GradientPlan& plan) {
  plan.tile = tile;
  plan.strip_step = strip_step(v, kTiles[tile]);
  return kTiles[tile].wide ? plan_gradient(v, kTiles[tile], plan, plan.wide)
                           : plan_gradient(v, kTiles[tile], plan, plan.narrow);
}

cudaError_t gather(const View& v, const void* in, const void* weight, const void* bias,
                   Activation activation, void* out, int tile, cudaStream_t stream) {
  const Problem& p = v.problem;
  const int64_t pixels = v.pass == Pass::kBackwardData ? p.in_pixels() : p.out_pixels();
  if (p.batch == 0 || p.filters() == 0 || pixels == 0) return cudaSuccess;
  if (tile < 0) tile = pick_any_tile(v);
  if (tile >= kTileCount) {
    return large_gather(v, in, weight, bias, activation, out, tile, stream);
  }
  if (!tile_fits(v, tile)) return cudaErrorInvalidValue;
  if (tile_walks(tile)) return walk(v, in, weight, bias, activation, out, tile, stream);
  if (tile_lines(tile)) return line(v, in, weight, bias, activation, out, tile, stream);
  GatherPlan plan{};
  plan.tile = tile;
  plan.strip_step = strip_step(v, kTiles[tile]);
  auto fill = [&](auto& g) {
    plan_gather(v, kTiles[tile], plan, g);
    g.in = in;
    g.weight = weight;
    g.bias = bias;
    g.activation = activation;
    g.out = out;
  };
  if (kTiles[tile].wide) {
    fill(plan.wide);
  } else {
    fill(plan.narrow);
  }
  return for_dtype(p.dtype, [&](auto zero) { return launch_gather<decltype(zero)>(plan, stream); });
}

// The bias alone takes no walk: the other kernels then read dy and nothing else.
int pick_gradient(const BackwardWeight& p, const View& v) {
  return p.dw == nullptr ? pick_gather(v) : pick_tile(v);
}

}  // namespace

cudaError_t forward_cuda(const Forward& p, int tile, cudaStream_t stream) {
  return gather(view_of(p), p.x, p.weight, p.bias, p.activation, p.y, tile, stream);
}

cudaError_t backward_data_cuda(const BackwardData& p, int tile, cudaStream_t stream) {
  return gather(view_of(p), p.dy, p.weight, p.bias, Activation::kNone, p.dx, tile, stream);
}

int64_t backward_weight_workspace_bytes_cuda(const BackwardWeight& p, int tile) {
  const View v = view_of(p);
  const bool any = tile < 0;
  if (any) tile = pick_any_tile(v);
  if (tile >= kTileCount) return large_weight_workspace(v, tile);
  if (any) tile = pick_gradient(p, v);
  if (p.out_channels() == 0 || !tile_fits(v, tile)) return 0;
  if (tile_walks(tile)) return plan_walk_gradient(v, tile).workspace;
  if (tile_lines(tile)) return line_workspace(v, tile);
  GradientPlan plan{};
  return plan_gradient(v, tile, plan);
}

cudaError_t backward_weight_cuda(const BackwardWeight& p, int tile, cudaStream_t stream) {
  const View v = view_of(p);
  if (p.out_channels() == 0 || (p.dw == nullptr && p.db == nullptr)) return cudaSuccess;
  const bool any = tile < 0;
  if (any) tile = pick_any_tile(v);
  if (tile >= kTileCount) return large_weight(p, tile, stream);
  if (any) tile = pick_gradient(p, v);
  if (!tile_fits(v, tile)) return cudaErrorInvalidValue;
  if (tile_walks(tile)) return walk_gradient(p, v, tile, stream);
  if (tile_lines(tile)) {
    Backward weight_alone{};
    static_cast<BackwardWeight&>(weight_alone) = p;
    return line_gradient(weight_alone, v, tile, stream);
  }
  GradientPlan plan{};
  plan_gradient(v, tile, plan);
  auto fill = [&](auto& g) {
    g.x = p.x;
    g.dy = p.dy;
    g.partial = p.workspace;
    g.with_bias = p.db != nullptr;
    if (p.dw == nullptr) {  // only the group that sums the bias works
      plan.grid = plan.grid / g.group_blocks;
      g.groups = g.group_blocks = 1;
    }
    plan.partial = {g.channels, g.taps, g.splits, p.workspace, p.dw, p.db};
  };
  if (kTiles[tile].wide) {
    fill(plan.wide);
  } else {
    fill(plan.narrow);
  }
  return for_dtype(p.dtype,
                   [&](auto zero) { return launch_gradient<decltype(zero)>(plan, stream); });
}

int backward_tile_cuda(const Backward& p, int tile) {
  const View v = view_of(p);
  // Without the gradient of the weight, that of the input is all there is to do.
  if (p.out_channels() == 0 || p.dw == nullptr) return -1;
  if (tile < 0) return pick_backward(v);
  return tile_fits(v, tile) ? tile : -1;
}

int64_t backward_workspace_bytes_cuda(const Backward& p, int tile) {
  const View v = view_of(p);
  return tile_walks(tile) ? plan_walk_backward(v, tile).workspace : line_workspace(v, tile);
}

cudaError_t backward_cuda(const Backward& p, int tile, cudaStream_t stream) {
  const View v = view_of(p);
  if (!tile_fits(v, tile)) return cudaErrorInvalidValue;
  return tile_walks(tile) ? walk_backward(p, v, tile, stream) : line_gradient(p, v, tile, stream);
}

}  // namespace fastconv::depthwise_conv
