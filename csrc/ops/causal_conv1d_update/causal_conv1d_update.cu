// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/causal_conv1d_update/causal_conv1d_update.cuh"
#include "ops/causal_conv1d_update/causal_conv1d_update_cuda.h"

namespace fastconv::causal_conv1d_update {

cudaError_t update_cuda(const Params& p, cudaStream_t stream) {
  switch (p.dtype) {
    case Dtype::kFloat64:
      return launch_typed<double>(p, stream);
    case Dtype::kFloat16:
      return launch_typed<gpu::half>(p, stream);
    case Dtype::kBFloat16:
      return launch_typed<gpu::bfloat16>(p, stream);
    default:
      return launch_typed<float>(p, stream);
  }
}

}  // namespace fastconv::causal_conv1d_update
