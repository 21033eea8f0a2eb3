// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// How the CPU cuts a problem into tasks.  Everything here depends on the problem alone, so results
// are the same for any number of threads.
#include "ops/depthwise_conv/cpu_plan_strips.h"
#include "ops/depthwise_conv/cpu_plan_windows.h"

namespace fastconv::depthwise_conv {
namespace {

constexpr int64_t kRowsBytes = 96 << 10;    // staged rows of one task: within any L2
constexpr int64_t kBlockBytes = 192 << 10;  // input rows that neighbouring output rows share
constexpr int64_t kSumsBytes = 32 << 10;    // weight gradient sums of one task: L1
// Prefetching gains up to twice the speed from L3 and memory, and costs a tenth in L2: see
// docs/lab/depthwise_conv_cpu.md.
constexpr int64_t kPrefetchBytes = 8 << 20;

// Rows are contiguous, and the hardware helps where strips are wide; with AVX2 they are not, and
// beyond L2 wait for most rows.  (3x3 at stride 2 on 1x16x400x400, one thread: 2.7 -> 0.6 ms.)
constexpr int64_t rolling_prefetch_bytes(Isa isa) {
  return is_wide(isa) ? int64_t{16} << 20 : int64_t{1} << 20;
}

CorrelationAxis make_axis(const Axis& a, bool backward) {
  if (backward) return {a.out, a.in, a.kernel, a.stride, 1, a, true};
  return {a.in, a.out, a.kernel, 1, a.stride, a, false};
}

// Channels whose input rows stay in L2 while neighbouring output rows reuse them.
int64_t channel_block(const Problem& p) {
  const Axis& height = p.axis[1];
  const int64_t row = p.axis[2].in * element_size(p.dtype);
  const int64_t shared = height.kernel > 1 ? height.kernel * row : 1;
  return max_of(kLanes, min_of(256, kBlockBytes / max_of(1, shared)) / kLanes * kLanes);
}

// Rows and columns per task such that `groups` other tasks times these come to kTasks or more.
struct Chunks {
  int64_t rows, columns;
};
Chunks chunks_for(int64_t groups, const CorrelationAxis& height, const CorrelationAxis& width) {
  const int64_t rows_wanted = ceil_div(kTasks, max_of(1, groups));
  const int64_t rows =
      even_split(height.out, ceil_div(max_of(1, height.out), rows_wanted), height.phases);
  const int64_t row_chunks = max_of(1, ceil_div(height.out, rows));
  const int64_t columns_wanted = ceil_div(kTasks, max_of(1, groups * row_chunks));
  const int64_t columns = min_of(kColumns, max_of(512, ceil_div(width.out, columns_wanted)));
  return {rows, even_split(width.out, columns, width.phases)};
}

// Output rows whose staged input rows fit the budget, given `planes` of them at once.
int64_t staged_rows(const CorrelationAxis& height, const CorrelationAxis& width, int64_t columns,
                    int64_t planes, Dtype dtype) {
  const auto [lo, hi] = width.reads(0, min_of(columns, max_of(1, width.out)));
  const int64_t row = max_of(1, (hi - lo + 2 * kLanes) * accumulator_size(dtype) * planes);
  const auto [row_lo, row_hi] = height.reads(0, 1);
  const int64_t halo = row_hi - row_lo - 1;
  const int64_t fitting = (kRowsBytes / row - halo) * height.phases / height.step;
  // Never fewer rows than the halo costs, within reason: restaging it would dominate.
  return max_of(max_of(fitting, min_of(height.kernel, 16)), 1);
}

// Filters of one column and one row take whole planes for rows, where rows lie one behind the
// other. `pixel` is the distance of columns.
void join_rows(Correlation& c, int64_t pixel) {
  auto& [depth, height, width] = c.axis;
  const auto follow = [&](const Strides5& s) {
    return (s.sp[2] == pixel || width.in == 1) && (s.sp[1] == width.in * pixel || height.in == 1);
  };
  if (!is_still(width) || !is_still(height) || !follow(c.x_strides) || !follow(c.y_strides)) return;
  c.x_strides.sp[2] = c.y_strides.sp[2] = pixel;  // a single column's may be anything
  width.in = width.out = width.in * height.in;
  const CorrelationAxis still = height;
  height = depth;
  depth = still;
  depth.in = depth.out = 1;
  c.x_strides.sp[1] = c.x_strides.sp[0];
  c.y_strides.sp[1] = c.y_strides.sp[0];
}

// Tasks of so few columns that the rows which neighbouring output rows share stay in L2.
void cut_flat(Correlation& c) {
  constexpr int64_t kFlatBytes = 96 << 10, kRowTaps = 2048, kFewest = 1024;
  auto& [depth, height, width] = c.axis;
  join_rows(c, c.out_channels);
  c.x_strides.sp[2] = c.y_strides.sp[2] = c.out_channels;
  const int64_t unit = flat_period(c.out_channels) / max_of(1, c.out_channels);
  const int64_t row = 4 * height.phases;
  const int64_t rows = depth.kernel * clipped_reads(height, row) + min_of(row, height.out);
  const int64_t pixel = max_of(1, c.out_channels * element_size(c.dtype));
  const int64_t groups = max_of(1, c.batch * depth.out);
  const int64_t spread = max_of(width.out * groups / kTasks, kFewest / pixel);
  const int64_t columns = min_of(kFlatBytes / max_of(1, rows * pixel), spread);
  c.channel_block = c.out_channels;
  c.column_chunk = even_split(width.out, columns, unit);
  const int64_t wanted = ceil_div(kTasks, max_of(1, groups * c.column_chunks()));
  c.row_chunk = even_split(
      height.out, min_of(ceil_div(height.out, wanted), max_of(16, kRowTaps / c.taps)), row);
}

void cut_in_place(Correlation& c) {
  const int64_t planes = c.batch * c.axis[0].out;
  // Whole planes, several channels to a task, or pieces of planes where there are few.
  const Chunks chunks = chunks_for(planes * c.out_channels, c.axis[1], c.axis[2]);
  c.row_chunk = chunks.rows;
  c.column_chunk = chunks.columns;
  c.channel_block = max_of(1, c.out_channels * max_of(1, planes) / kTasks);
}

// Images of one pixel, and of one channel, lie the same way in either layout.  The former fill
// vectors with channels alone (8x768x1, 3 taps: 460 -> 26 us), the latter with columns.
bool has_one_pixel(const Problem& p, const Strides5& x, const Strides5& y) {
  return p.in_pixels() == 1 && p.out_pixels() == 1 && x.c == 1 && y.c == 1;
}
bool has_one_channel(const Problem& p) { return p.in_channels() == 1 && p.out_channels() == 1; }

// Whether the result's images are dense planes, as contiguous ones must be.
bool is_dense(const Correlation& c) {
  int64_t next = 1;
  for (int i = kSpatial - 1; i >= 0; --i) {
    if (c.y_strides.sp[i] != next && c.axis[i].out != 1) return false;
    next *= c.axis[i].out;
  }
  return c.y_strides.n == next * c.out_channels || c.batch == 1;
}

Correlation make_correlation(const Problem& p, const Strides5& x, const Strides5& y, bool backward,
                             Isa isa) {
  Correlation c;
  c.dtype = p.dtype;
  c.batch = p.batch;
  c.in_channels = backward ? p.out_channels() : p.in_channels();
  c.out_channels = backward ? p.in_channels() : p.out_channels();
  c.fan_out = backward == p.wide_in ? p.multiplier : 1;
  c.fan_in = backward == p.wide_in ? 1 : p.multiplier;
  c.taps = p.taps();
  c.x_strides = x;
  c.y_strides = y;
  for (int i = 0; i < kSpatial; ++i) c.axis[i] = make_axis(p.axis[i], backward);
  c.prefetch = activation_bytes(c) > kPrefetchBytes;
  c.activation = Activation::kNone;
  c.plane_chunk = 1;
  c.window = c.volume = c.line = c.planar = c.pairs = c.narrow = c.stream = false;
  const bool planar = can_be_planar(c);
  const bool channels_last =
      has_one_pixel(p, x, y) || (p.channels_last && !(has_one_channel(p) && is_dense(c)));
  if (!channels_last) join_rows(c, 1);
  const CorrelationAxis& height = c.axis[1];
  const CorrelationAxis& width = c.axis[2];
  const bool dense = c.x_strides.sp[2] == 1 || width.in == 1;
  if (channels_last && is_flat(c)) {
    c.engine = Engine::kFlat;
    cut_flat(c);
  } else if (channels_last) {
    c.engine = Engine::kChannels;
    c.planar = planar;
    const int64_t unit = c.planar ? c.unit() : kLanes;
    const int64_t whole = c.planar ? c.out_channels / unit * unit : c.out_channels;
    c.channel_block = even_split(whole, min_of(channel_block(p), weighted_channels(c)), unit);
    const int64_t groups = c.channel_blocks() * c.batch * c.axis[0].out;
    const Chunks chunks = chunks_for(groups, height, width);
    c.row_chunk = chunks.rows;
    c.column_chunk = chunks.columns;
    // A row of sums is to stay in L1, or in L2 where it has all filters of the channels.
    if (c.planar) c.column_chunk = even_split(width.out, min_of(chunks.columns, 128), width.phases);
    if (c.fan_in > 1) {
      const int64_t pixel = c.channel_block * c.fan_in * accumulator_size(c.dtype);
      const int64_t columns = min_of(chunks.columns, kRowsBytes / pixel);
      c.column_chunk = even_split(width.out, columns, width.phases);
    }
    c.window = has_window(c) && c.out_channels >= Correlation::kMinWindow;
    const bool pairs = can_pair(c, isa) && pairs_win(c);
    if (const Strip strip = packed_strip(c, pairs); strip.rows > 0) {
      c.pairs = pairs;
      cut_packed(c, strip);
    } else if (has_line(c)) {
      cut_for_line(c);
    } else if (streams(c, isa)) {
      (c.axis[0].kernel > 1 ? cut_for_stream_of_planes : cut_for_stream)(c);
    } else if (c.out_channels >= Correlation::kMinWindow && has_volume(c, isa)) {
      c.window = false;
      cut_for_volume(c);
    } else if (!c.window && lines(c)) {
      cut_for_line(c);
    } else if (c.window) {
      (c.axis[0].kernel > 1 && width.step > 1 ? cut_for_planes : cut_for_window)(c);
    }
  } else if (dense && scales(c)) {
    c.engine = Engine::kScale;
    cut_in_place(c);
  } else if (dense && can_roll(c) && rolling_wins(c, isa)) {
    c.engine = Engine::kRolling;
    c.prefetch = activation_bytes(c) > rolling_prefetch_bytes(isa);
    cut_in_place(c);
  } else if (dense && bands_win(c, isa) && !row_transposes(c.axis, p.channels)) {
    c.engine = Engine::kDirect;
    cut_in_place(c);
  } else if (const Strip strip =
                 blocked_strip(c.axis, p.channels, c.fan_in, c.fan_out, p.dtype, false);
             strip.rows > 0) {
    c.engine = Engine::kBlocked;
    c.planar = planar;
    c.volume = has_volume(c, isa);
    c.window = !c.volume && has_window(c);
    c.channel_block = kLanes * c.fan_out;
    c.plane_chunk = strip.planes;
    c.row_chunk = strip.rows;
    c.column_chunk = strip.columns;
  } else {
    c.engine = Engine::kRows;
    c.channel_block = c.fan_out;
    const int64_t groups = c.channel_blocks() * c.batch * c.axis[0].out;
    const Chunks chunks = chunks_for(groups, height, width);
    const int64_t planes = c.fan_in * c.axis[0].kernel;
    const int64_t rows = staged_rows(height, width, chunks.columns, planes, p.dtype);
    c.row_chunk = even_split(height.out, min_of(chunks.rows, rows), height.phases);
    c.column_chunk = chunks.columns;
  }
  return c;
}

}  // namespace

Correlation make_forward(const Forward& p, Isa isa) {
  Correlation c = make_correlation(p, p.x_strides, p.y_strides, false, isa);
  c.x = p.x;
  c.weight = p.weight;
  c.bias = p.bias;
  c.y = p.y;
  c.activation = p.activation;
  return c;
}

Correlation make_backward_data(const BackwardData& p, Isa isa) {
  Correlation c = make_correlation(p, p.dy_strides, p.dx_strides, true, isa);
  c.x = p.dy;
  c.weight = p.weight;
  c.bias = p.bias;
  c.y = p.dx;
  return c;
}

WeightPlan make_backward_weight(const BackwardWeight& p, Isa isa) {
  WeightPlan w;
  static_cast<BackwardWeight&>(w) = p;
  for (int i = 0; i < kSpatial; ++i) w.reads[i] = make_axis(p.axis[i], false);
  w.prefetch = tensor_bytes(p.dtype, p.batch, p.in_channels(), p.in_pixels()) +
                   tensor_bytes(p.dtype, p.batch, p.out_channels(), p.out_pixels()) >
               rolling_prefetch_bytes(isa);
  const CorrelationAxis& height = w.reads[1];
  const CorrelationAxis& width = w.reads[2];
  w.column_chunk = even_split(width.out, kColumns, 1);
  int64_t blocks, fewest_rows = 1;
  w.channels_last =
      has_one_pixel(p, p.x_strides, p.dy_strides) || (p.channels_last && !has_one_channel(p));
  if (w.channels_last) {
    w.engine = Engine::kChannels;
    const int64_t per_lane = w.columns() * accumulator_size(p.dtype);
    const int64_t by_sums = kSumsBytes / per_lane / kLanes * kLanes;
    w.channel_block = even_split(p.out_channels(), min_of(channel_block(p), by_sums), kLanes);
    // A strip of one vector of channels stays in L1 while the filter rows go over it.
    const int64_t row = width.in * kLanes * element_size(p.dtype);
    w.row_chunk = max_of(4, kSumsBytes / max_of(1, row));
    fewest_rows = 7;
    const int64_t most_units = p.batch * p.axis[0].out * ceil_div(height.out, fewest_rows);
    const int64_t spread = p.out_channels() * max_of(1, most_units) / kTasks / kLanes * kLanes;
    w.channel_block = even_split(p.out_channels(), min_of(w.channel_block, spread), kLanes);
    blocks = ceil_div(p.out_channels(), w.channel_block);
  } else if (weight_rolls(w, isa)) {
    w.engine = Engine::kRolling;
    w.channel_block = max_of(1, p.out_channels() / kTasks);
    w.row_chunk = max_of(1, height.out);
    blocks = ceil_div(p.out_channels(), w.channel_block);
    fewest_rows = 2 * height.kernel;
  } else if (const Strip strip = blocked_strip(w.reads, p.channels, 1, 1, p.dtype, true);
             p.multiplier == 1 && strip.rows > 0) {
    w.engine = Engine::kBlocked;
    w.channel_block = kLanes;
    blocks = ceil_div(p.channels, kLanes);
    w.row_chunk = strip.rows;
    w.column_chunk = strip.columns;
  } else {
    w.engine = Engine::kRows;
    w.channel_block = p.multiplier;
    blocks = p.channels;
    w.row_chunk = even_split(
        height.out, staged_rows(height, width, w.column_chunk, 1 + p.multiplier, p.dtype), 1);
  }
  // Enough units for the groups, then equal groups of them.
  const int64_t wanted = ceil_div(kTasks, max_of(1, blocks));
  const int64_t rows_wanted = ceil_div(wanted, max_of(1, p.batch * p.axis[0].out));
  w.row_chunk = min_of(w.row_chunk, max_of(fewest_rows, ceil_div(height.out, rows_wanted)));
  w.units_per_group = max_of(1, w.units() / wanted);
  w.groups = max_of(1, ceil_div(w.units(), w.units_per_group));
  return w;
}

}  // namespace fastconv::depthwise_conv
