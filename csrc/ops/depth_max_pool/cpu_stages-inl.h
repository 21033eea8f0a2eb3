// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling, forward, of windows over several axes, one axis after the other.
//
// The maximum of a window is that of its planes' maxima, which are those of their rows'.  Axes are
// reduced in the order of memory: the outer two while the input is read, in runs over many rows;
// then rows; the dense axis, whose lanes must be picked apart, comes last, when least is left.
// Maxima may be taken in any order (see cpu_maxima-inl.h), and what follows the end of a row does
// not matter.  What depends on the order is looked up: where a tile has a NaN, or -0 and winners
// are not known, its windows are visited again tap by tap.
#pragma once

#include "ops/depth_max_pool/cpu_ranks-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

// The part of a window that lies inside the input: taps [lo, hi).
struct Inside {
  int64_t lo, hi;
};
FASTCONV_INLINE Inside inside(const Axis& axis, int64_t output) {
  const int64_t start = output * axis.stride - axis.pad;
  return {max_of(0, -start), min_of(axis.kernel, axis.in - start)};
}

// Outputs [begin, end) of an axis, and the inputs that they read.
struct Part {
  int64_t begin, end, in_begin, in_end;

  FASTCONV_INLINE int64_t inputs() const { return in_end - in_begin; }
};
FASTCONV_INLINE Part part_of(const Axis& axis, int64_t length, int64_t index) {
  const int64_t begin = index * length, end = min_of(axis.out, begin + length);
  return {begin, end, max_of(0, begin * axis.stride - axis.pad),
          min_of(axis.in, (end - 1) * axis.stride - axis.pad + axis.kernel)};
}

template <class T, class Maxima>
struct StagedRun {
  using V = typename Maxima::V;
  using Seen = typename Maxima::Seen;
  using Array = typename Maxima::Array;
  using Index = typename Maxima::Index;
  static constexpr int kL = Maxima::kL;

  const Forward& p;
  Stages s;
  Codes codes;
  const Axis &row, &column;  // the two inner axes, in the order of memory
  int64_t row_code, column_code;
  Tap* taps;                                       // of the outer axes
  Array merged, line, spread;                      // see stages_of()
  bool short_rows;                                 // a row and a lane of padding fit into a vector
  Index inside_row, lane_of[Stages::kMostKernel];  // then: its lanes, and those of each tap
  int64_t count = 0;

  StagedRun(const Forward& p_in, void* scratch)
      : p(p_in),
        s(stages_of(p)),
        codes(codes_of(p)),
        row(p.axis[s.axis[2]]),
        column(p.axis[s.axis[3]]),
        row_code(codes.code[s.axis[2]]),
        column_code(codes.code[s.axis[3]]),
        taps(static_cast<Tap*>(scratch)),
        merged(Maxima::array(taps + s.taps, s.elements())),
        line(merged + s.merged_elements()),
        spread(line + s.line_elements()),
        short_rows(kPermutes<typename Maxima::Element> && column.in < kL && column.out <= kL) {
    for (int64_t i = 0; i < s.elements(); i += kL) (merged + i).store(Maxima::lowest());
    if (!short_rows) return;
    for (int i = 0; i < kL; ++i) {
      inside_row[i] = i < column.in ? -1 : 0;
      for (int64_t k = 0; k < column.kernel; ++k) {
        const int64_t at = i * column.stride - column.pad + k;
        lane_of[k][i] = at >= 0 && at < column.in ? at : kL - 1;
      }
    }
  }

  // n elements at x and their taps on the outer axes.
  void merge(const T* x, int64_t n, Array to, Seen& seen) const {
    for (int64_t i = 0; i < n; i += kL, to = to + kL) {
      const int lanes = static_cast<int>(min_of(kL, n - i));
      V best = Maxima::of(x + taps[0].offset + i, lanes, taps[0].code, seen);
      for (int64_t t = 1; t < count; ++t) {
        Maxima::take(best, Maxima::of(x + taps[t].offset + i, lanes, taps[t].code, seen));
      }
      to.store(best);
    }
  }

  // Taps [k.lo, k.hi) of the row axis, the first of which is at `at`.
  FASTCONV_INLINE V reduce_rows(Array at, const Inside& k, int64_t width) const {
    V best = Maxima::later(at.load(), k.lo * row_code);
    for (int64_t t = k.lo + 1; t < k.hi; ++t) {
      at = at + width;
      Maxima::meet(best, Maxima::later(at.load(), t * row_code));
    }
    return best;
  }

  // The windows of a row that is one vector.
  FASTCONV_INLINE V reduce_short(V v) const {
    if constexpr (kPermutes<typename Maxima::Element>) {
      const V padded = Maxima::select(inside_row, v, Maxima::lowest());
      v = Maxima::permute(padded, lane_of[0]);
      for (int64_t k = 1; k < column.kernel; ++k) {
        Maxima::meet(v, Maxima::later(Maxima::permute(padded, lane_of[k]), k * column_code));
      }
    }
    return v;
  }

  // kL windows, one after the other, the first of which begins at `at`.
  FASTCONV_INLINE V reduce_unit(Array at) const {
    V best = at.load();
    for (int64_t k = 1; k < column.kernel; ++k) {
      Maxima::meet(best, Maxima::later((at + k).load(), k * column_code));
    }
    return best;
  }
  FASTCONV_INLINE V reduce_pairs(Array at) const {
    V low = at.load(), high = (at + kL).load(), best = Maxima::even(low, high);
    for (int64_t k = 1; k < column.kernel; ++k) {
      if (k % 2 == 0) {
        low = (at + k).load();
        high = (at + k + kL).load();
      }
      const V v = k % 2 == 0 ? Maxima::even(low, high) : Maxima::odd(low, high);
      Maxima::meet(best, Maxima::later(v, k * column_code));
    }
    return best;
  }

  // `line`, padded, to n elements of y.
  FASTCONV_INLINE void reduce_columns(int64_t y_at, int64_t n, Seen& seen) const {
    const int64_t stride = column.stride;
    if (stride > 2) {
      for (int64_t i = 0; i < n * stride; i += kL) (spread + i).store(reduce_unit(line + i));
      for (int64_t i = 1; i < n; ++i) (spread + i).copy(spread + i * stride);
    }
    for (int64_t j = 0; j < n; j += kL) {
      const V best = stride == 1   ? reduce_unit(line + j)
                     : stride == 2 ? reduce_pairs(line + 2 * j)
                                   : (spread + j).load();
      Maxima::write(p, y_at + j, best, static_cast<int>(min_of(kL, n - j)), seen);
    }
  }

  // Coordinates of an output on the two outer axes.
  struct Place {
    int64_t n, first, second;
  };

  // What the scan of depth_max_pool.h finds for one output.
  void scan(const Place& place, int64_t y, int64_t j, int64_t y_at) const {
    int64_t start[kAxes];
    const int64_t out[kAxes] = {place.first, place.second, y, j};
    Inside in[kAxes];
    const T* x = static_cast<const T*>(p.x) + place.n * p.x_strides.n;
    for (int i = 0; i < kAxes; ++i) {
      const int a = s.axis[i];
      in[a] = inside(p.axis[a], out[i]);
      start[a] = out[i] * p.axis[a].stride - p.axis[a].pad;
    }
    const T* winner = nullptr;
    int64_t code = 0;
    const int64_t* step = p.x_strides.axis;
    for (int64_t c = in[0].lo; c < in[0].hi; ++c) {
      for (int64_t d = in[1].lo; d < in[1].hi; ++d) {
        for (int64_t h = in[2].lo; h < in[2].hi; ++h) {
          for (int64_t w = in[3].lo; w < in[3].hi; ++w) {
            const T* at = x + (start[0] + c) * step[0] + (start[1] + d) * step[1] +
                          (start[2] + h) * step[2] + (start[3] + w) * step[3];
            const auto v = to_float(*at);
            if (winner != nullptr && !(v > to_float(*winner)) && v == v) continue;
            winner = at;
            code = c * codes.code[0] + d * codes.code[1] + h * codes.code[2] + w * codes.code[3];
          }
        }
      }
    }
    static_cast<T*>(p.y)[y_at] = *winner;
    if (p.index_type == IndexType::kUint8) {
      static_cast<uint8_t*>(p.index)[y_at] = static_cast<uint8_t>(code);
    } else if (p.index_type == IndexType::kInt32) {
      static_cast<int32_t*>(p.index)[y_at] = static_cast<int32_t>(code);
    }
  }

  void tile(const T* x, const Place& place, int64_t y_at, const Part& rows,
            const Part& columns) const {
    const int64_t width = columns.inputs(), row_step = p.x_strides.axis[s.axis[2]];
    const T* from = x + rows.in_begin * row_step + columns.in_begin;
    Seen seen;
    if (row_step == width) {
      merge(from, rows.inputs() * width, merged, seen);
    } else {
      for (int64_t i = 0; i < rows.inputs(); ++i) {
        merge(from + i * row_step, width, merged + i * width, seen);
      }
    }
    const int64_t y_step = p.y_strides.axis[s.axis[2]], n = columns.end - columns.begin;
    const int64_t lead = columns.in_begin - (columns.begin * column.stride - column.pad);
    const int64_t padded = (n - 1) * column.stride + column.kernel;
    y_at += rows.begin * y_step + columns.begin;
    for (int64_t i = 0; i < lead; i += kL) (line + i).store(Maxima::lowest());
    for (int64_t y = rows.begin, at = y_at; y < rows.end; ++y, at += y_step) {
      const Inside k = inside(row, y);
      const Array first = merged + (y * row.stride - row.pad - rows.in_begin + k.lo) * width;
      if (short_rows) {
        const V best = reduce_short(reduce_rows(first, k, width));
        Maxima::write(p, at, best, static_cast<int>(n), seen);
      } else if (column.is_plain()) {
        for (int64_t i = 0; i < n; i += kL) {
          const V best = reduce_rows(first + i, k, width);
          Maxima::write(p, at + i, best, static_cast<int>(min_of(kL, n - i)), seen);
        }
      } else {
        const Array to = line + lead;
        for (int64_t i = 0; i < width; i += kL) (to + i).store(reduce_rows(first + i, k, width));
        for (int64_t i = width; i < padded - lead; i += kL) (to + i).store(Maxima::lowest());
        reduce_columns(at, n, seen);
      }
    }
    if (!seen.any()) return;
    for (int64_t y = rows.begin; y < rows.end; ++y, y_at += y_step) {
      for (int64_t j = 0; j < n; ++j) scan(place, y, columns.begin + j, y_at + j);
    }
  }

  void tasks(int64_t begin, int64_t end) {
    const int a0 = s.axis[0], a1 = s.axis[1];
    const Axis &first = p.axis[a0], &second = p.axis[a1];
    const int64_t bands = ceil_div(row.out, s.rows), pieces = ceil_div(column.out, s.columns);
    int64_t piece = begin % pieces, band = begin / pieces % bands;
    int64_t rest = begin / pieces / bands;
    Place place{rest / second.out / first.out, rest / second.out % first.out, rest % second.out};
    bool fresh = true;
    const T* x = nullptr;
    int64_t y_at = 0;
    for (int64_t task = begin; task < end; ++task) {
      if (fresh) {
        const Inside k0 = inside(first, place.first), k1 = inside(second, place.second);
        const int64_t step0 = p.x_strides.axis[a0], step1 = p.x_strides.axis[a1];
        count = 0;
        for (int64_t i = k0.lo; i < k0.hi; ++i) {
          for (int64_t j = k1.lo; j < k1.hi; ++j) {
            taps[count++] = {i * step0 + j * step1, i * codes.code[a0] + j * codes.code[a1]};
          }
        }
        x = static_cast<const T*>(p.x) + place.n * p.x_strides.n +
            (place.first * first.stride - first.pad) * step0 +
            (place.second * second.stride - second.pad) * step1;
        y_at = place.n * p.y_strides.n + place.first * p.y_strides.axis[a0] +
               place.second * p.y_strides.axis[a1];
      }
      // Whole rows follow one another in memory.
      const Part columns =
          pieces > 1 ? part_of(column, s.columns, piece) : Part{0, column.out, 0, column.in};
      tile(x, place, y_at, part_of(row, s.rows, band), columns);
      fresh = ++piece == pieces && (piece = 0, ++band) == bands;
      if (!fresh) continue;
      band = 0;
      if (++place.second < second.out) continue;
      place.second = 0;
      if (++place.first < first.out) continue;
      place.first = 0;
      ++place.n;
    }
  }
};

template <class T>
void forward_typed(const Forward& p, void* scratch, int64_t begin, int64_t end) {
  const bool tracked = p.index_type != IndexType::kNone;
  if (!in_stages(p)) {
    return (tracked ? forward_tracked<T, true> : forward_tracked<T, false>)(p, scratch, begin, end);
  }
  if (tracked) return StagedRun<T, Winners<T>>(p, scratch).tasks(begin, end);
  StagedRun<T, Untracked<T>>(p, scratch).tasks(begin, end);
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
