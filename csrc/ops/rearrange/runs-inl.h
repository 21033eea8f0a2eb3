// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Plain copies of runs: as long as the run is, with the widest vectors.
#pragma once

#include "ops/rearrange/vec-inl.h"

namespace fastconv::rearrange::FASTCONV_ISA {

// The widest vector of the level, for plain copies.
constexpr int64_t kWide = FASTCONV_LEVEL >= 2 ? 64 : FASTCONV_LEVEL == 1 ? 32 : 16;
typedef char Wide __attribute__((vector_size(kWide)));

FASTCONV_REARRANGE_INLINE void move_wide(char* out, const char* in) {
  Wide v;
  std::memcpy(&v, in, kWide);
  std::memcpy(out, &v, kWide);
}

// A loop, not memcpy, whose microcoded path for runs of a few KiB leaves less of the result in the
// caches.  (4x232x28x28 fp32, channel_shuffle in 2 groups: 0.97 of torch's time, memcpy 0.94; but
// forward and backward 0.9 to 1.0 of it, memcpy 1.1 to 1.3.)  Short runs do not align their stores:
// with as many rounds in each run, no end of a loop is mispredicted.  (16x1024x14x14, two threads:
// 1.26 times torch's time before, 0.96 now.)
constexpr int64_t kAlignedRun = 4 << 10;
inline void copy_wide(char* out, const char* in, int64_t n) {
  int64_t i = 0;
  if (n >= kAlignedRun) {
    move_wide(out, in);
    i = kWide - static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % kWide);
  }
  for (; i + 4 * kWide <= n; i += 4 * kWide) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) move_wide(out + i + k * kWide, in + i + k * kWide);
  }
  for (; i + kWide <= n; i += kWide) move_wide(out + i, in + i);
  if (i < n) move_wide(out + n - kWide, in + n - kWide);
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

// What the caches cannot hold is better moved by memcpy, which does not wait for the lines that it
// overwrites.  (8x240x56x56 fp32, channel_shuffle in 3 groups, one thread: 988 us in the loop, 728
// with memcpy, torch 840 to 900.)
constexpr int64_t kLongRun = 8 << 10, kCachedBytes = 16 << 20;

struct Runs {
  static FASTCONV_REARRANGE_INLINE void run(const Plan& p, const char* in, char* out, int64_t begin,
                                            int64_t end, int64_t left) {
    const int64_t n = end - begin;
    if (n < kVector && left * n >= kVector - n && in + kVector <= p.in_end) {
      store16(out, load16(in));
    } else if (n >= kLongRun && p.in_end - p.in > kCachedBytes) {
      std::memcpy(out + begin, in + begin, static_cast<size_t>(n));
    } else {
      copy_run(out + begin, in + begin, n);
    }
  }
};

}  // namespace fastconv::rearrange::FASTCONV_ISA
