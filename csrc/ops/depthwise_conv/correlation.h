// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Forward and backward-data seen as one operation, for the CPU kernels.
//
// Along each axis the outputs fall into `phases`; output o = phase + phases * t reads
//   in[step * t + offset + i * offset_step]   with tap   tap + i * tap_step,   0 <= i < count.
// Forward:        one phase, step = stride, taps 0, 1, ... at offsets -pad, dilation - pad, ...
// Backward-data:  `stride` phases with step 1.  dx[i] needs o with o*stride = i + pad - k*dilation;
//   for i = phase + stride*t, o = t + (phase + pad - k*dilation) / stride wherever that divides.
//   The taps of one phase are stride/g apart and their offsets dilation/g, g = gcd(stride,
//   dilation): again an arithmetic progression, so no table of taps is needed.
#pragma once

#include "common/activation.h"
#include "common/types.h"
#include "ops/depthwise_conv/depthwise_conv.h"

namespace fastconv::depthwise_conv {

// Which kernels serve a problem.
enum class Engine : uint8_t {
  kChannels,  // channels-last: lanes are channels
  kPacked,    // channels-last, many taps: lanes are channels, copied to where they are dense
  kFlat,      // channels-last, filters of one column: lanes are channels of all columns
  kScale,     // contiguous, filters of one tap: lanes are columns
  kRolling,   // contiguous, small square filters: lanes are columns, strips roll down the image
  kDirect,    // contiguous: lanes are columns, bands of rows read in place
  kRows,      // contiguous: lanes are columns, bands of staged rows
  kBlocked,   // contiguous, small planes: blocks of channels transposed in cache
};

struct TapRun {
  int64_t count, tap, tap_step, offset, offset_step;
};

struct CorrelationAxis {
  int64_t in, out, kernel, phases, step;
  Axis axis;
  bool backward;

  // How many outputs of a phase lie in [0, o): those are t in [0, that many).
  constexpr int64_t outputs(int64_t phase, int64_t o) const {
    return phase >= o ? 0 : ceil_div(o - phase, phases);
  }

  constexpr TapRun taps(int64_t phase) const {
    const auto [in_, out_, k, stride, dilation, pad] = axis;
    if (!backward) return {k, 0, 1, -pad, dilation};
    // The last tap that meets this phase comes first: offsets then increase.
    const int64_t period = stride / gcd(stride, dilation);
    for (int64_t tap = k - 1; tap >= max_of(0, k - period); --tap) {
      const int64_t numerator = phase + pad - tap * dilation;
      if (floor_mod(numerator, stride) == 0) {
        return {tap / period + 1, tap, -period, floor_div(numerator, stride),
                dilation * period / stride};
      }
    }
    return {0, 0, 0, 0, 1};
  }

  // The in-bounds taps of output t: i in [first, last).
  struct Range {
    int64_t first, last;
  };
  constexpr Range valid(const TapRun& run, int64_t t) const {
    const int64_t x = step * t + run.offset;
    const int64_t first = x >= 0 ? 0 : ceil_div(-x, run.offset_step);
    const int64_t last = x >= in ? 0 : ceil_div(in - x, run.offset_step);
    return {first, min_of(last, run.count)};
  }

  // Bounds of the input positions that any output in [o0, o1) reads, unclipped: [lo, hi).
  constexpr Range reads(int64_t o0, int64_t o1) const {
    if (backward) {
      const int64_t span = (axis.kernel - 1) * axis.dilation;
      return {floor_div(o0 + axis.pad - span, axis.stride),
              floor_div(o1 - 1 + axis.pad, axis.stride) + 1};
    }
    return {o0 * step - axis.pad,
            (o1 - 1) * step - axis.pad + (axis.kernel - 1) * axis.dilation + 1};
  }

 private:
  static constexpr int64_t gcd(int64_t a, int64_t b) { return b == 0 ? a : gcd(b, a % b); }
};

// Elements after which the weights of channels-last pixels, one behind the other, repeat in whole
// vectors of any level.
constexpr int64_t flat_period(int64_t channels) {
  const int64_t common = channels & -channels;  // the power of two in it
  return common >= 16 ? channels : channels * (16 / common);
}

// x -> y, where y has `fan_out` channels per channel of x (forward, and what is transposed) or x
// has `fan_in` channels per channel of y (backward-data, and the gradient of what is transposed).
// One of the two is 1.
struct Correlation {
  static constexpr int64_t kMinWindow = 16;  // channels: a vector of any level and dtype
  static constexpr int64_t kMostLine = 8;    // taps of a run of a line

  Dtype dtype;
  Engine engine;
  int64_t batch, in_channels, out_channels, fan_out, fan_in;
  int64_t taps;
  CorrelationAxis axis[kSpatial];
  const void* x;
  Strides5 x_strides;
  const void* weight;  // dense (max(in_channels, out_channels), taps)
  const void* bias;    // null, or out_channels of them
  void* y;
  Strides5 y_strides;
  Activation activation;  // only where fan_in is 1
  bool prefetch;          // tensors far larger than a core's own caches
  bool narrow;            // a window's tasks have few columns and all channels
  bool stream;            // a window's tasks go from pixel to pixel: see cpu_stream-inl.h
  bool window;            // a small dense filter, served by cpu_window-inl.h (kChannels, kBlocked)
  bool volume;            // a filter of a few planes, served by cpu_volume-inl.h (the same engines)
  bool line;              // pixel after pixel, served by cpu_line-inl.h (kChannels)
  bool pairs;             // rows of bf16 two by two, served by cpu_pairs-inl.h (kPacked)
  bool planar;            // fan_out > 1: a vector's channels meet their filters one after another

  // The task grid: channel blocks x batch x plane chunks x row chunks x column chunks, the last one
  // fastest; blocks are fastest where each pixel holds all of them.  Chunks are whole multiples of
  // the phases.
  int64_t channel_block, plane_chunk, row_chunk, column_chunk;

  // Whether a window or a line meets the taps in the opposite order: in that of the input.
  constexpr bool reversed() const {
    return (window || (line && line_run() > 1)) && axis[2].backward && axis[2].phases == 1;
  }
  // Neighbouring taps of a line that meet neighbouring pixels.
  constexpr int64_t line_run() const {
    const CorrelationAxis& width = axis[2];
    const bool dense = width.step == 1 && width.phases == 1 && width.axis.dilation == 1;
    return dense && width.kernel <= kMostLine ? width.kernel : 1;
  }
  // These need whole vectors.  In the tensor itself the last one of a block overlaps the one
  // before, and the last block takes what would make a smaller one.
  constexpr bool overlaps() const {
    return engine == Engine::kPacked ||
           ((window || volume || line || planar) && engine == Engine::kChannels);
  }
  // Threads get neighbouring tasks.  Where pixels hold all channels, two threads would otherwise
  // write into the same cache lines, or pairs of them.
  constexpr bool blocks_last() const {
    return engine == Engine::kChannels || engine == Engine::kPacked;
  }
  constexpr int64_t unit() const { return kMinWindow * fan_out; }  // output channels of a vector
  constexpr int64_t channel_blocks() const {
    return ceil_div(overlaps() ? out_channels / unit() * unit() : out_channels, channel_block);
  }
  constexpr int64_t row_chunks() const { return ceil_div(axis[1].out, row_chunk); }
  constexpr int64_t column_chunks() const { return ceil_div(axis[2].out, column_chunk); }
  constexpr int64_t plane_chunks() const { return ceil_div(axis[0].out, plane_chunk); }
  constexpr int64_t tasks() const {
    return channel_blocks() * batch * plane_chunks() * row_chunks() * column_chunks();
  }

  // One task: output channels [c0, c1) of image n, planes [z0, z1), rows [y0, y1), columns [x0,
  // x1).
  struct Task {
    int64_t block, c0, c1, n, z0, z1, y0, y1, x0, x1;
  };
  // Elementary steps of one task, for the threading grain: vector FMAs, and loads and stores.
  constexpr int64_t work() const {
    const int64_t pixels = min_of(plane_chunk, axis[0].out) * min_of(row_chunk, axis[1].out) *
                           min_of(column_chunk, axis[2].out);
    return 1 + pixels * min_of(channel_block, out_channels) * (taps * fan_in + 8) / 32;
  }
};

// The tasks by number, and the counts that number them, worked out once.
class TaskGrid {
 public:
  explicit constexpr TaskGrid(const Correlation& c)
      : c_(c),
        blocks_(c.channel_blocks()),
        planes_(c.plane_chunks()),
        rows_(c.row_chunks()),
        columns_(c.column_chunks()) {}

  // Calls f(task) for the tasks [begin, end), block after block: a block's weights are packed once.
  template <class F>
  void each(int64_t begin, int64_t end, const F& f) const {
    const int64_t step = c_.blocks_last() ? blocks_ : 1;
    for (int64_t first = begin; first < min_of(begin + step, end); ++first) {
      for (int64_t i = first; i < end; i += step) f(task(i));
    }
  }

 private:
  constexpr Correlation::Task task(int64_t index) const {
    const auto next = [&index](int64_t count) {
      const int64_t rest = index % count;
      index /= count;
      return rest;
    };
    int64_t block = c_.blocks_last() ? next(blocks_) : 0;
    const int64_t column = next(columns_), row = next(rows_), plane = next(planes_);
    const int64_t n = next(c_.batch);
    if (!c_.blocks_last()) block = index;
    return {block,
            block * c_.channel_block,
            block + 1 == blocks_ ? c_.out_channels : (block + 1) * c_.channel_block,
            n,
            plane * c_.plane_chunk,
            min_of((plane + 1) * c_.plane_chunk, c_.axis[0].out),
            row * c_.row_chunk,
            min_of((row + 1) * c_.row_chunk, c_.axis[1].out),
            column * c_.column_chunk,
            min_of((column + 1) * c_.column_chunk, c_.axis[2].out)};
  }

  const Correlation& c_;
  int64_t blocks_, planes_, rows_, columns_;
};

}  // namespace fastconv::depthwise_conv
