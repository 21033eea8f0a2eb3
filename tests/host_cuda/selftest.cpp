// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Kernels for the executor's own tests: one that uses every feature correctly, and the same with
// one bug at a time.
#include <vector>

#include "common/gpu.h"

namespace selftest {  // not anonymous: the executor tells the names of kernels

using namespace fastconv::gpu;

enum Bug : int {
  kNone,
  kMissingBarrier,
  kWrongWait,
  kDivergentBarrier,
  kDivergentShuffle,
  kMisaligned,
  kSmemOverrun,
  kInFlightAtExit,
  kReadPastInput,
  kLaneOutsideMask,
  kDivergentMma,
  kGlobalRead,
  kGlobalWrite,
  kLocalIndex,
  kStaticOverrun,
};

// y[i] = sum over the block's tile of x, plus x of the mirrored position in the tile.
template <class T>
__global__ void mirror_and_sum(const T* x, T* y, int tiles, int bug) {
  constexpr int kPack = 16 / sizeof(T);
  FASTCONV_DYNAMIC_SMEM(T, tile);  // two stages
  FASTCONV_STATIC_SMEM(Accum<T>, warp_sums, 32);
  const int t = threadIdx.x, threads = blockDim.x, size = threads * kPack;
  auto fetch = [&](int i) {
    const T* source = x + static_cast<int64_t>(i) * size + t * kPack;
    if (bug == kReadPastInput && i == tiles - 1 && t == threads - 1) source += kPack;
    cp_async<16>(tile + i % 2 * size + t * kPack, source, true);
    cp_async_commit();
  };
  fetch(0);
  for (int i = 0; i < tiles; ++i) {
    if (i + 1 < tiles) {
      fetch(i + 1);
      if (bug == kWrongWait) {
        cp_async_wait<2>();
      } else {
        cp_async_wait<1>();
      }
    } else if (bug == kInFlightAtExit) {
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const T* stage = tile + i % 2 * size;
    Accum<T> sum = 0;
    for (int v = 0; v < kPack; ++v) sum += widen(stage[t * kPack + v]);
    if (bug == kDivergentShuffle && i + 1 == tiles && t % 2 == 1) return;
    const unsigned mask = bug == kLaneOutsideMask ? 0xFFFFu : 0xFFFFFFFFu;
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(mask, sum, d);
    if (t % 32 == 0) warp_sums[t / 32] = sum;
    if (bug == kDivergentBarrier) {
      if (t < 32) __syncthreads();
    } else if (bug != kMissingBarrier) {
      __syncthreads();
    }
    sum = 0;
    for (int w = 0; w < threads / 32; ++w) sum += warp_sums[w];
    Pack<T, kPack> out;
    for (int v = 0; v < kPack; ++v) {
      const int mirrored = size - 1 - (t * kPack + v);
      if (bug == kSmemOverrun && mirrored == 0) tile[2 * size] = T(0.f);
      out.v[v] = narrow<T>(widen(stage[mirrored]) + sum);
    }
    T* target = y + static_cast<int64_t>(i) * size + t * kPack;
    store_pack(target + (bug == kMisaligned ? 1 : 0), out);
    __syncthreads();
  }
}

// Bit i of y[warp]: whether lane i's value is positive; y[warps + warp]: any + 2 * all, in lanes
// that exist; the two halves of each warp vote apart.
__global__ void votes(const float* x, unsigned* y) {
  const int t = threadIdx.x, warps = (blockDim.x + 31) / 32;
  const unsigned half_mask = t % 32 < 16 ? 0xFFFFu : 0xFFFF0000u;
  const unsigned bits = __ballot_sync(half_mask, x[t] > 0);
  const unsigned upper = __shfl_sync(0xFFFFFFFFu, bits, 16);
  __syncwarp();
  const int any = __any_sync(0xFFFFFFFFu, x[t] > 0), all = __all_sync(0xFFFFFFFFu, x[t] > 0);
  if (t % 32 == 0) {
    y[t / 32] = bits | upper;
    y[warps + t / 32] = any + 2 * all;
  }
}

// D[tile] += A[tile] B[tile]: a warp to a tile, row-major matrices of 16 x 16, 16 x 8 and 16 x 8.
template <class T>
__global__ void multiply_tiles(const T* a, const T* b, float* d, int bug) {
  const int tile = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4 * 2;
  a += tile * 256;
  b += tile * 128;
  d += tile * 128;
  auto pair = [](T low, T high) {
    uint16_t bits[2];
    std::memcpy(&bits[0], &low, 2);
    std::memcpy(&bits[1], &high, 2);
    return bits[0] | static_cast<uint32_t>(bits[1]) << 16;
  };
  uint32_t as[4], bs[2];
  for (int i = 0; i < 4; ++i) {
    const T* from = a + (g + i % 2 * 8) * 16 + t + i / 2 * 8;
    as[i] = pair(from[0], from[1]);
  }
  for (int i = 0; i < 2; ++i) bs[i] = pair(b[(t + 8 * i) * 8 + g], b[(t + 8 * i + 1) * 8 + g]);
  float ds[4];
  for (int i = 0; i < 4; ++i) ds[i] = d[(g + i / 2 * 8) * 8 + t + i % 2];
  if (bug == kDivergentMma && lane == 7) return;
  mma_m16n8k16<T>(ds, as, bs);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + t + i % 2] = ds[i];
}

// Each shuffle in turn, in segments of `width` lanes: y[op][thread].
__global__ void shuffles(const float* x, float* y, int width, int lanes) {
  const int t = threadIdx.x, n = blockDim.x;
  y[t] = __shfl_sync(~0u, x[t], lanes, width);
  y[n + t] = __shfl_xor_sync(~0u, x[t], lanes, width);
  y[2 * n + t] = __shfl_up_sync(~0u, x[t], lanes, width);
  y[3 * n + t] = __shfl_down_sync(~0u, x[t], lanes, width);
}

// y = x, but for one access that leaves what it may touch.
__global__ void stray(const float* x, float* y, int bug, int offset) {
  FASTCONV_STATIC_SMEM(float, box, 64);
  const int t = threadIdx.x;
  float local[4] = {x[t], x[t], x[t], x[t]};
  if (t == 5) {
    if (bug == kGlobalRead) local[0] += x[offset];
    if (bug == kGlobalWrite) y[offset] = 1;
    if (bug == kLocalIndex) local[offset] = 1;
    if (bug == kStaticOverrun) box[offset] = 1;
  }
  box[t] = local[t % 4];
  y[t] = box[t];
}

}  // namespace selftest

using namespace selftest;

extern "C" int selftest_multiply(const void* a, const void* b, float* d, int tiles, int dtype,
                                 int bug) {
  return dtype == 0
             ? FASTCONV_LAUNCH(multiply_tiles<half>, dim3(1), dim3(32 * tiles), 0, nullptr,
                               static_cast<const half*>(a), static_cast<const half*>(b), d, bug)
             : FASTCONV_LAUNCH(multiply_tiles<bfloat16>, dim3(1), dim3(32 * tiles), 0, nullptr,
                               static_cast<const bfloat16*>(a), static_cast<const bfloat16*>(b), d,
                               bug);
}
extern "C" int selftest_partial_mma(float* any) {
  return FASTCONV_LAUNCH(multiply_tiles<half>, dim3(1), dim3(48), 0, nullptr,
                         reinterpret_cast<const half*>(any), reinterpret_cast<const half*>(any),
                         any, 0);
}
extern "C" int selftest_shuffles(const float* x, float* y, int threads, int width, int lanes) {
  return FASTCONV_LAUNCH(shuffles, dim3(1), dim3(threads), 0, nullptr, x, y, width, lanes);
}
extern "C" int selftest_stray(const float* x, float* y, int bug, int offset) {
  return FASTCONV_LAUNCH(stray, dim3(1), dim3(64), 0, nullptr, x, y, bug, offset);
}
extern "C" int selftest_mirror(const float* x, float* y, int threads, int tiles, int bug) {
  return FASTCONV_LAUNCH(mirror_and_sum<float>, dim3(1), dim3(threads), 2 * threads * 16, nullptr,
                         x, y, tiles, bug);
}
extern "C" int selftest_votes(const float* x, unsigned* y, int threads) {
  return FASTCONV_LAUNCH(votes, dim3(1), dim3(threads), 0, nullptr, x, y);
}
extern "C" int selftest_limits(unsigned x, unsigned y, unsigned z, unsigned threads,
                               unsigned smem) {
  float* none = nullptr;
  return FASTCONV_LAUNCH(mirror_and_sum<float>, dim3(x, y, z), dim3(threads), smem, nullptr, none,
                         none, 0, 0);
}
