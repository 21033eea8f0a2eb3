// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CUDA kernels that can do a rearrangement, and the choice among them: pure host code.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fastconv::rearrange {

enum class Family : uint8_t {
  kRuns,       // every thread moves units of up to 16 bytes, in the order of the output
  kRegisters,  // 2 or 4 rows become one, or one becomes 2 or 4, within a thread's registers
  kBox,        // boxes of both tensors' contiguous axes turn in shared memory
};

// What a thread has in flight: units or packs, and elements of a box.
inline constexpr int kThreads = 256, kPerThread = 4, kBoxPerThread = 8;

struct Tile {
  Family family;
  int threads;
  int per_thread;
};

inline constexpr Tile kTiles[] = {
    {Family::kRuns, kThreads, kPerThread},
    {Family::kRegisters, kThreads, kPerThread},
    {Family::kBox, 256, kBoxPerThread},
    {Family::kBox, 512, kBoxPerThread},
};
constexpr int kTileCount = static_cast<int>(sizeof(kTiles) / sizeof(kTiles[0]));

struct TileProblem {
  int64_t element;  // bytes
  int64_t run;      // bytes that are contiguous in both tensors
  bool transposes;  // the input has a contiguous axis, and it is not the output's
  bool registers;   // kRegisters applies
};

// Runs read whole 32-byte sectors from 32 bytes on, and shorter ones share them with their
// neighbours in the cache.  Small elements need more of them in flight.
constexpr int pick_tile(const TileProblem& p) {
  if (p.run > p.element || !p.transposes) return 0;
  if (p.registers) return 1;
  return p.element <= 2 ? 3 : 2;
}

}  // namespace fastconv::rearrange
