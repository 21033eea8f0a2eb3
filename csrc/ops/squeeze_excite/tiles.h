// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// How the CUDA kernels of squeeze and excitation cover an activation.  A grid that is a pure
// function of the sizes keeps sums the same on every run.
#pragma once

#include "ops/squeeze_excite/squeeze_excite.h"

namespace fastconv::squeeze_excite {

// Channels-last: a block takes kColumns neighbouring channels, so that a warp reads 64 bytes or
// more of a pixel, and kRows pixels at a time.
constexpr int kColumns = 32, kRows = 8;
// Planes: a block's warps take a plane each; large planes get the whole block.
constexpr int kThreads = 256, kLargePlane = 1024;

// Enough chunks of pixels for two blocks on each of a large GPU's 132 multiprocessors, none of
// fewer than eight rounds.
constexpr void cut_for_cuda(Params& p) {
  constexpr int64_t kBlocks = 264, kLeast = 8 * kRows;
  p.per_task = p.pixels;
  p.chunks = 1;
  if (!p.channels_last) return;
  const int64_t blocks = p.batch * ceil_div(p.channels, kColumns);
  const int64_t wanted = min_of(ceil_div(kBlocks, blocks), ceil_div(p.pixels, kLeast));
  p.per_task = ceil_div(p.pixels, wanted);
  p.chunks = ceil_div(p.pixels, p.per_task);
}

}  // namespace fastconv::squeeze_excite
