// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Plain types shared by every kernel, on the CPU and on CUDA.  Torch-free: see docs/adr/0003.
#pragma once

#include <cstdint>

namespace fastconv {

// Element types that kernels do arithmetic on.  Rearrangements move raw bytes and never look at it.
enum class Dtype : uint8_t { kFloat32, kFloat64, kFloat16, kBFloat16 };

// Storage of the 16-bit formats.  The CPU kernels convert through these; CUDA uses __half and
// __nv_bfloat16, which have the same bits.
struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

constexpr int64_t element_size(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
// Floor division and its remainder in [0, b), for b > 0 and any a.
constexpr int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
constexpr int64_t floor_mod(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }

// Every operator sees its tensors as (N, C, D, H, W): lower ranks have leading spatial sizes of 1.
constexpr int kSpatial = 3;

// Strides count elements and may be zero (expanded views) on inputs.
struct Strides5 {
  int64_t n, c;
  int64_t sp[kSpatial];
};

}  // namespace fastconv
