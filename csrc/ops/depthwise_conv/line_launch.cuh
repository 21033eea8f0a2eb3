// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the line kernels' launcher hands to their translation units: see line_rows.cuh and
// line_down.cuh.
#pragma once

#include <cstdint>

#include "common/gpu.h"
#include "ops/depthwise_conv/tiles.h"

namespace fastconv::depthwise_conv {

constexpr int kLineThreads = 128;

// A tensor of one kernel: strides in elements, of an image, a channel (0 where the lanes are
// channels), a line, a place on the line, a lane.
struct LineStrides {
  int64_t n, c, m, l, lane;
};

// A line's filter, as correlation: output o meets input o - pad + k * dilation with tap k, in the
// opposite order if `flip`.
struct LineFilter {
  int taps, pad;
  bool flip;
  gpu::Divider<int> dilation, by_taps;
};

// Forward and the gradient of the input along contiguous lines.  Vector t of a line's outputs
// begins V * t - head behind the first one, where `head` elements are missing at its aligned
// address, and reads inputs from there minus `shift` on, which is aligned as well.  Tap k is then
// at position first + k * dilation.
struct LineRows {
  const void* in;
  const void* weight;
  const void* bias;
  void* out;
  LineStrides in_strides, out_strides;
  LineFilter filter;
  Activation activation;
  int in_size, out_size;
  int first, shift, chunks;
  bool vectors;  // inputs are aligned in this way; otherwise they are read one by one
  int rows, row_vectors, segment_vectors;
  int block_fast, block_slots;
  gpu::Divider<int> by_block_fast, by_segments, by_outer, by_channels, by_positions;
};

// Its gradient of the weight, and at will of the input: own vectors of x meet windows of dy.
struct LineRowsGradient {
  const void* x;
  const void* dy;
  const void* weight;
  void* dx;
  void* partial;
  LineStrides x_strides, dy_strides, dx_strides;
  LineFilter filter;
  int in_size, out_size;  // of x, of dy
  int first, shift;
  bool x_vectors, dy_vectors, with_input, with_bias;
  int first_vector, units;
  int channels, groups, splits;
  gpu::Divider<int> by_vectors, by_outer, by_groups, by_channels;
};

// Lines whose neighbours are contiguous.  With a dilation, every so-manieth place belongs to a line
// of its own, `phase`.  `fast` packs of lanes times `slots` (lines times images, and channels
// unless those are lanes).
struct LineDown {
  const void* in;
  const void* weight;
  const void* bias;
  void* out;
  LineStrides in_strides, out_strides;
  LineFilter filter;
  Activation activation;
  int in_size, out_size;
  bool channel_lanes;
  int channels, fast, slots, block_fast, block_slots;
  int segment_rows;
  gpu::Divider<int> by_block_fast, by_segments, by_chunks, by_outer, by_channels;
};

struct LineDownGradient {
  const void* x;
  const void* dy;
  const void* weight;
  void* dx;
  void* partial;
  LineStrides x_strides, dy_strides, dx_strides;
  LineFilter filter;
  int in_size, out_size;
  bool channel_lanes, with_input, with_bias;
  int channels, block_fast, block_slots;
  int first_row, end_row, segment_rows;  // of a phase
  int units, groups, splits;
  // A unit: (n, line, phase, segment, pack), the pack only where lanes are positions.
  gpu::Divider<int> by_block_fast, by_packs, by_segments, by_outer, by_groups, by_columns;
};

struct LinePlan {
  int tile, threads;
  int64_t grid, smem, workspace;
  union {
    LineRows rows;
    LineRowsGradient rows_gradient;
    LineDown down;
    LineDownGradient down_gradient;
  };
  LinePlan() : tile(0), threads(0), grid(0), smem(0), workspace(0), down_gradient{} {}
};

// For tiles that are lines and fit.
cudaError_t line(const View& v, const void* in, const void* weight, const void* bias,
                 Activation activation, void* out, int tile, cudaStream_t stream);
cudaError_t line_gradient(const Backward& p, const View& v, int tile, cudaStream_t stream);
int64_t line_workspace(const View& v, int tile);

template <class T>
cudaError_t launch_line(const LinePlan& plan, cudaStream_t stream);
template <class T>
cudaError_t launch_line_gradient(const LinePlan& plan, cudaStream_t stream);

}  // namespace fastconv::depthwise_conv
