// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last bf16 filters of many taps, where one instruction multiplies pairs: packed strips
// whose lanes hold a pixel and the one below it.  The tiles take rows of such pairs for rows, so
// that a filter of 7 rows has 4:
//
//   output row y     even                    odd            (7 rows, padding 3, pairs from row -1)
//   reads rows       y-3 ... y+3             y-3 ... y+3
//   its pairs        (0,1)(2,3)(4,5)(6,.)    (.,0)(1,2)(3,4)(5,6)      of the filter's rows
//
// Every second output row has the filter one row down in its pairs, as in a transposed convolution
// of stride 2; at an even stride all rows have the same.  Where a pair has one row of the filter,
// the other's weight is zero, and infinity times zero is NaN: strips and filters with a number that
// is not finite go by single rows.
#pragma once

#include "ops/depthwise_conv/cpu_packed-inl.h"

#if FASTCONV_LEVEL >= 3

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// How the rows of an image fall into pairs: number i holds the rows `base` + 2i and the next, so
// that the first rows of outputs begin pairs, or every second of them.
struct RowPairs {
  int64_t base;   // 0 or -1
  int64_t count;  // of the image
  int64_t first;  // where output row 0 begins: negative in the padding

  explicit RowPairs(const CorrelationAxis& height) {
    const int64_t offset = height.taps(0).offset;
    base = -floor_mod(offset, 2);
    count = ceil_div(height.in - base, 2);
    first = floor_div(offset - base, 2);
  }
};

// The filter's rows as pairs see them.  At stride 1 there is one more: pairs begin with row -1 or
// a later one.
inline CorrelationAxis pair_axis(const CorrelationAxis& height) {
  const RowPairs pairs(height);
  CorrelationAxis a{pairs.count, height.out, 0, 1, 0, {}, false};
  if (height.step == 1) {
    a.kernel = height.kernel + 1;
    a.phases = 2;
    a.step = 1;
    a.axis = {a.out, a.in, a.kernel, 2, 1, height.kernel - 1 + 2 * pairs.first};
    a.backward = true;
  } else {
    a.kernel = ceil_div(height.kernel, 2);
    a.step = height.step / 2;
    a.axis = {a.in, a.out, a.kernel, a.step, 1, -pairs.first};
  }
  return a;
}

// The problem on pairs.
inline Correlation pair_problem(const Correlation& p) {
  Correlation q = p;
  q.prefetch = false;  // the strip is in cache already
  q.axis[1] = pair_axis(p.axis[1]);
  q.taps = q.axis[0].kernel * q.axis[1].kernel * q.axis[2].kernel;
  return q;
}

// One vector's filters, [tap][lane], as pairs of taps of the same column.
inline void pair_weights(const Correlation& p, const Correlation& q, const float* weight,
                         float* paired) {
  const CorrelationAxis& height = p.axis[1];
  const CorrelationAxis& pairs = q.axis[1];
  const int64_t columns = p.axis[2].kernel, row_step = columns * kLanes<float>;
  const TapRun rows = height.taps(0);
  for (int64_t d = 0; d < p.axis[0].kernel; ++d) {
    const float* plane = weight + (d * height.kernel + rows.tap) * row_step;
    for (int64_t phase = 0; phase < pairs.phases; ++phase) {
      const TapRun run = pairs.taps(phase);
      for (int64_t i = 0; i < run.count; ++i) {
        const int64_t tap = d * pairs.kernel + run.tap + i * run.tap_step;
        pair_rows(plane, height.kernel, rows.tap_step * row_step, columns, 2 * i - phase,
                  paired + tap * row_step);
      }
    }
  }
}

// Packs the pairs that a window's rows lie in, of one vector of channels, and tells whether all
// numbers are finite.  `x` is the image's origin.
inline bool pack_pairs(Bf16Pair* packed, const bf16* x, const Correlation& p, const Window& w,
                       int64_t row, int64_t pairs) {
  constexpr int kV = kLanes<float>;
  constexpr int64_t kAhead = 12;  // pixels: the hardware does not see them coming
  const Strides5& s = p.x_strides;
  const int64_t height = p.axis[1].in;
  const __m512i magnitude = _mm512_set1_epi16(0x7fff);
  __m512i largest = _mm512_setzero_si512();
  for (int64_t z = 0; z < w.size[0]; ++z) {
    const bf16* plane = x + (w.first[0] + z) * s.sp[0] + w.first[2] * s.sp[2];
    for (int64_t i = 0; i < pairs; ++i) {
      const int64_t r = row + 2 * i;
      const bool has_first = r >= 0, has_second = r + 1 < height;
      const bf16* first = plane + (has_first ? r : r + 1) * s.sp[1];
      const bf16* second = plane + (has_second ? r + 1 : r) * s.sp[1];
      const __mmask16 in_first = has_first ? 0xffff : 0, in_second = has_second ? 0xffff : 0;
      for (int64_t j = 0; j < w.size[2]; ++j, packed += kV) {
        __builtin_prefetch(first + kAhead * s.sp[2]);
        __builtin_prefetch(second + kAhead * s.sp[2]);
        const __m512i v = pair_up(_mm256_maskz_loadu_epi16(in_first, first),
                                  _mm256_maskz_loadu_epi16(in_second, second));
        _mm512_storeu_si512(packed, v);
        largest = _mm512_max_epu16(largest, _mm512_and_si512(v, magnitude));
        first += s.sp[2];
        second += s.sp[2];
      }
    }
  }
  return _mm512_cmpge_epu16_mask(largest, _mm512_set1_epi16(0x7f80)) == 0;
}

struct PairScratch {
  PackedScratch<bf16> single;
  ChannelScratch<Bf16Pair> paired;

  int64_t carve(const Correlation& p, char* base) {
    const int64_t bytes = single.carve(p, base);
    return bytes + paired.carve(pair_problem(p), base + bytes);
  }
};

// A task's vector of channels from `channel` on, with the filters that `s` holds; false, and
// nothing is written, if the strip is not finite.  `q` is the problem on pairs, but for where they
// lie.
inline bool paired_vector(const Correlation& p, Correlation& q, const Correlation::Task& task,
                          const Window& w, int64_t channel, PairScratch& s) {
  constexpr int kV = kLanes<float>;
  constexpr int64_t kBand = 8;
  const RowPairs pairs(p.axis[1]);
  const int64_t first = floor_div(w.first[1] - pairs.base, 2);
  const int64_t count = ceil_div(w.first[1] + w.size[1] - pairs.base, 2) - first;
  Bf16Pair* strip = reinterpret_cast<Bf16Pair*>(s.single.x);
  const bf16* source = static_cast<const bf16*>(p.x) + task.n * p.x_strides.n + channel;
  if (!pack_pairs(strip, source, p, w, pairs.base + 2 * first, count)) return false;
  bf16* target = static_cast<bf16*>(p.y) + task.n * p.y_strides.n + channel;
  const int64_t size[] = {w.size[0], count, w.size[2]};
  const int64_t from[] = {w.first[0], first, w.first[2]};
  q.x_strides = block_strides(size, kV);
  Correlation::Task local = task;
  local.c0 = 0;
  local.c1 = kV;
  prepare_geometry(q, local, s.paired);
  const Bf16Pair* x = strip - pixel_offset(q.x_strides, from);
  const int64_t rows = task.y1 - task.y0;
  for (int64_t z = task.z0; z < task.z1; ++z) {
    for (int64_t row = 0; row < rows; row += kBand) {
      bf16* y = target + z * p.y_strides.sp[0] + (task.y0 + row) * p.y_strides.sp[1];
      channel_rows(q, s.paired, local, x, y, 0, (z - task.z0) * rows + row,
                   min_of(kBand, rows - row));
    }
  }
  return true;
}

inline void pair_tasks(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  constexpr int kV = kLanes<float>;
  PairScratch s;
  s.carve(p, static_cast<char*>(scratch));
  Correlation q = pair_problem(p);
  const ChannelScratch<float> filters = s.single.s;
  float* const paired = s.paired.weight;
  int64_t block = -1;
  TaskGrid(p).each(begin, end, [&](const Correlation::Task& task) {
    const int64_t channels = task.c1 - task.c0, vectors = ceil_div(channels, kV);
    if (task.block != block) {
      const bool finite = pack_weights<bf16>(p, task.c0, channels, filters);
      s.single.s.finite = s.paired.finite = finite;
      for (int64_t v = 0; finite && v < vectors; ++v) {
        pair_weights(p, q, filters.weight + v * p.taps * kV, paired + v * q.taps * kV);
      }
      block = task.block;
    }
    const Window w = read_window(p.axis, {task.z0, task.y0, task.x0}, {task.z1, task.y1, task.x1});
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t channel = task.c0 + vector_start(p, v, kV, channels);
      s.single.s.bias = s.paired.bias = filters.bias + v * kV;
      s.paired.weight = paired + v * q.taps * kV;
      if (s.paired.finite && paired_vector(p, q, task, w, channel, s)) continue;
      s.single.s.weight = filters.weight + v * p.taps * kV;
      packed_vector(p, task, w, channel, s.single);
    }
  });
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA

#endif
