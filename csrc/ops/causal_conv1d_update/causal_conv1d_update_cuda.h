// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#pragma once

#include <cuda_runtime_api.h>

#include "ops/causal_conv1d_update/causal_conv1d_update.h"

namespace fastconv::causal_conv1d_update {

cudaError_t update_cuda(const Params& p, cudaStream_t stream);

}  // namespace fastconv::causal_conv1d_update
