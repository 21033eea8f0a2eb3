// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Squeeze and excitation: the four passes over an activation of N images, C channels and P pixels.
//
//   kMean          sums[n, c]  = sum_p x[n, c, p] / P
//   kMeanGradient  y[n, c, p]  = per_channel[n, c] / P
//   kGate          y[n, c, p]  = x[n, c, p] * s[n, c],  s = sigmoid(per_channel)
//   kGateGradient  y[n, c, p]  = dy[n, c, p] * s[n, c]
//                  sums[n, c]  = s'[n, c] * sum_p dy[n, c, p] * x[n, c, p],  s' = s (1 - s)
//
// Sums are taken in fp32 (fp64 for fp64), in an order that depends on the sizes alone.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fastconv::squeeze_excite {

enum class Pass : uint8_t { kMean, kMeanGradient, kGate, kGateGradient };

constexpr bool reads_x(Pass pass) { return pass != Pass::kMeanGradient; }
constexpr bool has_sums(Pass pass) { return pass == Pass::kMean || pass == Pass::kGateGradient; }
constexpr bool has_gate(Pass pass) { return pass == Pass::kGate || pass == Pass::kGateGradient; }

// In elements.  Pixels follow one another with a single stride: c is 1 in channels-last tensors, p
// in the others.
struct Strides {
  int64_t n, c, p;
};

struct Params {
  Pass pass;
  Dtype dtype;
  bool channels_last;
  int64_t batch, channels, pixels;  // pixels > 0

  const void* x;
  Strides x_strides;
  const void* dy;
  Strides dy_strides;
  const void* per_channel;  // (N, C), dense
  void* y;
  Strides y_strides;
  void* sums;  // (N, C), dense

  // Channels-last images are cut into `chunks` of `per_task` pixels; with more than one, their sums
  // go to `partial`, (N, chunks, C) of the accumulator's type, and combine() adds them in order.
  // Otherwise a task is `per_task` planes.
  int64_t per_task, chunks;
  void* partial;

  constexpr int64_t planes() const { return batch * channels; }
  constexpr bool needs_partial() const { return has_sums(pass) && channels_last && chunks > 1; }
  constexpr int64_t accum_size() const { return dtype == Dtype::kFloat64 ? 8 : 4; }
  constexpr int64_t partial_bytes() const {
    return needs_partial() ? batch * chunks * channels * accum_size() : 0;
  }
};

}  // namespace fastconv::squeeze_excite
