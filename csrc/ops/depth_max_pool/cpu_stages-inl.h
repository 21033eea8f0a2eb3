// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling, forward, of windows over short rows of pixels, one axis after the other.
//
// The maximum of a window is that of its planes' maxima, which are those of their rows': the inner
// axis comes first, so that the first maximum and the last NaN in the order of visits win as they
// would tap by tap.  What overlapping windows share is then reduced once, and short rows fill
// vectors.
//
// Rows of the input are copied one behind the other, -inf where the padding is, at a pitch that is
// a multiple of the stride: lanes `stride` apart run on from row to row.  Their maxima along the
// row go to rows of `columns`, of which the first `out` are wanted; those of a plane's rows to a
// dense plane, whose next row overwrites what was stored beyond the end of this one; those of a
// window's planes to y.
//
// (One thread of a Zen 4, fp32, 3x3x3 at stride 2: 8x2048x7x7 4.2 -> 1.1 ms, 1x1024x14x14 930 ->
// 100 us, 8x512x28x28 3.7 -> 1.8 ms.)
#pragma once

#include <cstring>

#include "ops/depth_max_pool/cpu_forward-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

// The part of a window that lies inside the input: taps [lo, hi).
struct Inside {
  int64_t lo, hi;
};
FASTCONV_INLINE Inside inside(const Axis& axis, int64_t output) {
  const int64_t start = output * axis.stride - axis.pad;
  return {first_tap(start, 1), end_tap(start, axis)};
}

template <class T, bool kTrack, Access kAccess>
struct StagedRun {
  using A = Accum<T>;
  using I = IntLane<A>;
  static constexpr int kL = kLanes<A>;

  const Forward& p;
  const Axis &channels, &depth, &height, &width;
  Stages s;
  Codes codes;
  Loader<A, kAccess> load_strided;
  A* input;   // [row][pitch]
  A* rows;    // [row][columns], and the winners' codes
  A* planes;  // [plane][output row][output column]
  I *row_codes, *plane_codes;
  I* first_codes;  // what `row_codes` start with

  StagedRun(const Forward& p_in, void* scratch)
      : p(p_in),
        channels(p.axis[0]),
        depth(p.axis[1]),
        height(p.axis[2]),
        width(p.axis[3]),
        s(stages_of(p)),
        codes(codes_of(p)),
        load_strided(width.stride, width.stride) {
    input = static_cast<A*>(scratch);
    rows = input + s.input_elements();
    planes = rows + s.row_elements();
    first_codes = reinterpret_cast<I*>(planes + s.plane_elements());
    row_codes = first_codes + s.row_elements();
    plane_codes = row_codes + s.row_elements();
    for (int64_t i = 0; i < s.input_elements(); ++i) input[i] = kLowest<A>;
    // Vectors read on where rows and planes end: into numbers that are not wanted, but are there.
    std::memset(rows, 0, (s.row_elements() + s.plane_elements()) * sizeof(A));
    if constexpr (kTrack) {
      std::memset(row_codes, 0, (s.row_elements() + s.plane_elements()) * sizeof(I));
      for (int64_t i = 0, column = 0; i < s.row_elements(); ++i) {
        const int64_t first = first_tap(column * width.stride - width.pad, 1);
        first_codes[i] = static_cast<I>(first * codes.code[3]);
        if (++column == s.columns) column = 0;
      }
    }
  }

  static FASTCONV_INLINE Ints<A> load_codes(const I* at) {
    Ints<A> v;
    std::memcpy(&v, at, sizeof v);
    return v;
  }
  static FASTCONV_INLINE void store_stage(A* at, I* code_at, Vec<A> best, Ints<A> code) {
    store(at, best);
    if constexpr (kTrack) std::memcpy(code_at, &code, sizeof code);
  }

  // `best` and `code` go on with a later stage's element, whose code is `more` larger.
  static FASTCONV_INLINE void start(Vec<A>& best, Ints<A>& code, const A* at, const I* code_at,
                                    int64_t more) {
    best = load(at);
    if constexpr (kTrack) code = load_codes(code_at) + set1_int<A>(more);
  }
  static FASTCONV_INLINE void go_on(Vec<A>& best, Ints<A>& code, const A* at, const I* code_at,
                                    int64_t more) {
    if constexpr (kTrack) {
      take_later(best, code, load(at), load_codes(code_at) + set1_int<A>(more));
    } else {
      take_max(best, load(at));
    }
  }

  // Rows [h0, h0 + count) of a plane, whose row 0 is x, become rows of `input` from `row` on.
  void copy_rows(const T* x, int64_t h0, int64_t count, int64_t row) const {
    const int64_t n = min_of(width.in, s.pitch - width.pad);
    A* to = input + row * s.pitch + width.pad;
    const T* from = x + h0 * p.x_strides.axis[2];
    for (int64_t h = 0; h < count; ++h, to += s.pitch, from += p.x_strides.axis[2]) {
      for (int64_t i = 0; i < n; i += kL) store(to + i, load_range(from + i, 0, n - i, kLowest<A>));
    }
  }

  void reduce_rows(int64_t count) const {
    for (int64_t i = 0; i < count * s.columns; i += kL) {
      const A* at = input + i * width.stride;
      Vec<A> best = set1<A>(kLowest<A>);
      Ints<A> code;
      if constexpr (kTrack) code = load_codes(first_codes + i);
      for (int64_t k = 0; k < width.kernel; ++k) {
        if constexpr (kTrack) {
          take_max(best, code, load_strided(at + k), k * codes.code[3]);
        } else {
          take_max(best, load_strided(at + k));
        }
      }
      store_stage(rows + i, row_codes + i, best, code);
    }
  }

  // Output rows [y0, y1) of a plane; `rows` has rows from h0 on of each plane from kd.lo on.
  void reduce_plane(int64_t slot, Inside kd, int64_t y0, int64_t y1, int64_t h0,
                    int64_t count) const {
    for (int64_t y = y0; y < y1; ++y) {
      const Inside kh = inside(height, y);
      const int64_t to = slot * s.plane() + (y - y0) * width.out;
      const int64_t h = y * height.stride - height.pad - h0;
      for (int64_t j = 0; j < width.out; j += kL) {
        Vec<A> best;
        Ints<A> code;
        for (int64_t d = kd.lo; d < kd.hi; ++d) {
          for (int64_t k = kh.lo; k < kh.hi; ++k) {
            const int64_t at = ((d - kd.lo) * count + h + k) * s.columns + j;
            const int64_t more = d * codes.code[1] + k * codes.code[2];
            if (d == kd.lo && k == kh.lo) {
              start(best, code, rows + at, row_codes + at, more);
            } else {
              go_on(best, code, rows + at, row_codes + at, more);
            }
          }
        }
        store_stage(planes + to + j, plane_codes + to + j, best, code);
      }
    }
  }

  // `count` elements of y from the planes of one window, the first of which would be `slot`.
  void reduce_channels(int64_t slot, Inside kc, int64_t count, int64_t y_at) const {
    for (int64_t i = 0; i < count; i += kL) {
      Vec<A> best;
      Ints<A> code;
      int64_t k = kc.lo, at = (slot + k) * s.plane() + i;
      start(best, code, planes + at, plane_codes + at, k * codes.code[0]);
      while (++k < kc.hi) {
        at += s.plane();
        go_on(best, code, planes + at, plane_codes + at, k * codes.code[0]);
      }
      const int n = static_cast<int>(min_of(kL, count - i));
      store_exact(static_cast<T*>(p.y) + y_at + i, best, n);
      if constexpr (kTrack) store_codes<A>(p.index_type, p.index, y_at + i, code, n, 0, 0);
    }
  }

  void task(int64_t n, int64_t z, int64_t c0, int64_t c1, int64_t y0, int64_t y1) const {
    const Inside kd = inside(depth, z);
    const int64_t d0 = z * depth.stride - depth.pad;
    const int64_t h0 = max_of(0, y0 * height.stride - height.pad);
    const int64_t h1 = min_of(height.in, (y1 - 1) * height.stride - height.pad + height.kernel);
    const int64_t first = c0 * channels.stride - channels.pad;
    const int64_t in0 = max_of(0, first);
    const int64_t in1 =
        min_of(channels.in, (c1 - 1) * channels.stride - channels.pad + channels.kernel);
    for (int64_t c = in0; c < in1; ++c) {
      const T* x = static_cast<const T*>(p.x) + n * p.x_strides.n + c * p.x_strides.axis[0];
      for (int64_t d = kd.lo; d < kd.hi; ++d) {
        copy_rows(x + (d0 + d) * p.x_strides.axis[1], h0, h1 - h0, (d - kd.lo) * (h1 - h0));
      }
      reduce_rows((kd.hi - kd.lo) * (h1 - h0));
      reduce_plane(c - in0, kd, y0, y1, h0, h1 - h0);
    }
    const int64_t y_at = n * p.y_strides.n + z * p.y_strides.axis[1] + y0 * width.out;
    for (int64_t c = c0; c < c1; ++c) {
      reduce_channels(c * channels.stride - channels.pad - in0, inside(channels, c),
                      (y1 - y0) * width.out, y_at + c * p.y_strides.axis[0]);
    }
  }

  void tasks(int64_t begin, int64_t end) const {
    const int64_t bands = ceil_div(height.out, s.rows);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t y0 = i % bands * s.rows, z = i / bands % depth.out;
      const int64_t rest = i / bands / depth.out, blocks = ceil_div(channels.out, s.channels);
      const int64_t c0 = rest % blocks * s.channels;
      task(rest / blocks, z, c0, min_of(channels.out, c0 + s.channels), y0,
           min_of(height.out, y0 + s.rows));
    }
  }
};

template <class T, bool kTrack>
void stages_tracked(const Forward& p, void* scratch, int64_t begin, int64_t end) {
  constexpr Access kOther = kMaxPermuteStep > 0 ? Access::kPermute : Access::kGather;
  switch (access_of(p.axis[3].stride)) {
    case Access::kUnit:
      return StagedRun<T, kTrack, Access::kUnit>(p, scratch).tasks(begin, end);
    case Access::kTwo:
      return StagedRun<T, kTrack, Access::kTwo>(p, scratch).tasks(begin, end);
    case Access::kFour:
      return StagedRun<T, kTrack, Access::kFour>(p, scratch).tasks(begin, end);
    default:
      return StagedRun<T, kTrack, kOther>(p, scratch).tasks(begin, end);
  }
}

template <class T>
void forward_typed(const Forward& p, void* scratch, int64_t begin, int64_t end) {
  const bool tracked = p.index_type != IndexType::kNone;
  if (in_stages(p)) {
    (tracked ? stages_tracked<T, true> : stages_tracked<T, false>)(p, scratch, begin, end);
  } else {
    (tracked ? forward_tracked<T, true> : forward_tracked<T, false>)(p, scratch, begin, end);
  }
}

void forward(const Forward& p, void* scratch, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case Dtype::kFloat32:
      return forward_typed<float>(p, scratch, begin, end);
    case Dtype::kFloat64:
      return forward_typed<double>(p, scratch, begin, end);
    case Dtype::kFloat16:
      return forward_typed<f16>(p, scratch, begin, end);
    case Dtype::kBFloat16:
      return forward_typed<bf16>(p, scratch, begin, end);
  }
}

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
