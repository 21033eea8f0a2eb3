// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// C functions over the launchers of depthwise convolution.
#include "common/gpu.h"
#include "ops/depthwise_conv/depthwise_conv_cuda.h"
#include "ops/depthwise_conv/large_pick.h"
#include "ops/depthwise_conv/tiles.h"
#include "ops/depthwise_conv/weight_gradient.cuh"

using namespace fastconv::depthwise_conv;

extern "C" {

int forward(const Forward* p, int tile) {
  fastconv::host_cuda::calling("forward_cuda", tile);
  return forward_cuda(*p, tile, nullptr);
}
int backward_data(const BackwardData* p, int tile) {
  fastconv::host_cuda::calling("backward_data_cuda", tile);
  return backward_data_cuda(*p, tile, nullptr);
}
int64_t backward_weight_workspace(const BackwardWeight* p, int tile) {
  return backward_weight_workspace_bytes_cuda(*p, tile);
}
int backward_weight(const BackwardWeight* p, int tile) {
  fastconv::host_cuda::calling("backward_weight_cuda", tile);
  return backward_weight_cuda(*p, tile, nullptr);
}

int backward(const Backward* p, int tile) {
  fastconv::host_cuda::calling("backward_cuda", tile);
  return backward_cuda(*p, tile, nullptr);
}
int64_t backward_workspace(const Backward* p, int tile) {
  return backward_workspace_bytes_cuda(*p, tile);
}
bool backward_fits(const Backward* p, int tile) { return backward_tile_cuda(*p, tile) == tile; }
int backward_pick(const Backward* p) { return backward_tile_cuda(*p, -1); }

// The second stage alone, in few blocks: each of them goes round.
int add_splits(const float* partial, int64_t splits, int64_t taps, int64_t channels, float* dw,
               float* db, int blocks) {
  fastconv::host_cuda::calling("add_splits", -1);
  return FASTCONV_LAUNCH(add_splits_kernel<float>, dim3(blocks), dim3(kAddColumns * kAddRows), 0,
                         nullptr, partial, splits, taps, channels, dw, db);
}
// A plan whose first stage no kernel serves.
int gradient_without_kernel() {
  GradientPlan plan{};
  plan.tile = 0;  // an even window
  return launch_gradient<float>(plan, nullptr);
}

int tile_count() { return kTileCount + kLargeTileCount; }
const char* tile_name(int tile) {
  return tile < kTileCount ? kTiles[tile].name : kLargeTiles[tile - kTileCount].name;
}
bool forward_fits(const Forward* p, int tile) { return any_tile_fits(view_of(*p), tile); }
bool backward_data_fits(const BackwardData* p, int tile) {
  return any_tile_fits(view_of(*p), tile);
}
bool backward_weight_fits(const BackwardWeight* p, int tile) {
  return any_tile_fits(view_of(*p), tile);
}
int forward_pick(const Forward* p) { return pick_any_tile(view_of(*p)); }
int backward_data_pick(const BackwardData* p) { return pick_any_tile(view_of(*p)); }
int backward_weight_pick(const BackwardWeight* p) { return pick_any_tile(view_of(*p)); }

}  // extern "C"
