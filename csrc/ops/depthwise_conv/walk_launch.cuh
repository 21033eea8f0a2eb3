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
  int64_t in_n, in_c, in_row, out_n, out_c, out_row;
  int in_column, out_column;
  int channels;
  bool channels_last;
  bool flip;  // the filter, for the gradient of stride 1
  // Threads: `fast` of them (packs of channels, or strips of columns) times `slots` (strips times
  // images, or channels times images), in blocks of block_fast times block_slots.
  int fast, slots, block_fast, block_slots;
  int segment_rows;  // groups of rows that one thread walks
  gpu::Divider<int> by_block_fast, by_segments, by_chunks, by_inner;
};

struct WalkPlan {
  int tile, kernel, down, up;
  int64_t grid, smem;
  Walk walk;
};

// The gradient of the weight: threads are packs of channels times slots (strips times images),
// where the packs vary fastest with channels_last and the slots otherwise.  A unit of work is a
// segment of rows of a block's slots.
struct WalkGradient {
  const void* x;
  const void* dy;
  void* partial;
  WalkAxis rows, columns;  // in: x; out: dy
  int64_t x_n, x_c, x_row, dy_n, dy_c, dy_row;
  int x_column, dy_column;
  int channels;
  bool channels_last, with_bias;
  int slots, block_fast, block_slots;
  int segment_rows, units, splits;
  gpu::Divider<int> by_minor, by_segments, by_chunks, by_strips;
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

// The launcher, for a tile that walks and fits.
cudaError_t walk(const View& v, const void* in, const void* weight, const void* bias, void* out,
                 int tile, cudaStream_t stream);

template <class T>
cudaError_t launch_walk(const WalkPlan& plan, cudaStream_t stream);

}  // namespace fastconv::depthwise_conv
