// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the walking kernels' launcher hands to their translation units: see walk.cuh.
#pragma once

#include <cstdint>

#include "common/gpu.h"
#include "ops/depthwise_conv/tiles.h"

namespace fastconv::depthwise_conv {

constexpr int kWalkThreads = 128;

// One axis of a walk.  Outputs are counted in groups of one, or of two for the gradient of a stride
// of 2; group g holds outputs g * up + e - out_shift, 0 <= e < up.
struct WalkAxis {
  int in, out;   // sizes
  int groups;    // of outputs
  int in_shift;  // group g reads inputs from g * down + in_shift on
  int out_shift;
};

struct Walk {
  const void* in;
  const void* weight;
  const void* bias;
  void* out;
  WalkAxis rows, columns;
  int64_t in_n, in_c, in_plane, in_row, out_n, out_c, out_plane, out_row;
  int in_column, out_column;
  int channels;
  bool channels_last;
  bool flip;  // the filter, for the gradient of stride 1
  Activation activation;
  // Threads: `fast` of them (packs of channels, or strips of columns) times `slots` (strips, or
  // channels, times planes of images), in blocks of block_fast times block_slots.
  int fast, slots, block_fast, block_slots;
  int segment_rows;  // groups of rows that one thread walks
  gpu::Divider<int> by_block_fast, by_segments, by_chunks, by_inner, by_depth;
};

struct WalkPlan {
  int tile, kernel, down, up;
  bool planes;  // which meet their neighbours
  int64_t grid, smem;
  Walk walk;
};

// How gradients of the weight are shared out: threads are packs of channels times slots (strips
// times planes), where the packs vary fastest with channels_last and the slots otherwise.  A unit
// of work is a segment of rows of a block's slots.
struct WalkSums {
  void* partial;
  int channels;
  bool channels_last, with_bias;
  int slots, block_fast, block_slots;
  int warp_slots;  // of one channel, where slots vary fastest: a power of two
  int segment_rows, units, splits;
  // Planes of x that each plane of dy meets, one to a block: plane - (planes - 1) / 2 + its number.
  gpu::Divider<int> by_planes;
  gpu::Divider<int> by_minor, by_segments, by_chunks, by_strips, by_depth;
};

struct WalkGradient : WalkSums {
  const void* x;
  const void* dy;
  WalkAxis rows, columns;  // in: x; out: dy
  int64_t x_n, x_c, x_plane, x_row, dy_n, dy_c, dy_plane, dy_row;
  int x_column, dy_column;
};

// Both gradients, of tensors of one size.
struct WalkBackward : WalkSums {
  const void* x;
  const void* dy;
  const void* weight;
  void* dx;
  int height, width;
  Strides5 x_strides, dy_strides, dx_strides;
  int x_column, dy_column, dx_column;
};

struct WalkGradientPlan {
  int tile, kernel, down;
  int64_t grid, smem, workspace;
  WalkGradient walk;
};

WalkGradientPlan plan_walk_gradient(const View& v, int tile);
// Both stages, for a tile that walks and fits.
cudaError_t walk_gradient(const BackwardWeight& p, const View& v, int tile, cudaStream_t stream);

template <class T>
cudaError_t launch_walk_gradient(const WalkGradientPlan& plan, cudaStream_t stream);

struct WalkBackwardPlan {
  int tile, kernel;
  int64_t grid, smem, workspace;
  WalkBackward walk;
};

WalkBackwardPlan plan_walk_backward(const View& v, int tile);
cudaError_t walk_backward(const Backward& p, const View& v, int tile, cudaStream_t stream);

template <class T>
cudaError_t launch_walk_backward(const WalkBackwardPlan& plan, cudaStream_t stream);

// The launcher, for a tile that walks and fits.
cudaError_t walk(const View& v, const void* in, const void* weight, const void* bias,
                 Activation activation, void* out, int tile, cudaStream_t stream);

template <class T>
cudaError_t launch_walk(const WalkPlan& plan, cudaStream_t stream);
template <class T>
cudaError_t launch_walk_planes(const WalkPlan& plan, cudaStream_t stream);

}  // namespace fastconv::depthwise_conv
