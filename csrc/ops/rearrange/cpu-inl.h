// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernels of plan.h, re-included per ISA level.  Each handles one outer position: `in` and
// `out` are its first elements, [begin, end) the part of the long axis that belongs to the task.
// `left`: the positions of the task that follow in the output, so that may be written over.
#pragma once

#include "ops/rearrange/permute-inl.h"

namespace fastconv::rearrange::FASTCONV_ISA {

// The widest vector of the level, for plain copies.
constexpr int64_t kWide = FASTCONV_LEVEL >= 2 ? 64 : FASTCONV_LEVEL == 1 ? 32 : 16;
typedef char Wide __attribute__((vector_size(kWide)));

FASTCONV_REARRANGE_INLINE void move_wide(char* out, const char* in) {
  Wide v;
  std::memcpy(&v, in, kWide);
  std::memcpy(out, &v, kWide);
}

// memcpy takes a microcoded path for runs of a few KiB, which starts slowly.  (4x232x28x28 fp32,
// channel_shuffle in 2 groups: 49 -> 47 us on one thread.)
inline void copy_wide(char* out, const char* in, int64_t n) {
  move_wide(out, in);
  const int64_t first = kWide - static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % kWide);
  int64_t i = first;  // stores are aligned from here on
  for (; i + 4 * kWide <= n; i += 4 * kWide) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) move_wide(out + i + k * kWide, in + i + k * kWide);
  }
  for (; i + kWide <= n; i += kWide) move_wide(out + i, in + i);
  move_wide(out + n - kWide, in + n - kWide);
}

// Overlapping moves instead of a loop over the rest: n is the same run after run.
FASTCONV_REARRANGE_INLINE void copy_run(char* out, const char* in, int64_t n) {
  if (n >= kWide) {
    if (n >= 4 * kWide) return copy_wide(out, in, n);
    for (int64_t i = 0; i + kWide < n; i += kWide) move_wide(out + i, in + i);
    move_wide(out + n - kWide, in + n - kWide);
  } else if (n >= 16) {
#if FASTCONV_LEVEL >= 2
    if (n >= 32) {
      store(out, load32(in));
      return store(out + n - 32, load32(in + n - 32));
    }
#endif
    for (int64_t i = 0; i + 16 < n; i += 16) store16(out + i, load16(in + i));
    store16(out + n - 16, load16(in + n - 16));
  } else if (n >= 8) {
    move_element<8>(out, in);
    move_element<8>(out + n - 8, in + n - 8);
  } else if (n >= 4) {
    move_element<4>(out, in);
    move_element<4>(out + n - 4, in + n - 4);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = in[i];
  }
}

FASTCONV_REARRANGE_INLINE void copy_vectors(char* out, const char* in, int64_t n) {
  for (int64_t i = 0; i < n; ++i) store16(out + i * kVector, load16(in + i * kVector));
}

// Rows of the input become one output row: out[j * I + i] = row_i[j].  I == P where kFull, else
// P / 2 < I < P: the last rows are read again, and each vector is stored over the useless end of
// the one before.
template <int kBytes, int E, int P, bool kFull>
struct Interleave {
  static void run(const Plan& p, const char* in, char* out, int64_t begin, int64_t end,
                  int64_t left) {
    constexpr int64_t kLanes = kBytes / E;
    const char* row[P];
    for (int64_t i = 0; i < P; ++i) row[i] = in + p.rows.offset(min_of(i, p.rows.size - 1));
    if constexpr (kFull) {
      for (int64_t j = begin; j < end; j += kLanes) {
        j = min_of(j, end - kLanes);
        typename VecOf<kBytes>::type v[P];
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) v[i] = VecOf<kBytes>::load(row[i] + j * E);
        interleave<E>(v);
        char* to = out + j * P * E;
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) store(to + i * kBytes, v[i]);
      }
    } else {
      constexpr int64_t kGroups = kLanes / P;  // per vector
      const int64_t line = p.rows.size * E, useful = kGroups * line;
      const Vec16 mask = load16(reinterpret_cast<const char*>(p.mask));
      for (int64_t j = begin; j < end; j += kLanes) {
        j = min_of(j, end - kLanes);
        Vec16 v[P];
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) v[i] = load16(row[i] + j * E);
        interleave<E>(v);
        char* to = out + j * line;
        if constexpr (kGroups > 1) {
#pragma GCC unroll 16
          for (int i = 0; i < P; ++i) v[i] = pick_bytes(v[i], mask);
        }
        if (left > 0 || (end - j - kLanes) * line >= kVector - useful) {
#pragma GCC unroll 16
          for (int i = 0; i < P; ++i) store16(to + i * useful, v[i]);
        } else {  // what follows is not ours
          char last[P * kVector];
#pragma GCC unroll 16
          for (int i = 0; i < P; ++i) store16(last + i * useful, v[i]);
          copy_vectors(to, last, p.rows.size);  // kLanes lines
        }
      }
    }
  }
};

// One row of the input becomes the rows of the output: out_j[i] = in[i * J + j].
template <int kBytes, int E, int P, bool kFull>
struct Deinterleave {
  static void run(const Plan& p, const char* in, char* out, int64_t begin, int64_t end, int64_t) {
    constexpr int64_t kLanes = kBytes / E;
    const int64_t columns = kFull ? P : p.columns.size;
    char* row[P];
    for (int64_t j = 0; j < columns; ++j) row[j] = out + p.columns.offset(j);
    if constexpr (kFull) {
      for (int64_t i = begin; i < end; i += kLanes) {
        i = min_of(i, end - kLanes);
        const char* from = in + i * P * E;
        typename VecOf<kBytes>::type v[P];
#pragma GCC unroll 16
        for (int q = 0; q < P; ++q) v[q] = VecOf<kBytes>::load(from + q * kBytes);
        deinterleave<E>(v);
#pragma GCC unroll 16
        for (int j = 0; j < P; ++j) store(row[j] + i * E, v[j]);
      }
    } else {
      constexpr int64_t kGroups = kLanes / P;
      const int64_t line = columns * E, useful = kGroups * line;
      const Vec16 mask = load16(reinterpret_cast<const char*>(p.mask));
      for (int64_t i = begin; i < end; i += kLanes) {
        i = min_of(i, end - kLanes);
        const char* from = in + i * line;
        char last[P * kVector];
        if (from + (P - 1) * useful + kVector > p.in_end) {
          copy_vectors(last, from, columns);  // kLanes lines
          from = last;
        }
        Vec16 v[P];
#pragma GCC unroll 16
        for (int q = 0; q < P; ++q) v[q] = load16(from + q * useful);
        if constexpr (kGroups > 1) {
#pragma GCC unroll 16
          for (int q = 0; q < P; ++q) v[q] = pick_bytes(v[q], mask);
        }
        deinterleave<E>(v);
#pragma GCC unroll 16
        for (int j = 0; j < P; ++j) {
          if (j < columns) store16(row[j] + i * E, v[j]);
        }
      }
    }
  }
};

// Transposes squares of one vector by one vector, the last ones shifted back over their
// neighbours; in blocks of 64 by 64 bytes, so that every cache line is finished while it is near.
template <int E>
struct Tile {
  static void run(const Plan& p, const char* in, char* out, int64_t begin, int64_t end, int64_t) {
    constexpr int kLanes = kVector / E;
    constexpr int64_t kBlock = 4 * kLanes;
    const int64_t rows = p.rows.size;
    int64_t row_offsets[kBlock], column_offsets[kBlock];
    const int64_t *from = row_offsets, *to = column_offsets;
    for (int64_t jb = begin; jb < end; jb += kBlock) {
      const int64_t j_end = min_of(jb + kBlock, end), j_begin = min_of(jb, end - kLanes);
      if (p.columns.tabled) {
        to = p.columns.table + j_begin;
      } else {
        for (int64_t j = j_begin; j < j_end; ++j) column_offsets[j - j_begin] = p.columns.offset(j);
      }
      for (int64_t ib = 0; ib < rows; ib += kBlock) {
        const int64_t i_end = min_of(ib + kBlock, rows), i_begin = min_of(ib, rows - kLanes);
        if (p.rows.tabled) {
          from = p.rows.table + i_begin;
        } else {
          for (int64_t i = i_begin; i < i_end; ++i) row_offsets[i - i_begin] = p.rows.offset(i);
        }
        for (int64_t j = j_begin; j < j_end; j += kLanes) {
          j = min_of(j, j_end - kLanes);
          for (int64_t i = i_begin; i < i_end; i += kLanes) {
            i = min_of(i, i_end - kLanes);
            const char* near = in + j * E;
            char* far = out + i * E;
            Vec16 v[kLanes];
#pragma GCC unroll 16
            for (int k = 0; k < kLanes; ++k) v[k] = load16(near + from[i - i_begin + k]);
            interleave<E>(v);
#pragma GCC unroll 16
            for (int k = 0; k < kLanes; ++k) store16(far + to[j - j_begin + k], v[k]);
          }
        }
      }
    }
  }
};

template <int E>
struct Scalar {
  static void run(const Plan& p, const char* in, char* out, int64_t begin, int64_t end, int64_t) {
    constexpr int64_t kBlock = 16;
    const int64_t rows = p.rows.size, row_in = p.rows.stride, column_in = p.column_in;
    const int64_t i_first = p.split_rows ? begin : 0, i_last = p.split_rows ? end : rows;
    const int64_t j_first = p.split_rows ? 0 : begin, j_last = p.split_rows ? p.columns.size : end;
    for (int64_t jb = j_first; jb < j_last; jb += kBlock) {
      const int64_t j_end = min_of(jb + kBlock, j_last);
      for (int64_t ib = i_first; ib < i_last; ib += kBlock) {
        const int64_t i_end = min_of(ib + kBlock, i_last);
        for (int64_t j = jb; j < j_end; ++j) {
          const char* from = in + ib * row_in + j * column_in;
          char* to = out + ib * E + p.columns.offset(j);
          for (int64_t i = ib; i < i_end; ++i, from += row_in, to += E) move_element<E>(to, from);
        }
      }
    }
  }
};

struct Runs {
  static void run(const Plan& p, const char* in, char* out, int64_t begin, int64_t end,
                  int64_t left) {
    const int64_t n = end - begin;
    if (n < kVector && left * n >= kVector - n && in + kVector <= p.in_end) {
      store16(out, load16(in));
    } else {
      copy_run(out + begin, in + begin, n);
    }
  }
};

// Calls the kernel for the outer positions of the tasks, the innermost axis in a plain loop.
template <class Kernel>
void for_each_position(const Plan& p, int64_t length, int64_t task, int64_t tasks_end,
                       const Kernel& kernel) {
  int64_t index[kMaxAxes + 1];
  const char* in = p.in;
  char* out = p.out;
  int64_t rest = task / p.pieces, piece = task % p.pieces;
  for (int a = p.outer - 1; a >= 0; --a) {
    index[a] = rest % p.axis[a].size;
    rest /= p.axis[a].size;
    in += index[a] * p.axis[a].in;
    out += index[a] * p.axis[a].out;
  }
  const Axis one = {1, 0, 0};
  const int last = p.outer - 1;
  const Axis inner = p.outer > 0 ? p.axis[last] : one;
  int64_t at = p.outer > 0 ? index[last] : 0;
  while (task < tasks_end) {
    for (; at < inner.size && task < tasks_end; ++at, in += inner.in, out += inner.out) {
      for (; piece < p.pieces && task < tasks_end; ++piece, ++task) {
        const bool whole = p.pieces == 1;
        const int64_t begin = whole ? 0 : length * piece / p.pieces;
        kernel.run(p, in, out, begin, whole ? length : length * (piece + 1) / p.pieces,
                   p.consecutive ? tasks_end - task - 1 : 0);
      }
      piece = 0;
    }
    if (task >= tasks_end) break;
    in -= at * inner.in;
    out -= at * inner.out;
    at = 0;
    for (int a = last - 1; a >= 0; --a) {
      in += p.axis[a].in;
      out += p.axis[a].out;
      if (++index[a] < p.axis[a].size) break;
      in -= index[a] * p.axis[a].in;
      out -= index[a] * p.axis[a].out;
      index[a] = 0;
    }
  }
}

template <class Kernel>
void for_each_position(const Plan& p, int64_t length, int64_t begin, int64_t end) {
  for_each_position(p, length, begin, end, Kernel());
}

// The kernel for P rows of `length` elements: with the widest vectors that a piece fills.
template <template <int, int, int, bool> class Kernel, int E, int P>
void for_full(const Plan& p, int64_t length, int64_t begin, int64_t end) {
#if FASTCONV_LEVEL >= 1
  if constexpr (P <= 8) {
    const int64_t piece = length / p.pieces * E;
#if FASTCONV_LEVEL >= 2
    // Vectors that straddle cache lines are half as fast: few of them may be partly wasted.
    if (piece >= 64 && (round_up(piece, 64) - piece) * 20 <= piece) {
      return for_each_position<Kernel<64, E, P, true>>(p, length, begin, end);
    }
#endif
    if (piece >= 32) return for_each_position<Kernel<32, E, P, true>>(p, length, begin, end);
  }
#endif
  for_each_position<Kernel<16, E, P, true>>(p, length, begin, end);
}

// The kernel for `few` interleaved rows: the next power of two, full or not.
template <template <int, int, int, bool> class Kernel, int E, int P>
void for_few(const Plan& p, int64_t few, int64_t length, int64_t begin, int64_t end) {
  if constexpr (P <= max_few(E)) {
    if (few > P) return for_few<Kernel, E, 2 * P>(p, few, length, begin, end);
    if (few == P) return for_full<Kernel, E, P>(p, length, begin, end);
    if constexpr (P > 2 && P * E <= kVector) {
      return for_each_position<Kernel<16, E, P, false>>(p, length, begin, end);
    }
  }
}

template <int E>
void run_element(const Plan& p, int64_t begin, int64_t end) {
  const int64_t rows = p.rows.size, columns = p.columns.size;
  if constexpr (E < kVector) {
    if (p.kernel == Kernel::kTile) return for_each_position<Tile<E>>(p, columns, begin, end);
  }
  if constexpr (E < kVector) {
    if (p.kernel == Kernel::kInterleave) {
      return for_few<Interleave, E, 2>(p, rows, columns, begin, end);
    }
    if (p.kernel == Kernel::kDeinterleave) {
      return for_few<Deinterleave, E, 2>(p, columns, rows, begin, end);
    }
  }
  for_each_position<Scalar<E>>(p, p.split_rows ? rows : columns, begin, end);
}

template <int E>
void run_permutation(const Plan& p, int64_t begin, int64_t end) {
  const Permute<E> permute(p);
#if FASTCONV_LEVEL == 0
  for_each_position(p, p.length, begin, end, permute);
#else
  switch (permute.takes_each()) {
    case 1:
      return for_each_position(p, p.length, begin, end, PermuteEach<E, 1>{permute});
    case 2:
      return for_each_position(p, p.length, begin, end, PermuteEach<E, 2>{permute});
    case 3:
      return for_each_position(p, p.length, begin, end, PermuteEach<E, 3>{permute});
    case 4:
      return for_each_position(p, p.length, begin, end, PermuteEach<E, 4>{permute});
    default:
      return for_each_position(p, p.length, begin, end, PermuteEach<E, 0>{permute});
  }
#endif
}

void run(const Plan& plan, int64_t begin, int64_t end) {
  if (plan.kernel == Kernel::kPermute) {
    if (plan.element == 1) return run_permutation<1>(plan, begin, end);
    if (plan.element == 2) return run_permutation<2>(plan, begin, end);
#if FASTCONV_LEVEL == 0
    if (plan.element == 8) return run_permutation<8>(plan, begin, end);
#endif
    return run_permutation<4>(plan, begin, end);
  }
  if (plan.kernel == Kernel::kRuns) {
    return for_each_position<Runs>(plan, plan.run, begin, end);
  }
  switch (plan.element) {
    case 1:
      return run_element<1>(plan, begin, end);
    case 2:
      return run_element<2>(plan, begin, end);
    case 4:
      return run_element<4>(plan, begin, end);
    case 8:
      return run_element<8>(plan, begin, end);
    default:
      return run_element<16>(plan, begin, end);
  }
}

}  // namespace fastconv::rearrange::FASTCONV_ISA
