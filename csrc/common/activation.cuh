// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Activations of sums in registers, for every CUDA kernel that stores results of a convolution.
//
// Which one is a parameter of the launch: a branch that all threads take alike, so that no kernel
// is compiled more than once.  NaN stays NaN, and an infinity gives what it gives in torch.
#pragma once

#include <type_traits>

#include "common/activation.h"
#include "common/gpu.h"

namespace fastconv {

template <class A>
__device__ __forceinline__ A hardswish(A z) {
  constexpr A kSixth = A(1) / 6;  // times 6 it comes out as 1
  return z * (gpu::at_most(gpu::at_least(z + 3, A(0)), A(6)) * kSixth);
}

// z / (1 + e^-z) as z < 0 ? z * e / (1 + e) : z / (1 + e), e = e^-|z|: nothing overflows, and the
// divisor lies between 1 and 2.
__device__ __forceinline__ float silu(float z) {
  const float e = expf(-fabsf(z));
  return (z < 0 ? z * e : z) * gpu::reciprocal(1 + e);
}
__device__ __forceinline__ double silu(double z) {
  const double e = exp(-fabs(z));
  return (z < 0 ? z * e : z) * gpu::reciprocal(1 + e);
}

// z * P(N <= z).  1 + erf(z / sqrt(2)) would lose all digits of the tail below zero, which is
// e^(-a^2 / 2) * R(a) for a = |z|.  R falls from 1/2 to 0.4 / a: a quotient of polynomials with
// positive coefficients, with a relative error of 0.11 * 2^-24 on [0, 15].
__device__ __forceinline__ float gelu(float z) {
  // Above 15, a * P(N > a) is less than half the smallest number.
  const float a = gpu::at_most(fabsf(z), 15.0f);
  // `top` has 12 digits, so that its square is exact: a^2 rounded once would be up to 2^-18 off.
  const float top = gpu::keep_bits(a, 0xfffff000u);
  float over = 0x1.102ec6p-8f, under = 0x1.552076p-7f;
  over = over * a + 0x1.4ee544p-5f;
  under = under * a + 0x1.a3c12p-4f;
  over = over * a + 0x1.78c456p-3f;
  under = under * a + 0x1.e2b854p-2f;
  over = over * a + 0x1.c1d336p-2f;
  under = under * a + 0x1.349e92p0f;
  over = over * a + 0.5f;
  under = under * a + 0x1.ad2bccp0f;
  under = under * a + 1.0f;
  const float e = expf(top * top * -0.5f) * expf((a - top) * (a + top) * -0.5f);
  const float tail = e * (over * gpu::reciprocal(under));
  return z * (z < 0 ? tail : 1 - tail);
}
__device__ __forceinline__ double gelu(double z) {
  return z * (0.5 * erfc(z * -0x1.6a09e667f3bcdp-1));
}

// Applies `activation` to at(0), ..., at(N - 1), references to sums in registers.
//
// The values are taken one after the other, so that the temporaries of one at a time take registers
// from the kernel.  Up to 16 values are so many copies of the code, each behind its own branches;
// were they in a loop, ptxas would take that for the hot one of a kernel that has no other loop in
// its main loop, and compute addresses there anew in every round (105 instead of 73 instructions
// for a row of walk_kernel<float, 1, 3, 1, 1, 4, true>).  More values, and fp64, whose functions
// are long, do stand in a loop: each round transforms the first few, and all move on.
template <int N, class At>
__device__ __forceinline__ void activate(Activation activation, const At& at) {
  using A = std::decay_t<decltype(at(0))>;
  int kind = static_cast<int>(activation);
  if (kind == static_cast<int>(Activation::kNone)) return;
  if (kind <= static_cast<int>(Activation::kRelu6)) {
    const A high = activation == Activation::kRelu ? A(INFINITY) : A(6);
#pragma unroll
    for (int i = 0; i < N; ++i) at(i) = gpu::at_most(gpu::at_least(at(i), A(0)), high);
    return;
  }
  const auto long_one = [&](A z) {
    gpu::pin(kind);  // keeps the values' branches apart
    if (kind == static_cast<int>(Activation::kHardswish)) return hardswish(z);
    return kind == static_cast<int>(Activation::kSilu) ? silu(z) : gelu(z);
  };
  if constexpr (N <= 16 && sizeof(A) == 4) {
#pragma unroll
    for (int i = 0; i < N; ++i) at(i) = long_one(at(i));
  } else {
    constexpr int kGroup = sizeof(A) == 4 && N % 4 == 0 ? 4 : 1;
#pragma unroll 1
    for (int round = 0; round < N / kGroup; ++round) {
      A z[kGroup];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) z[i] = long_one(at(i));
#pragma unroll
      for (int i = 0; i + kGroup < N; ++i) at(i) = at(i + kGroup);
#pragma unroll
      for (int i = 0; i < kGroup; ++i) at(N - kGroup + i) = z[i];
    }
  }
}

template <int N, class A>
__device__ __forceinline__ void activate(Activation activation, A (&sums)[N]) {
  activate<N>(activation, [&](int i) -> A& { return sums[i]; });
}

}  // namespace fastconv
