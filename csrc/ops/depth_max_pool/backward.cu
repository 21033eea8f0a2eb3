// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depth_max_pool/backward.cuh"
#include "ops/depth_max_pool/depth_max_pool_cuda.h"

namespace fastconv::depth_max_pool {
namespace {

template <class T>
cudaError_t launch(const Backward& p, int tile, cudaStream_t stream) {
  if (needs_64_bits(p, p.dy_strides, p.index_strides, p.dx_strides)) {
    return backward_typed<T, int64_t>(p, tile, stream);
  }
  return backward_typed<T, int32_t>(p, tile, stream);
}

}  // namespace

cudaError_t backward_cuda(const Backward& p, int tile, cudaStream_t stream) {
  switch (p.dtype) {
    case Dtype::kFloat64:
      return launch<double>(p, tile, stream);
    case Dtype::kFloat16:
      return launch<gpu::half>(p, tile, stream);
    case Dtype::kBFloat16:
      return launch<gpu::bfloat16>(p, tile, stream);
    default:
      return launch<float>(p, tile, stream);
  }
}

}  // namespace fastconv::depth_max_pool
