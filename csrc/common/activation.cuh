// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Activations of sums in registers, for every CUDA kernel that stores results of a convolution.
//
// Which one is a parameter of the launch: a branch that all threads take alike, so that no kernel
// is compiled more than once.  NaN stays NaN, and an infinity gives what it gives in torch.
#pragma once

#include <cmath>
#include <type_traits>

#include "common/activation.h"
#include "common/gpu.h"

namespace fastconv {

// max(x, low) and min(x, high) that keep a NaN in x.
template <class A>
__device__ __forceinline__ A at_least(A x, A low) {
  return x < low ? low : x;
}
template <class A>
__device__ __forceinline__ A at_most(A x, A high) {
  return x > high ? high : x;
}

template <class A>
__device__ __forceinline__ A hardswish(A z) {
  constexpr A kSixth = A(1) / 6;  // times 6 it comes out as 1
  return z * (at_most(at_least(z + 3, A(0)), A(6)) * kSixth);
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
  const float a = at_most(fabsf(z), 15.0f);
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

// How many of N values are transformed at a time: one, for their temporaries not to take registers
// from the kernel, but so many that there are no more than eight rounds.
constexpr int activation_group(int n, int size) { return size == 8 || n % 8 != 0 ? 1 : n / 8; }

// Applies `activation` to at(0), ..., at(N - 1), references to sums in registers.  The long
// functions stand in a loop, so that their code is there once: in each round the first values are
// transformed, and all of them move on.
template <int N, class At>
__device__ __forceinline__ void activate(Activation activation, const At& at) {
  if (activation == Activation::kNone) return;
  using A = std::decay_t<decltype(at(0))>;
  if (activation == Activation::kRelu || activation == Activation::kRelu6) {
    const A high = activation == Activation::kRelu ? A(INFINITY) : A(6);
#pragma unroll
    for (int i = 0; i < N; ++i) at(i) = at_most(at_least(at(i), A(0)), high);
    return;
  }
  constexpr int kGroup = activation_group(N, sizeof(A));
#pragma unroll 1
  for (int round = 0; round < N / kGroup; ++round) {
    A z[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) z[i] = at(i);
    if (activation == Activation::kHardswish) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) z[i] = hardswish(z[i]);
    } else if (activation == Activation::kSilu) {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) z[i] = silu(z[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) z[i] = gelu(z[i]);
    }
#pragma unroll
    for (int i = 0; i + kGroup < N; ++i) at(i) = at(i + kGroup);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) at(N - kGroup + i) = z[i];
  }
}

}  // namespace fastconv
