// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Runs our CUDA kernels on the host, for tests: one fiber per CUDA thread, one block at a time.
// A fiber yields at barriers and warp operations; the order in which fibers run is part of the
// test (Order).  What hardware would leave undefined is an error here: see host_cuda.cpp.
//
// csrc/common/gpu.h includes this header when the compiler is not nvcc; host_cuda.cpp is linked
// into every test library.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __shared__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Plain __shared__ variables would be neither filled nor guarded: kernels use the macros below.

namespace fastconv::host_cuda {

using Site = std::source_location;

enum class Order : int { kForward, kReverse, kRandom };

// Where the running fiber is; the scheduler sets it before it resumes a fiber.
struct Position {
  dim3 grid, block;
  uint3 block_index, thread_index;
};
inline Position position;

void configure(Order order, unsigned seed);
const char* last_error();

// Runs body() once per thread.  Any error of the kernel becomes cudaErrorLaunchFailure, and
// last_error() says what it was.  `kernel` names it in the record of launches.
cudaError_t run(const void* kernel, dim3 grid, dim3 block, size_t smem, void (*body)(void*),
                void* state);
// For that record: the launcher that the next kernels belong to, and the tile that it is asked for.
void calling(const char* launcher, int tile);

void* dynamic_smem();
void* static_smem(const void* key, size_t bytes);
void sync_block(const Site& site);

// The operations that exchange values within a warp.
enum class WarpOp : uint8_t { kSync, kShuffle, kBallot, kMma };
uint64_t exchange(WarpOp op, unsigned mask, uint64_t value, int source_lane, const Site& site);
int lane();

// One lane's registers of an mma.sync.m16n8k16; `widen` reads the low half of one.
struct Mma {
  float (&d)[4];
  const uint32_t (&a)[4];
  const uint32_t (&b)[2];
  float (*widen)(uint32_t bits);
};
void mma(const Mma& operands, const Site& site);

void cp_async(void* dst, const void* src, int bytes, int valid_bytes, const Site& site);
void cp_async_commit();
void cp_async_wait(int groups_left);

void check_aligned(const void* p, size_t bytes, const Site& site);

// source_lane outside the lane's segment of `width` means: keep the own value.
template <class T>
T shuffle(unsigned mask, T value, int source_lane, int width, const Site& site) {
  static_assert(sizeof(T) <= 8);
  const int segment = lane() / width * width;
  if (source_lane < segment || source_lane >= segment + width) source_lane = lane();
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(WarpOp::kShuffle, mask, bits, source_lane, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace fastconv::host_cuda

// ---- what gpu.h asks of a compiler -------------------------------------------------------------

#define FASTCONV_DYNAMIC_SMEM(T, name) \
  T* name = static_cast<T*>(::fastconv::host_cuda::dynamic_smem())
#define FASTCONV_STATIC_SMEM(T, name, count) \
  static const char fastconv_key_##name = 0; \
  T* name = static_cast<T*>(                 \
      ::fastconv::host_cuda::static_smem(&fastconv_key_##name, (count) * sizeof(T)))
#define FASTCONV_LAUNCH(kernel, grid, block, smem, stream, ...) \
  ::fastconv::gpu::launch(kernel, grid, block, smem, stream, __VA_ARGS__)
#define FASTCONV_CHECK_ALIGNED(p, bytes) \
  ::fastconv::host_cuda::check_aligned(p, bytes, std::source_location::current())

namespace fastconv::gpu {

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t,
                   const A&... args) {
  static_assert((sizeof(P) + ... + 0) <= 4096, "kernel parameters are limited to 4 KiB");
  auto body = [&] { kernel(static_cast<P>(args)...); };
  return host_cuda::run(
      reinterpret_cast<const void*>(kernel), grid, block, smem,
      [](void* state) { (*static_cast<decltype(body)*>(state))(); }, &body);
}

inline void pin(int&) {}
inline void pin(float&) {}
inline void pin(double&) {}

template <int Bytes>
void cp_async(void* smem, const void* global, bool valid,
              host_cuda::Site site = host_cuda::Site::current()) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  host_cuda::cp_async(smem, global, Bytes, valid ? Bytes : 0, site);
}
inline void cp_async_commit() { host_cuda::cp_async_commit(); }
template <int GroupsLeft>
void cp_async_wait() {
  host_cuda::cp_async_wait(GroupsLeft);
}

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  host_cuda::Site site = host_cuda::Site::current()) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  const auto widen = [](uint32_t bits) {
    T value;
    std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
    return static_cast<float>(value);
  };
  host_cuda::mma({d, a, b, widen}, site);
}

}  // namespace fastconv::gpu

// ---- CUDA's own names --------------------------------------------------------------------------

#define threadIdx (::fastconv::host_cuda::position.thread_index)
#define blockIdx (::fastconv::host_cuda::position.block_index)
#define blockDim (::fastconv::host_cuda::position.block)
#define gridDim (::fastconv::host_cuda::position.grid)
constexpr int warpSize = 32;

using std::max;
using std::min;

inline void __syncthreads(std::source_location site = std::source_location::current()) {
  fastconv::host_cuda::sync_block(site);
}
inline void __syncwarp(unsigned mask = ~0u,
                       std::source_location site = std::source_location::current()) {
  fastconv::host_cuda::exchange(fastconv::host_cuda::WarpOp::kSync, mask, 0, 0, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location site = std::source_location::current()) {
  return static_cast<unsigned>(fastconv::host_cuda::exchange(fastconv::host_cuda::WarpOp::kBallot,
                                                             mask, predicate != 0, 0, site));
}
inline int __any_sync(unsigned mask, int predicate,
                      std::source_location site = std::source_location::current()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      std::source_location site = std::source_location::current()) {
  return __ballot_sync(mask, !predicate, site) == 0;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              std::source_location site = std::source_location::current()) {
  const int segment = fastconv::host_cuda::lane() / width * width;
  return fastconv::host_cuda::shuffle(mask, value, segment + source % width, width, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  std::source_location site = std::source_location::current()) {
  return fastconv::host_cuda::shuffle(mask, value, fastconv::host_cuda::lane() ^ lanes, width,
                                      site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int lanes, int width = 32,
                   std::source_location site = std::source_location::current()) {
  return fastconv::host_cuda::shuffle(mask, value, fastconv::host_cuda::lane() + lanes, width,
                                      site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int lanes, int width = 32,
                 std::source_location site = std::source_location::current()) {
  return fastconv::host_cuda::shuffle(mask, value, fastconv::host_cuda::lane() - lanes, width,
                                      site);
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
