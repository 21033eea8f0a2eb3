// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "common/gpu.h"
#include "ops/rearrange/launch.cuh"
#include "ops/rearrange/rearrange_cuda.h"

using namespace fastconv::rearrange;

// `axes` holds (size, input stride, output stride) in bytes per axis; `wide` forces 64-bit indices.
extern "C" int rearrange_copy(const void* in, void* out, int64_t element, int rank,
                              const int64_t* axes, int tile, int wide) {
  fastconv::host_cuda::calling("copy_cuda", tile);
  Copy copy;
  copy.in = in;
  copy.out = out;
  copy.element = element;
  copy.rank = rank;
  for (int i = 0; i < rank; ++i) copy.axis[i] = {axes[3 * i], axes[3 * i + 1], axes[3 * i + 2]};
  if (wide == 0) return copy_cuda(copy, tile, nullptr);
  coalesce(copy);
  return run_index<uint64_t>(copy, tile, nullptr);
}
extern "C" int rearrange_tile_count() { return kTileCount; }
