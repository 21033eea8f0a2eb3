// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Contiguous planes by blocks of channels: a strip of a block is transposed into scratch (and
// widened to fp32 on the way), the channels-last kernels run on that, and the result is transposed
// back.  All of it stays in L2.  Lanes are channels, so planes of 7x7 or 14x14 waste none of them.
#pragma once

#include "common/transpose-inl.h"
#include "ops/depthwise_conv/cpu_channels_driver-inl.h"
#include "ops/depthwise_conv/cpu_channels_weight-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// Spatial strides of a block in scratch, (D, H, W, channels).
inline Strides5 block_strides(const int64_t (&size)[kSpatial], int64_t channels) {
  return {0, 1, {size[1] * size[2] * channels, size[2] * channels, channels}};
}

// Runs of neighbouring pixels in a plane: one if the plane is dense, else one per row.
struct PlaneRuns {
  int64_t count, length;
  bool unit;  // neighbouring pixels of a run are neighbours in memory

  int64_t offset(int64_t run, const int64_t (&size)[kSpatial], const Strides5& s) const {
    return count == 1 ? 0 : run / size[1] * s.sp[0] + run % size[1] * s.sp[1];
  }
};
inline PlaneRuns plane_runs(const int64_t (&size)[kSpatial], const Strides5& s) {
  const int64_t rows = size[0] * size[1];
  const bool unit = s.sp[2] == 1 || size[2] == 1;
  const bool dense = unit && (size[1] == 1 || s.sp[1] == size[2]) &&
                     (size[0] == 1 || s.sp[0] == size[1] * size[2]);
  return dense ? PlaneRuns{1, rows * size[2], true} : PlaneRuns{rows, size[2], unit};
}

// Transposes `channels` planes into block[pixel][pitch].
template <class T>
void gather_block(Accum<T>* block, int64_t pitch, const T* x, const Strides5& s,
                  const int64_t (&size)[kSpatial], int64_t channels) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  const PlaneRuns runs = plane_runs(size, s);
  for (int64_t r = 0; r < runs.count; ++r) {
    const T* row = x + runs.offset(r, size, s);
    A* out = block + r * runs.length * pitch;
    for (int64_t c = 0; c < channels; c += kV) {
      const int lanes = static_cast<int>(min_of(kV, channels - c));
      if (runs.unit) {
        gather_transposed<T>(out + c, pitch, row + c * s.c, s.c, lanes, runs.length);
      } else {
        for (int64_t j = 0; j < runs.length; ++j) {
          for (int i = 0; i < kV; ++i) {
            out[j * pitch + c + i] = i < lanes ? to_float(row[(c + i) * s.c + j * s.sp[2]]) : A{0};
          }
        }
      }
    }
  }
}

// Transposes block[pixel][pitch] back into `channels` planes of y, whose rows are dense.
template <class T>
void scatter_block(T* y, const Strides5& s, const Accum<T>* block, int64_t pitch,
                   const int64_t (&size)[kSpatial], int64_t channels) {
  constexpr int kV = kLanes<Accum<T>>;
  const PlaneRuns runs = plane_runs(size, s);
  for (int64_t r = 0; r < runs.count; ++r) {
    T* row = y + runs.offset(r, size, s);
    for (int64_t c = 0; c < channels; c += kV) {
      scatter_transposed<T>(row + c * s.c, s.c, block + r * runs.length * pitch + c, pitch,
                            static_cast<int>(min_of(kV, channels - c)), runs.length);
    }
  }
}

// A task's window in x: `size` pixels from `first` on, clipped to the image.
struct Window {
  int64_t first[kSpatial], size[kSpatial];
};
inline Window read_window(const CorrelationAxis (&axis)[kSpatial], const int64_t (&begin)[kSpatial],
                          const int64_t (&end)[kSpatial]) {
  Window w;
  for (int i = 0; i < kSpatial; ++i) {
    const auto [lo, hi] = axis[i].reads(begin[i], end[i]);
    w.first[i] = min_of(max_of(lo, 0), axis[i].in);
    w.size[i] = max_of(0, min_of(hi, axis[i].in) - w.first[i]);
  }
  return w;
}
// The largest window of any task: chunks may start anywhere, hence the slack of one.
inline int64_t window_pixels(const CorrelationAxis (&axis)[kSpatial],
                             const int64_t (&chunk)[kSpatial]) {
  int64_t pixels = 1;
  for (int i = 0; i < kSpatial; ++i) {
    const auto [lo, hi] = axis[i].reads(0, min_of(chunk[i], axis[i].out));
    pixels *= min_of(hi - lo + 1, axis[i].in);
  }
  return pixels;
}

inline int64_t pixel_offset(const Strides5& s, const int64_t (&at)[kSpatial]) {
  return at[0] * s.sp[0] + at[1] * s.sp[1] + at[2] * s.sp[2];
}

struct BlockSizes {
  int64_t in_pixels, out_pixels, in_pitch, out_pitch;
};
template <class A>
BlockSizes block_sizes(const Correlation& p) {
  const int64_t chunk[] = {p.plane_chunk, p.row_chunk, p.column_chunk};
  BlockSizes s;
  s.in_pixels = window_pixels(p.axis, chunk);
  s.out_pixels = 1;
  for (int i = 0; i < kSpatial; ++i) s.out_pixels *= min_of(chunk[i], p.axis[i].out);
  s.in_pitch = round_up(p.channel_block * p.fan_in / p.fan_out, kLanes<A>);
  s.out_pitch = round_up(p.channel_block, kLanes<A>);
  return s;
}

// The sub-problem of one block, in scratch; its weights are packed from the real problem.
template <class T>
Correlation block_problem(const Correlation& p, int64_t channels) {
  using A = Accum<T>;
  Correlation q = p;
  q.dtype = sizeof(A) == 8 ? Dtype::kFloat64 : Dtype::kFloat32;
  q.prefetch = false;  // the strip is in cache already
  // Others follow.
  q.activation =
      p.window ? brief<T, Tile::kTight>(p.activation) : brief<T, Tile::kEvery>(p.activation);
  q.out_channels = channels;
  q.in_channels = channels * p.fan_in / p.fan_out;
  return q;
}

template <class T>
int64_t blocked_scratch_of(const Correlation& p) {
  using A = Accum<T>;
  const BlockSizes s = block_sizes<A>(p);
  return ChannelScratch<A>::bytes(block_problem<T>(p, p.channel_block)) +
         (s.in_pixels * s.in_pitch + s.out_pixels * s.out_pitch) * static_cast<int64_t>(sizeof(A));
}

template <class T>
void blocked_tasks(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  using A = Accum<T>;
  const BlockSizes size = block_sizes<A>(p);
  A* x = static_cast<A*>(scratch);
  A* y = x + size.in_pixels * size.in_pitch;
  ChannelScratch<A> s;
  Correlation q = block_problem<T>(p, p.channel_block);
  s.carve(q, reinterpret_cast<char*>(y + size.out_pixels * size.out_pitch));
  int64_t packed_block = -1;
  TaskGrid(p).each(begin, end, [&](const Correlation::Task& task) {
    const int64_t channels = task.c1 - task.c0, c_in = task.c0 / p.fan_out * p.fan_in;
    if (task.block != packed_block) {
      s.finite = pack_weights<T>(p, task.c0 * p.fan_in, channels * p.fan_in, s);
      packed_block = task.block;
    }
    q.out_channels = channels;
    q.in_channels = channels * p.fan_in / p.fan_out;
    const Window w = read_window(p.axis, {task.z0, task.y0, task.x0}, {task.z1, task.y1, task.x1});
    const int64_t out[] = {task.z1 - task.z0, task.y1 - task.y0, task.x1 - task.x0};
    q.x_strides = block_strides(w.size, size.in_pitch);
    q.y_strides = block_strides(out, size.out_pitch);
    const T* source = static_cast<const T*>(p.x) + task.n * p.x_strides.n + c_in * p.x_strides.c;
    gather_block<T>(x, size.in_pitch, source + pixel_offset(p.x_strides, w.first), p.x_strides,
                    w.size, q.in_channels);
    // The kernels count pixels from the image's origin, the scratch from the window's.
    const int64_t first_out[] = {task.z0, task.y0, task.x0};
    Correlation::Task local = task;
    local.c0 = 0;
    // Lanes left over are zero.
    local.c1 = p.window || p.volume ? round_up(channels, kLanes<A>) : channels;
    channels_last_task<A>(q, s, local, x - pixel_offset(q.x_strides, w.first),
                          y - pixel_offset(q.y_strides, first_out));
    T* target = static_cast<T*>(p.y) + task.n * p.y_strides.n + task.c0 * p.y_strides.c +
                pixel_offset(p.y_strides, first_out);
    // What the kernels have left is done here, where sums lie one behind the other.
    if (p.activation != q.activation) {
      const int64_t pixels = out[0] * out[1] * out[2];
      finish_all<A, T>(p.activation, {y, y, nullptr, 1, 0, pixels, size.out_pitch, channels});
    }
    scatter_block<T>(target, p.y_strides, y, size.out_pitch, out, channels);
  });
}

// ---- weight gradient ----

template <class T>
int64_t blocked_weight_scratch_of(const WeightPlan& p) {
  using A = Accum<T>;
  const int64_t chunk[] = {1, p.row_chunk, p.column_chunk};
  const int64_t pixels = window_pixels(p.reads, chunk) +
                         min_of(p.row_chunk, p.axis[1].out) * min_of(p.column_chunk, p.axis[2].out);
  return channels_weight_scratch_of<A>(p) +
         pixels * round_up(p.channel_block, kLanes<A>) * static_cast<int64_t>(sizeof(A));
}

// For multiplier 1.
template <class T>
void blocked_weight_tasks(const WeightPlan& p, int64_t begin, int64_t end, void* scratch) {
  using A = Accum<T>;
  const int64_t pitch = round_up(p.channel_block, kLanes<A>);
  const int64_t chunk[] = {1, p.row_chunk, p.column_chunk};
  A* sums = static_cast<A*>(scratch);
  A* x = sums + channels_weight_scratch_of<A>(p) / static_cast<int64_t>(sizeof(A));
  A* dy = x + window_pixels(p.reads, chunk) * pitch;
  WeightPlan q = p;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t c0 = task / p.groups * p.channel_block, group = task % p.groups;
    const int64_t channels = min_of(p.channel_block, p.channels - c0);
    std::memset(sums, 0, channels_weight_scratch_of<A>(p));
    const int64_t last = min_of((group + 1) * p.units_per_group, p.units());
    for (int64_t i = group * p.units_per_group; i < last; ++i) {
      const WeightPlan::Unit u = p.unit(i);
      const Window w = read_window(p.reads, {u.z, u.y0, u.x0}, {u.z + 1, u.y1, u.x1});
      const int64_t out[] = {1, u.y1 - u.y0, u.x1 - u.x0}, first_out[] = {u.z, u.y0, u.x0};
      q.x_strides = block_strides(w.size, pitch);
      q.dy_strides = block_strides(out, pitch);
      gather_block<T>(x, pitch,
                      static_cast<const T*>(p.x) + u.n * p.x_strides.n + c0 * p.x_strides.c +
                          pixel_offset(p.x_strides, w.first),
                      p.x_strides, w.size, channels);
      gather_block<T>(dy, pitch,
                      static_cast<const T*>(p.dy) + u.n * p.dy_strides.n + c0 * p.dy_strides.c +
                          pixel_offset(p.dy_strides, first_out),
                      p.dy_strides, out, channels);
      channels_weight_unit<A>(q, u, x - pixel_offset(q.x_strides, w.first),
                              dy - pixel_offset(q.dy_strides, first_out), 0, channels, sums);
    }
    store_weight_sums<A>(p, sums, c0, channels, group);
  }
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
