// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Causal depthwise convolution of a few new time steps, with a state that holds the last ones.
//
//   f = the state's `state_length` elements, then the `length` new ones, of each channel
//   y[b, c, t]     = act(bias[c] + sum_j w[c, j] * f[b, c, state_length + t - (taps-1-j)*dilation])
//   state[b, c, i] = f[b, c, length + i], once all y are computed
#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/types.h"

namespace fastconv::causal_conv1d_update {

// In elements.
struct Strides {
  int64_t batch, channel, time;
};

struct Params {
  Dtype dtype;
  Activation activation;
  int64_t batch, channels, length, state_length, taps, dilation;

  const void* x;
  Strides x_strides;
  void* state;
  Strides state_strides;
  const void* weight;
  int64_t weight_channel, weight_tap;  // strides
  const void* bias;                    // dense, or null
  void* y;
  Strides y_strides;
};

}  // namespace fastconv::causal_conv1d_update
