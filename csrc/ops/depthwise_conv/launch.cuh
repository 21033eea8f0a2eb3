// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the launchers hand to the kernels' translation units, one per dtype.
#pragma once

#include <type_traits>

#include "ops/depthwise_conv/geometry.cuh"

namespace fastconv::depthwise_conv {

template <bool kWide>
using Index = std::conditional_t<kWide, int64_t, int>;

constexpr int kGatherThreads = 128;
constexpr int kGradientThreads = 128;
constexpr int kAddColumns = 32, kAddRows = 16;
constexpr int64_t kMaxSplits = 512;
constexpr int64_t kMaxWorkspace = int64_t{64} << 20;

// Blocks that must fit on a multiprocessor: what bounds the registers.
template <class T, int V, int kWindow, int kStep>
constexpr int kGatherBlocks = sizeof(T) == 8                          ? 2
                              : V == 1                                ? (kStep == 2 ? 4 : 5)
                              : kWindow >= 5 && kStep * kWindow >= 10 ? 2
                                                                      : 3;

template <class T, int V, int kWindow, int kStep>
constexpr int kGradientBlocks = V == 1         ? (sizeof(T) == 8 || kStep * kWindow >= 10 ? 4 : 5)
                                : kWindow >= 5 ? 2
                                               : 3;

// Outputs in a thread's strip.
__host__ __device__ constexpr int gather_outputs(int pack, int window) {
  return pack == 1 && window > 1 ? 8 : 4;
}
__host__ __device__ constexpr int gradient_outputs(int pack, int window) {
  return pack == 1 && window > 1 ? 8 : 4;
}

struct GatherPlan {
  int tile;
  int strip_step;  // between the inputs of neighbouring outputs of a strip
  int threads;
  int64_t grid, smem;
  Gather<int> narrow;  // the tile says which of the two counts
  Gather<int64_t> wide;
};

// The second stage of the gradient of the weight.
struct Splits {
  int64_t channels, taps, splits;
  const void* sums;
  void* dw;
  void* db;
};

struct GradientPlan {
  int tile;
  int strip_step;
  int threads;
  int64_t grid, smem;
  WeightGradient<int> narrow;
  WeightGradient<int64_t> wide;
  Splits partial;
};

template <class T>
cudaError_t launch_gather(const GatherPlan& plan, cudaStream_t stream);
template <class T>
cudaError_t launch_gradient(const GradientPlan& plan, cudaStream_t stream);
template <class T>
cudaError_t add_splits(const Splits& p, cudaStream_t stream);

}  // namespace fastconv::depthwise_conv
