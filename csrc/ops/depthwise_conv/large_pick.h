// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The choice among all tiles of depthwise convolution, those for large filters included.
// Pure host code.
#pragma once

#include <cstdint>

#include "ops/depthwise_conv/large_tiles.h"
#include "ops/depthwise_conv/large_weight_tiles.h"
#include "ops/depthwise_conv/tiles.h"

namespace fastconv::depthwise_conv {

constexpr bool large_tile_fits(const View& v, int tile) {
  const LargeTile* t = large_tile(tile);
  if (!large_serves(v, t)) return false;
  return v.pass == Pass::kBackwardWeight ? large_weight_shape(v, *t).fits()
                                         : large_shape(v, *t).fits();
}

// Any tile: of kTiles, or of those that follow.
inline bool any_tile_fits(const View& v, int tile) {
  return tile < kTileCount ? tile_fits(v, tile) : large_tile_fits(v, tile);
}

inline int pick_any_tile(const View& v) {
  const Axis &y = v.problem.axis[1], &x = v.problem.axis[2];
  // Smaller filters are bound by memory, and single rows have kernels of their own.
  if ((y.kernel > 7 || x.kernel > 7) && y.in > 1 && x.in > 1 &&
      (v.problem.taps() > kLineTapsPreferred || pick_line(v) == kTileCount)) {
    // The band lies along rows of the filter, in the gradient of the weight along columns.  With
    // fewer than 5 taps of 32 the FMA units are as fast as the tensor cores.
    const Axis& band = v.pass == Pass::kBackwardWeight ? y : x;
    if (band.kernel >= 5 && large_tile_fits(v, kTileCount + 1)) return kTileCount + 1;
    if (large_tile_fits(v, kTileCount)) return kTileCount;
  }
  return pick_tile(v);
}

// The tile that serves both gradients in one pass; -1 if none does.
inline int pick_backward(const View& v) {
  const int line = pick_line(v);
  if (line < kTileCount) return line;
  for (const WalkKind kind : {WalkKind::kColumns4, WalkKind::kChannels, WalkKind::kScalar}) {
    for (int i = 0; i < kTileCount; ++i) {
      if (kTiles[i].walk == kind && tile_fits(v, i)) return i;
    }
  }
  return -1;
}

}  // namespace fastconv::depthwise_conv
