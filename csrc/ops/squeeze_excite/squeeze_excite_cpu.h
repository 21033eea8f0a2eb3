// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// How the CPU kernels of squeeze and excitation share out their work.
#pragma once

#include "common/isa.h"
#include "ops/squeeze_excite/squeeze_excite.h"

namespace fastconv::squeeze_excite {

constexpr int64_t kMaxPlanes = 16;  // of a task

// Cuts into tasks that move about as much as half of a small L2 cache holds.  Tensors that the pass
// does not have get the place of one that it does, so that pointers into them are sound.
constexpr void prepare(Params& p) {
  if (!reads_x(p.pass)) {
    p.x = p.y;
    p.x_strides = p.y_strides;
  }
  if (p.pass != Pass::kGateGradient) {
    p.dy = p.x;
    p.dy_strides = p.x_strides;
  }
  if (p.pass == Pass::kMean) {
    p.y = const_cast<void*>(p.x);
    p.y_strides = p.x_strides;
  }
  constexpr int64_t kElements = 32768, kPixelGroup = 8;
  if (p.channels_last) {
    p.per_task = round_up(max_of(1, kElements / p.channels), kPixelGroup);
    p.chunks = ceil_div(p.pixels, p.per_task);
  } else {
    p.per_task = max_of(1, min_of(kMaxPlanes, kElements / p.pixels));
    p.chunks = 1;
  }
}
constexpr int64_t tasks_of(const Params& p) {
  return p.channels_last ? p.batch * p.chunks : ceil_div(p.planes(), p.per_task);
}
// Per thread: sums and gates of one image's channels.
constexpr int64_t scratch_bytes(const Params& p) {
  return p.channels_last ? 2 * p.channels * p.accum_size() : 0;
}

FASTCONV_DECLARE_ISA(void, run, const Params& p, void* scratch, int64_t begin, int64_t end)
// The second stage, where needs_partial(): tasks are images.
FASTCONV_DECLARE_ISA(void, combine, const Params& p, int64_t begin, int64_t end)

}  // namespace fastconv::squeeze_excite
