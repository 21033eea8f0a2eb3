// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What large.cu hands to the translation units of the kernels for large filters, and what
// depthwise_conv.cu asks of it.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/large.cuh"

namespace fastconv::depthwise_conv {

// Blocks that must fit on a multiprocessor: what bounds the registers.
template <class T>
constexpr int kLargeBlocks = sizeof(T) == 8 ? 1 : 2;

template <class T>
cudaError_t launch_large_gather(const LargeGather& g, cudaStream_t stream);
template <class T>  // 16-bit types
cudaError_t launch_large_bands(const LargeGather& g, cudaStream_t stream);

template <class T>
cudaError_t launch_large_weight(const LargeWeight& g, cudaStream_t stream);
template <class T>  // 16-bit types
cudaError_t launch_large_weight_bands(const LargeWeight& g, cudaStream_t stream);

// Runs forward or the gradient of the input with a tile of kLargeTiles that fits the problem.
cudaError_t large_gather(const View& v, const void* in, const void* weight, const void* bias,
                         Activation activation, void* out, int tile, cudaStream_t stream);
cudaError_t large_weight(const BackwardWeight& p, int tile, cudaStream_t stream);

}  // namespace fastconv::depthwise_conv
