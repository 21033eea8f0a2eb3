// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// From a Copy to one kernel launch: the tile, the index width and the template switches.
#pragma once

#include "ops/rearrange/copy.cuh"

namespace fastconv::rearrange {

constexpr int64_t kMaxGrid = 1 << 20;  // kernels go round; this is far more than fills a GPU

inline dim3 grid_for(int64_t count, int64_t per_block) {
  return dim3(static_cast<unsigned>(min_of(kMaxGrid, ceil_div(count, per_block))));
}

template <int kBytes, class Index>
cudaError_t launch_runs(const PackPlan& plan, cudaStream_t stream) {
  const PackParams<Index> p = pack_params<Index>(plan);
  if constexpr (kBytes <= 4) {
    if (plan.run >= 16) {
      const auto vectors = static_cast<int64_t>(p.count) * kBytes / 16;
      return FASTCONV_LAUNCH((copy_long_runs<kBytes, Index>), grid_for(vectors + 1, kThreads),
                             dim3(kThreads), 0, stream, p);
    }
  }
  return FASTCONV_LAUNCH((copy_runs<kBytes, kPerThread, Index>),
                         grid_for(static_cast<int64_t>(p.count), kThreads * kPerThread),
                         dim3(kThreads), 0, stream, p);
}

template <class Index>
cudaError_t run_runs(const PackPlan& plan, cudaStream_t stream) {
  switch (plan.bytes) {
    case 1:
      return launch_runs<1, Index>(plan, stream);
    case 2:
      return launch_runs<2, Index>(plan, stream);
    case 4:
      return launch_runs<4, Index>(plan, stream);
    case 8:
      return launch_runs<8, Index>(plan, stream);
    default:
      return launch_runs<16, Index>(plan, stream);
  }
}

template <int kElement, int kPieces, int kLanes, class Index>
cudaError_t launch_registers(const PackPlan& plan, cudaStream_t stream) {
  if constexpr (kElement * kPieces * kLanes <= 16) {
    if (plan.bytes > kElement * kPieces * kLanes) {
      return launch_registers<kElement, kPieces, 2 * kLanes, Index>(plan, stream);
    }
    const PackParams<Index> p = pack_params<Index>(plan);
    const dim3 grid = grid_for(static_cast<int64_t>(p.count), kThreads * kPerThread),
               block(kThreads);
    return plan.interleave
               ? FASTCONV_LAUNCH(
                     (copy_registers<kElement, kPieces, kLanes, true, kPerThread, Index>), grid,
                     block, 0, stream, p)
               : FASTCONV_LAUNCH(
                     (copy_registers<kElement, kPieces, kLanes, false, kPerThread, Index>), grid,
                     block, 0, stream, p);
  } else {
    return cudaErrorInvalidValue;
  }
}

template <int kElement, class Index>
cudaError_t run_registers(const PackPlan& plan, cudaStream_t stream) {
  return plan.pieces == 2 ? launch_registers<kElement, 2, 1, Index>(plan, stream)
                          : launch_registers<kElement, 4, 1, Index>(plan, stream);
}

template <int kElement, class Index>
cudaError_t run_boxes(const BoxPlan& plan, const Tile& tile, cudaStream_t stream) {
  const BoxParams<Index> p = box_params<Index>(plan);
  const size_t smem =
      (padded<kElement>(p.box) * kElement + 15) / 16 * 16 + kMaxAxes * sizeof(Index);
  // A few rounds per block pay for working out the walks, once there are blocks for everyone.
  const int64_t blocks = max_of(min_of(plan.boxes, kEnoughBoxes), ceil_div(plan.boxes, 4));
  return FASTCONV_LAUNCH((copy_boxes<kElement, kBoxPerThread, Index>), grid_for(blocks, 1),
                         dim3(static_cast<unsigned>(tile.threads)), smem, stream, p);
}

template <int kElement, class Index>
cudaError_t run_element(const Copy& copy, int index, cudaStream_t stream) {
  PackPlan interleave{}, deinterleave{};
  const bool can_interleave = plan_registers(copy, true, interleave);
  const bool can_deinterleave = !can_interleave && plan_registers(copy, false, deinterleave);
  if (index < 0) {
    Copy rest = copy;
    index = pick_tile({.element = copy.element,
                       .run = take_run(rest),
                       .transposes = contiguous_input_axis(copy) >= 0,
                       .registers = can_interleave || can_deinterleave});
  }
  const Tile tile = kTiles[index];
  switch (tile.family) {
    case Family::kRuns:
      return run_runs<Index>(plan_runs(copy), stream);
    case Family::kRegisters:
      if (can_interleave) return run_registers<kElement, Index>(interleave, stream);
      if (can_deinterleave) return run_registers<kElement, Index>(deinterleave, stream);
      return cudaErrorInvalidValue;
    default:
      return run_boxes<kElement, Index>(plan_boxes(copy, tile.threads * tile.per_thread), tile,
                                        stream);
  }
}

template <class Index>
cudaError_t run_index(const Copy& copy, int tile, cudaStream_t stream) {
  switch (copy.element) {
    case 1:
      return run_element<1, Index>(copy, tile, stream);
    case 2:
      return run_element<2, Index>(copy, tile, stream);
    case 4:
      return run_element<4, Index>(copy, tile, stream);
    case 8:
      return run_element<8, Index>(copy, tile, stream);
    default:
      return run_element<16, Index>(copy, tile, stream);
  }
}

}  // namespace fastconv::rearrange
