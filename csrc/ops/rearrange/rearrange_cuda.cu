// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/rearrange/launch.cuh"
#include "ops/rearrange/rearrange_cuda.h"

namespace fastconv::rearrange {

cudaError_t copy_cuda(const Copy& copy, int tile, cudaStream_t stream) {
  if (tile >= kTileCount) return cudaErrorInvalidValue;
  Copy merged = copy;
  coalesce(merged);
  return fits_32_bits(merged) ? run_index<uint32_t>(merged, tile, stream)
                              : run_index<uint64_t>(merged, tile, stream);
}

}  // namespace fastconv::rearrange
