// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The one header that knows which compiler runs the CUDA kernels: nvcc, or a host compiler under
// the test-only executor (tests/host_cuda/host_cuda.h).  Every asm statement, every __CUDACC__
// test, the dynamic shared memory declaration and the launch live here, so that each kernel runs
// unchanged in both.  Kernels never test __CUDA_ARCH__.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/types.h"

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// `T* name`: the block's dynamic shared memory.
#define FASTCONV_DYNAMIC_SMEM(T, name)                                \
  extern __shared__ __align__(128) unsigned char fastconv_smem_raw[]; \
  T* name = reinterpret_cast<T*>(fastconv_smem_raw)

// `T* name`: `count` elements of shared memory whose size is known at compile time.
#define FASTCONV_STATIC_SMEM(T, name, count)                              \
  __shared__ __align__(16) unsigned char name##_raw[(count) * sizeof(T)]; \
  T* name = reinterpret_cast<T*>(name##_raw)

// Launches `kernel` and returns the launch's error.  A kernel with commas in its name goes in
// parentheses.  More than 48 KiB of dynamic shared memory is requested first.
#define FASTCONV_LAUNCH(kernel, grid, block, smem, stream, ...) \
  ::fastconv::gpu::launch(kernel, grid, block, smem, stream, __VA_ARGS__)

// The host executor checks what the hardware would fault on.
#define FASTCONV_CHECK_ALIGNED(p, bytes) static_cast<void>(0)

namespace fastconv::gpu {

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                   A... args) {
  static_assert((sizeof(P) + ... + 0) <= 4096, "kernel parameters are limited to 4 KiB");
  if (smem > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, smem, stream>>>(static_cast<P>(args)...);
  return cudaGetLastError();
}

// Keeps the compiler from computing a value anew in every branch that uses it, and from knowing
// what it is.
__device__ __forceinline__ void pin(int& x) { asm volatile("" : "+r"(x)); }
__device__ __forceinline__ void pin(float& x) { asm volatile("" : "+f"(x)); }
__device__ __forceinline__ void pin(double& x) { asm volatile("" : "+d"(x)); }

// max(x, low) and min(x, high) that keep a NaN in x.
__device__ __forceinline__ float at_least(float x, float low) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(low));
  return y;
}
__device__ __forceinline__ float at_most(float x, float high) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(high));
  return y;
}
__device__ __forceinline__ double at_least(double x, double low) { return x < low ? low : x; }
__device__ __forceinline__ double at_most(double x, double high) { return x > high ? high : x; }

// 1 / x to a unit in its last place, for 1 <= x < 2^126.
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ double reciprocal(double x) {
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));  // 20 bits, and each step doubles them
  y = fma(y, fma(-x, y, 1.0), y);
  return fma(y, fma(-x, y, 1.0), y);
}

// One store of 8 or 16 aligned bytes of global memory.
__device__ __forceinline__ void store_words(void* p, const uint32_t (&w)[2]) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "r"(w[0]),
               "r"(w[1]));
}
__device__ __forceinline__ void store_words(void* p, const uint32_t (&w)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)),
               "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]));
}

// Copies Bytes (4, 8 or 16, both sides aligned so) to shared memory behind the thread's back; where
// not `valid` it writes zeros, and `global` is not read.  The copies since the last commit form a
// group; cp_async_wait<N>() returns when at most the N youngest groups are still under way.
template <int Bytes>
__device__ __forceinline__ void cp_async(void* smem, const void* global, bool valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  const unsigned dst = static_cast<unsigned>(__cvta_generic_to_shared(smem));
  const int read = valid ? Bytes : 0;
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(global), "r"(read)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(dst), "l"(global),
                 "n"(Bytes), "r"(read)
                 : "memory");
  }
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int GroupsLeft>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GroupsLeft) : "memory");
}

// D += A B over the lanes of a warp, all of which call it; T is half or bfloat16, two to a register
// with the lower column (of B: row) in the low half.  Lane 4 * g + t holds
//   a[0], a[1]: A[g][2t..], A[g + 8][2t..];  a[2], a[3]: the same at columns 2t + 8
//   b[0], b[1]: B[2t..][g], B[2t + 8..][g]
//   d[0], d[1]: D[g][2t], D[g][2t + 1];      d[2], d[3]: D[g + 8][2t], D[g + 8][2t + 1]
// of A (16 x 16), B (16 x 8) and D (16 x 8).
#define FASTCONV_MMA(T, ptx)                                                            \
  template <>                                                                           \
  __device__ __forceinline__ void mma_m16n8k16<T>(float(&d)[4], const uint32_t(&a)[4],  \
                                                  const uint32_t(&b)[2]) {              \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." ptx "." ptx                   \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));   \
  }
template <class T>
__device__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
FASTCONV_MMA(__half, "f16")
FASTCONV_MMA(__nv_bfloat16, "bf16")
#undef FASTCONV_MMA

}  // namespace fastconv::gpu

#else

#include "host_cuda.h"

namespace fastconv::gpu {

template <class A>
A at_least(A x, A low) {
  return x < low ? low : x;
}
template <class A>
A at_most(A x, A high) {
  return x > high ? high : x;
}
template <class A>
A reciprocal(A x) {
  return 1 / x;
}
template <int N>
void store_words(void* p, const uint32_t (&w)[N]) {
  std::memcpy(p, w, sizeof(w));
}

}  // namespace fastconv::gpu

#endif

namespace fastconv::gpu {

using half = __half;
using bfloat16 = __nv_bfloat16;

template <class T>
struct AccumOf {
  using type = float;
};
template <>
struct AccumOf<double> {
  using type = double;
};
// The type in which T is accumulated: fp64 for fp64, fp32 for everything else.
template <class T>
using Accum = typename AccumOf<T>::type;

__host__ __device__ __forceinline__ float widen(float x) { return x; }
__host__ __device__ __forceinline__ double widen(double x) { return x; }
__host__ __device__ __forceinline__ float widen(half x) { return __half2float(x); }
__host__ __device__ __forceinline__ float widen(bfloat16 x) { return __bfloat162float(x); }

template <class T>
__host__ __device__ T narrow(Accum<T> x);
template <>
__host__ __device__ __forceinline__ float narrow<float>(float x) {
  return x;
}
template <>
__host__ __device__ __forceinline__ double narrow<double>(double x) {
  return x;
}
template <>
__host__ __device__ __forceinline__ half narrow<half>(float x) {
  return __float2half_rn(x);
}
template <>
__host__ __device__ __forceinline__ bfloat16 narrow<bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Element 0 (the low half) or 1 of two that share a register.
template <class T>
__host__ __device__ float widen_half(uint32_t pair, int element);
template <>
__host__ __device__ __forceinline__ float widen_half<half>(uint32_t pair, int element) {
  __half2 both;
  std::memcpy(static_cast<void*>(&both), &pair, sizeof(pair));
  return element == 0 ? __low2float(both) : __high2float(both);
}
template <>
__host__ __device__ __forceinline__ float widen_half<bfloat16>(uint32_t pair, int element) {
  const uint32_t bits = element == 0 ? pair << 16 : pair & 0xffff0000u;
  float value;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

// x without the bits that are not in `mask`.
__host__ __device__ __forceinline__ float keep_bits(float x, uint32_t mask) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits &= mask;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Division by a number known at launch, in a few instructions.  Serves 0 <= n < 2^31.
template <class I>
struct Divider {
  I value;
  uint32_t multiplier, shift;

  Divider() = default;
  explicit Divider(int64_t divisor) : value(static_cast<I>(divisor)), multiplier(0), shift(0) {
    while ((uint64_t{1} << shift) < static_cast<uint64_t>(divisor)) ++shift;
    const uint64_t excess = (uint64_t{1} << shift) - static_cast<uint64_t>(divisor);
    multiplier = static_cast<uint32_t>((excess << 32) / static_cast<uint64_t>(divisor) + 1);
  }
  __device__ __forceinline__ I divide(I n) const {
    const auto u = static_cast<uint32_t>(n);
    const auto high = static_cast<uint32_t>((uint64_t{multiplier} * u) >> 32);
    return static_cast<I>((high + u) >> shift);
  }
};
// 64-bit indices are rare enough to divide plainly.
template <>
struct Divider<int64_t> {
  int64_t value;

  Divider() = default;
  explicit Divider(int64_t divisor) : value(divisor) {}
  __device__ __forceinline__ int64_t divide(int64_t n) const { return n / value; }
};

// N consecutive elements moved by one access of N * sizeof(T) bytes, which must be aligned so.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};

template <class T, int N>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  FASTCONV_CHECK_ALIGNED(p, N * sizeof(T));
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <class T, int N>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& pack) {
  FASTCONV_CHECK_ALIGNED(p, N * sizeof(T));
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

// The same in one instruction whatever the compiler knows.  It takes a pack of sums apart again if
// they come out of a loop of unknown length, and stores them one by one.
template <class T, int N>
__device__ __forceinline__ void store_whole(T* p, const Pack<T, N>& pack) {
  constexpr int kBytes = N * sizeof(T);
  if constexpr (kBytes == 8 || kBytes == 16) {
    FASTCONV_CHECK_ALIGNED(p, kBytes);
    uint32_t words[kBytes / 4];
    std::memcpy(words, &pack, sizeof(words));
    store_words(p, words);
  } else {
    store_pack<T, N>(p, pack);
  }
}

}  // namespace fastconv::gpu
