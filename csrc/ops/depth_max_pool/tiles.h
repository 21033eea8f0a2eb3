// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Launch shapes of the CUDA kernels and the choice among them: host code only.
#pragma once

#include <cstdint>

#include "ops/depth_max_pool/depth_max_pool.h"

namespace fastconv::depth_max_pool {

// A thread makes `vector` elements of 16 bytes where the tile is vectorised, or else one.
struct Tile {
  int threads;
  bool vectorised;
};

constexpr Tile kTiles[] = {{256, false}, {128, true}, {256, true}};
constexpr int kTileCount = sizeof(kTiles) / sizeof(kTiles[0]);

constexpr int vector_of(Dtype dtype) { return static_cast<int>(16 / element_size(dtype)); }

// Which kernel can serve the inner axis of a problem: its windows there are single elements, or
// two or four neighbours that tile it, or anything else.
enum class InnerKind : uint8_t { kAny, kSingle, kTwo, kFour };

constexpr InnerKind inner_kind(const Axis& a) {
  if (a.is_plain()) return InnerKind::kSingle;
  if (a.pad != 0 || a.dilation != 1 || a.kernel != a.stride || a.in < a.out * a.stride) {
    return InnerKind::kAny;
  }
  return a.stride == 2 ? InnerKind::kTwo : a.stride == 4 ? InnerKind::kFour : InnerKind::kAny;
}

// One tensor of a vectorised kernel: 16-byte accesses (`bytes` for the narrow indices) along the
// inner axis need an aligned start, aligned strides and a whole number of vectors per run.
constexpr bool is_aligned(const Problem& p, const Strides& s, uint64_t address, int64_t run,
                          int64_t vector, int64_t element) {
  bool ok = s.axis[p.inner] == 1 && run % vector == 0 && address % (vector * element) == 0;
  if (p.batch > 1) ok = ok && s.n % vector == 0;
  for (int a = 0; a < kAxes; ++a) {
    if (a != p.inner) ok = ok && s.axis[a] % vector == 0;
  }
  return ok;
}

// Vectorised kernels keep indices in bytes; the wider ones belong to large windows, or are asked
// for by the user, and go one by one.
constexpr bool can_vectorise(const Forward& p, uint64_t x, uint64_t y, uint64_t index) {
  const Axis& inner = p.axis[p.inner];
  const int vector = vector_of(p.dtype);
  if (p.index_type != IndexType::kNone && p.index_type != IndexType::kUint8) return false;
  return inner_kind(inner) != InnerKind::kAny &&
         is_aligned(p, p.x_strides, x, inner.out * inner.stride, vector, element_size(p.dtype)) &&
         is_aligned(p, p.y_strides, y, inner.out, vector, element_size(p.dtype)) &&
         is_aligned(p, p.y_strides, index, inner.out, vector, 1);
}
// Here every input must lie in a window of the inner axis, so that whole vectors of dx are written.
constexpr bool can_vectorise(const Backward& p, uint64_t dx, uint64_t dy, uint64_t index) {
  const Axis& inner = p.axis[p.inner];
  const int vector = vector_of(p.dtype);
  if (p.index_type != IndexType::kUint8 || inner.in != inner.out * inner.stride) return false;
  return inner_kind(inner) != InnerKind::kAny &&
         is_aligned(p, p.dx_strides, dx, inner.in, vector, element_size(p.dtype)) &&
         is_aligned(p, p.dy_strides, dy, inner.out, vector, element_size(p.dtype)) &&
         is_aligned(p, p.index_strides, index, inner.out, vector, 1);
}

// `elements` of the output.  Small problems take smaller blocks, to reach more multiprocessors.
constexpr int pick_tile(int64_t elements, int vector, bool vectorised) {
  if (!vectorised) return 0;
  constexpr int64_t kFewThreads = 132 * 2048;  // what an H100 holds at once
  return elements / vector < kFewThreads ? 1 : 2;
}
// A forced tile is taken where the problem allows it.
constexpr Tile tile_of(int forced, int64_t elements, int vector, bool vectorised) {
  const bool usable =
      forced >= 0 && forced < kTileCount && (vectorised || !kTiles[forced].vectorised);
  return kTiles[usable ? forced : pick_tile(elements, vector, vectorised)];
}

// Whether offsets and counts of a problem need 64 bits.  The margin covers the grid's overshoot.
constexpr bool needs_64_bits(const Problem& p, const Strides& a, const Strides& b,
                             const Strides& c) {
  constexpr int64_t kLimit = (int64_t{1} << 31) - (int64_t{1} << 24);
  int64_t windows = p.batch;
  bool large = false;
  const Strides* const tensors[] = {&a, &b, &c};
  for (const Strides* s : tensors) {
    int64_t reach = p.batch * s->n;
    for (int i = 0; i < kAxes; ++i) {
      const Axis& axis = p.axis[i];
      const int64_t extent = max_of(axis.in, axis.out) + axis.kernel * axis.dilation + axis.stride;
      reach += extent * s->axis[i];
    }
    large = large || reach > kLimit;
  }
  int64_t flat = 1;
  for (const Axis& axis : p.axis) {
    windows *= max_of(axis.in, axis.out);
    flat *= axis.in + axis.kernel * axis.dilation;
  }
  return large || windows > kLimit || flat > kLimit || p.taps() > kLimit;
}

}  // namespace fastconv::depth_max_pool
