// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernels of plan.h, re-included per ISA level.  Each handles one outer position: `in` and
// `out` are its first elements, [begin, end) the part of the long axis that belongs to the task.
// `left`: the positions of the task that follow in the output, so that may be written over.
#pragma once

// Up to 1.4 times faster than with the build's -O2; every other kernel gains nothing from it.
// Not in builds that do not optimise, as those of tests under sanitizers.
#if defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__)
#pragma GCC optimize("O3")
#endif

#include "ops/rearrange/interleave-inl.h"
#include "ops/rearrange/permute-inl.h"
#include "ops/rearrange/tile-inl.h"

namespace fastconv::rearrange::FASTCONV_ISA {

template <int E>
struct Scalar {
  static FASTCONV_REARRANGE_INLINE void run(const Plan& p, const char* in, char* out, int64_t begin,
                                            int64_t end, int64_t) {
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

// As Scalar, for so few elements that their places fit into a table, which is made once.
template <int E>
struct ScalarTable {
  int64_t from[kMaxTable], to[kMaxTable];
  int64_t elements = 0;

  explicit ScalarTable(const Plan& p) {
    for (int64_t j = 0; j < p.columns.size; ++j) {
      for (int64_t i = 0; i < p.rows.size; ++i, ++elements) {
        from[elements] = i * p.rows.stride + j * p.column_in;
        to[elements] = i * E + p.columns.offset(j);
      }
    }
  }
  FASTCONV_REARRANGE_INLINE void run(const Plan&, const char* in, char* out, int64_t, int64_t,
                                     int64_t) const {
    for (int64_t k = 0; k < elements; ++k) move_element<E>(out + to[k], in + from[k]);
  }
};

template <int E>
void run_element(const Plan& p, int64_t begin, int64_t end) {
  const int64_t rows = p.rows.size, columns = p.columns.size;
  if constexpr (E < kVector) {
#if FASTCONV_LEVEL >= 1
    if (p.kernel == Kernel::kWeave && weave<Weave, E>(p, rows, columns, begin, end)) return;
    if (p.kernel == Kernel::kUnweave && weave<Unweave, E>(p, columns, rows, begin, end)) return;
#endif
    if (p.kernel == Kernel::kTile || p.kernel == Kernel::kWeave || p.kernel == Kernel::kUnweave) {
      return tile<E>(p, p.split_rows ? rows : columns, begin, end);
    }
  }
  if constexpr (E < kVector) {
    if (p.kernel == Kernel::kInterleave) {
      return for_few<Interleave, Weave, E, 2>(p, rows, columns, begin, end);
    }
    if (p.kernel == Kernel::kDeinterleave) {
      return for_few<Deinterleave, Unweave, E, 2>(p, columns, rows, begin, end);
    }
  }
  if (p.pieces == 1 && rows * columns <= kMaxTable) {
    return for_each_position(p, columns, begin, end, ScalarTable<E>(p));
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
