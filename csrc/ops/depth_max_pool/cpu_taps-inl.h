// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The taps of a run of windows on the outer axes.
#pragma once

#include "ops/depth_max_pool/cpu_loader-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

struct Tap {
  int64_t offset, code;
};

// First tap at or after coordinate 0, and the end of those before the input's, for a window that
// starts at `start`.
FASTCONV_INLINE int64_t first_tap(int64_t start, int64_t dilation) {
  return start >= 0 ? 0 : (-start + dilation - 1) / dilation;
}
FASTCONV_INLINE int64_t end_tap(int64_t start, const Axis& axis) {
  return start + (axis.kernel - 1) * axis.dilation < axis.in
             ? axis.kernel
             : (axis.in - start + axis.dilation - 1) / axis.dilation;
}

// Lists the taps in [lo, hi) of the outer axes, in the order of visits; `s` strides over the input.
FASTCONV_INLINE int64_t list_taps(const Problem& p, const Strides& s, const Codes& codes,
                                  const int64_t* lo, const int64_t* hi, Tap* taps) {
  const int a0 = p.inner == 0 ? 1 : 0, a1 = a0 + 1, a2 = a0 + 2;
  const int64_t s0 = p.axis[a0].dilation * s.axis[a0];
  const int64_t s1 = p.axis[a1].dilation * s.axis[a1];
  const int64_t s2 = p.axis[a2].dilation * s.axis[a2];
  int64_t count = 0;
  for (int64_t k0 = lo[a0]; k0 < hi[a0]; ++k0) {
    for (int64_t k1 = lo[a1]; k1 < hi[a1]; ++k1) {
      for (int64_t k2 = lo[a2]; k2 < hi[a2]; ++k2) {
        taps[count++] = {k0 * s0 + k1 * s1 + k2 * s2,
                         k0 * codes.code[a0] + k1 * codes.code[a1] + k2 * codes.code[a2]};
      }
    }
  }
  return count;
}

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
