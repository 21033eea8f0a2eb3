// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Kernel::kWeave and Kernel::kUnweave: one vector holds a whole column, of more elements than 16
// bytes have.  Its blocks of 16 bytes come from different rows and are transposed side by side, so
// nothing ever crosses a block: 8 rows of floats take 8 unpacks for 32 elements.
#pragma once

#include "ops/rearrange/positions-inl.h"
#include "ops/rearrange/runs-inl.h"

namespace fastconv::rearrange::FASTCONV_ISA {

#if FASTCONV_LEVEL == 0

template <int kBlocks, int E>
struct Weave;  // never used
template <int kBlocks, int E>
struct Unweave;

#else

template <int E>
FASTCONV_REARRANGE_INLINE Vec16 unpack_low(Vec16 a, Vec16 b) {
  return zip_low<E>(a, b);
}
template <int E>
FASTCONV_REARRANGE_INLINE Vec16 unpack_high(Vec16 a, Vec16 b) {
  return zip_high<E>(a, b);
}

// Lane q of block b of v[c] <-> lane c of block b of v[q].
template <int E, class V, int L>
FASTCONV_REARRANGE_INLINE void transpose_blocks(V (&v)[L]) {
  static_assert(L == kVector / E);
#pragma GCC unroll 4
  for (int stage = 1; stage < L; stage *= 2) {
    V next[L];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; ++i) {
      next[2 * i] = unpack_low<E>(v[i], v[i + L / 2]);
      next[2 * i + 1] = unpack_high<E>(v[i], v[i + L / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = next[i];
  }
}

// The vector of kBlocks, or the next wider one.
template <int kBlocks>
struct Blocks {
  static constexpr int kBytes = kBlocks == 1 ? 16 : kBlocks == 2 ? 32 : 64;
  using Of = VecOf<kBytes>;
  using type = typename Of::type;

  // Block b from row[b * step].
  static FASTCONV_REARRANGE_INLINE type gather(const char* const* row, int step, int64_t at) {
    if constexpr (kBytes == 16) {
      return load16(row[0] + at);
    } else if constexpr (kBytes == 32) {
      return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(row[0] + at)),
                                     load16(row[step] + at), 1);
#if FASTCONV_LEVEL >= 2
    } else {
      // A broadcast is a load; an insertion from memory would be a shuffle as well.
      Vec64 v = _mm512_castsi128_si512(load16(row[0] + at));
      v = _mm512_mask_broadcast_i32x4(v, 0x00f0, load16(row[step] + at));
      v = _mm512_mask_broadcast_i32x4(v, 0x0f00, load16(row[2 * step] + at));
      if constexpr (kBlocks > 3) {
        v = _mm512_mask_broadcast_i32x4(v, 0xf000, load16(row[3 * step] + at));
      }
      return v;
#endif
    }
  }
  template <int kBlock>
  static FASTCONV_REARRANGE_INLINE Vec16 block(type v) {
    if constexpr (kBytes == 32) {
      return _mm256_extracti128_si256(v, kBlock);
#if FASTCONV_LEVEL >= 2
    } else {
      return _mm512_extracti32x4_epi32(v, kBlock);
#endif
    }
  }
};

// out[j * I + i] = row_i[j]: every column is stored over the useless end of the one before.
template <int kBlocks, int E>
struct Weave {
  static FASTCONV_REARRANGE_INLINE void run(const Plan& p, const char* in, char* out, int64_t begin,
                                            int64_t end, int64_t left) {
    using Column = Blocks<kBlocks>;
    constexpr int kLanes = kVector / E;
    const int64_t rows = p.rows.size, line = rows * E;
    const char* row[kBlocks * kLanes];
    for (int64_t i = 0; i < kBlocks * kLanes; ++i) row[i] = in + p.rows.offset(min_of(i, rows - 1));
    for (int64_t j = begin; j < end; j += kLanes) {
      j = min_of(j, end - kLanes);
      typename Column::type v[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) v[i] = Column::gather(row + i, kLanes, j * E);
      transpose_blocks<E>(v);
      char* const to = out + j * line;
      if (left > 0 || (end - j - kLanes) * line >= Column::kBytes - line) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(to + i * line, v[i]);
      } else {  // what follows is not ours
        char last[kLanes * Column::kBytes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(last + i * line, v[i]);
        copy_vectors(to, last, rows);  // kLanes lines
      }
    }
  }
};

// out_j[i] = in[i * J + j].
template <int kBlocks, int E>
struct Unweave {
  static FASTCONV_REARRANGE_INLINE void run(const Plan& p, const char* in, char* out, int64_t begin,
                                            int64_t end, int64_t) {
    using Column = Blocks<kBlocks>;
    constexpr int kLanes = kVector / E;
    const int64_t columns = p.columns.size, line = columns * E;
    char* row[kBlocks * kLanes];
    for (int64_t j = 0; j < columns; ++j) row[j] = out + p.columns.offset(j);
    for (int64_t i = begin; i < end; i += kLanes) {
      i = min_of(i, end - kLanes);
      const char* from = in + i * line;
      char last[kLanes * Column::kBytes];
      if (from + (kLanes - 1) * line + Column::kBytes > p.in_end) {
        copy_vectors(last, from, columns);  // kLanes lines
        from = last;
      }
      typename Column::type v[kLanes];
#pragma GCC unroll 16
      for (int q = 0; q < kLanes; ++q) v[q] = Column::Of::load(from + q * line);
      transpose_blocks<E>(v);
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        store16(row[j] + i * E, Column::template block<0>(v[j]));
        const auto store_block = [&](int64_t column, Vec16 block) {
          if (column < columns) store16(row[column] + i * E, block);
        };
        store_block(j + kLanes, Column::template block<1>(v[j]));
        if constexpr (kBlocks > 2) store_block(j + 2 * kLanes, Column::template block<2>(v[j]));
        if constexpr (kBlocks > 3) store_block(j + 3 * kLanes, Column::template block<3>(v[j]));
      }
    }
  }
};

// The kernel for `few` rows; false where the level has no vector for a column.
template <template <int, int> class Kernel, int E>
bool weave(const Plan& p, int64_t few, int64_t length, int64_t begin, int64_t end) {
  const int64_t blocks = ceil_div(few * E, kVector);
  if (blocks <= 2) {
    for_each_position<Kernel<2, E> >(p, length, begin, end);
    return true;
  }
#if FASTCONV_LEVEL >= 2
  if (blocks == 3) {
    for_each_position<Kernel<3, E> >(p, length, begin, end);
  } else {
    for_each_position<Kernel<4, E> >(p, length, begin, end);
  }
  return true;
#else
  return false;
#endif
}

#endif

}  // namespace fastconv::rearrange::FASTCONV_ISA
