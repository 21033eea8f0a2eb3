// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The scan of one window, word by word as depth_max_pool.h says it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ops/depth_max_pool/depth_max_pool.h"

namespace depth_max_pool_reference {

using namespace fastconv::depth_max_pool;

inline constexpr int64_t kIndexBytes[] = {0, 1, 4, 8};  // by IndexType

// The window's winner: its value, offset in the input image and index, none where it has no
// elements.
struct Winner {
  double value = -INFINITY;
  int64_t position = -1, tap = 0;
};
inline Winner scan(const Problem& p, const std::vector<double>& image,
                   const std::vector<int64_t>& o) {
  Winner best;
  int64_t k[kAxes] = {};
  for (int64_t tap = 0; tap < p.taps(); ++tap) {
    int64_t position = 0;
    bool inside = true;
    for (int a = 0; a < kAxes; ++a) {
      const Axis& axis = p.axis[a];
      const int64_t i = o[a + 1] * axis.stride + k[a] * axis.dilation - axis.pad;
      inside = inside && i >= 0 && i < axis.in;
      position = position * axis.in + i;
    }
    if (inside) {
      const double v = image[position];
      if (best.position < 0 || v > best.value || std::isnan(v)) best = {v, position, tap};
    }
    for (int a = kAxes - 1; a >= 0; --a) {
      if (++k[a] < p.axis[a].kernel) break;
      k[a] = 0;
    }
  }
  return best;
}

inline int64_t read_index(IndexType type, const void* p) {
  uint8_t byte;
  int32_t narrow;
  int64_t wide;
  switch (type) {
    case IndexType::kUint8:
      std::memcpy(&byte, p, sizeof byte);
      return byte;
    case IndexType::kInt32:
      std::memcpy(&narrow, p, sizeof narrow);
      return narrow;
    default:
      std::memcpy(&wide, p, sizeof wide);
      return wide;
  }
}

}  // namespace depth_max_pool_reference
