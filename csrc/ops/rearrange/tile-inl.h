// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Kernel::kTile: transposes kBlocks squares of 16 by 16 bytes side by side, so that every row of
// the output gets one vector of kBlocks * 16 bytes.
#pragma once

#include "ops/rearrange/weave-inl.h"

namespace fastconv::rearrange::FASTCONV_ISA {

#if FASTCONV_LEVEL == 0

template <int kBlocks>
struct Blocks {
  static_assert(kBlocks == 1);
  using type = Vec16;
  static FASTCONV_REARRANGE_INLINE Vec16 gather(const char* const* row, int, int64_t at) {
    return load16(row[0] + at);
  }
};
template <int E, int L>
FASTCONV_REARRANGE_INLINE void transpose_blocks(Vec16 (&v)[L]) {
  interleave<E>(v);
}

#endif

// The last tiles are shifted back over their neighbours.  Columns go in groups of 64 bytes, so
// that every line of the input is finished while it is near.
template <int kBlocks, int E>
struct Tile {
  static FASTCONV_REARRANGE_INLINE void run(const Plan& p, const char* in, char* out, int64_t begin,
                                            int64_t end, int64_t) {
    constexpr int kLanes = kVector / E;
    constexpr int64_t kRows = kBlocks * kLanes, kColumns = 4 * kLanes;
    const int64_t i_first = p.split_rows ? begin : 0, i_last = p.split_rows ? end : p.rows.size;
    const int64_t j_first = p.split_rows ? 0 : begin, j_last = p.split_rows ? p.columns.size : end;
    char* column[kColumns];
    const char* row[kRows];
    for (int64_t jb = j_first; jb < j_last; jb += kColumns) {
      const int64_t j_end = min_of(jb + kColumns, j_last), j_begin = min_of(jb, j_last - kLanes);
      for (int64_t j = j_begin; j < j_end; ++j) column[j - j_begin] = out + p.columns.offset(j);
      for (int64_t i = i_first; i < i_last; i += kRows) {
        i = min_of(i, i_last - kRows);
        for (int k = 0; k < kRows; ++k) row[k] = in + p.rows.offset(i + k);
        for (int64_t j = j_begin; j < j_end; j += kLanes) {
          j = min_of(j, j_end - kLanes);
          typename Blocks<kBlocks>::type v[kLanes];
#pragma GCC unroll 16
          for (int k = 0; k < kLanes; ++k) v[k] = Blocks<kBlocks>::gather(row + k, kLanes, j * E);
          transpose_blocks<E>(v);
#pragma GCC unroll 16
          for (int k = 0; k < kLanes; ++k) store(column[j - j_begin + k] + i * E, v[k]);
        }
      }
    }
  }
};

// As many squares as there are rows for, in the shortest piece too.
template <int E>
void tile(const Plan& p, int64_t length, int64_t begin, int64_t end) {
#if FASTCONV_LEVEL >= 1
  const int64_t bytes = (p.split_rows ? length / p.pieces : p.rows.size) * E;
#if FASTCONV_LEVEL >= 2
  if (bytes >= 64) return for_each_position<Tile<4, E>>(p, length, begin, end);
#endif
  if (bytes >= 32) return for_each_position<Tile<2, E>>(p, length, begin, end);
#endif
  for_each_position<Tile<1, E>>(p, length, begin, end);
}

}  // namespace fastconv::rearrange::FASTCONV_ISA
