// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "common/gpu.h"
#include "ops/causal_conv1d_update/causal_conv1d_update_cuda.h"

using namespace fastconv;
using namespace fastconv::causal_conv1d_update;

// sizes: batch, channels, length, state_length, taps, dilation; strides: (batch, channel, time), of
// the weight (channel, tap).
extern "C" int update(int dtype, int activation, const int64_t* sizes, const void* x,
                      const int64_t* x_strides, void* state, const int64_t* state_strides,
                      const void* weight, const int64_t* weight_strides, const void* bias, void* y,
                      const int64_t* y_strides) {
  host_cuda::calling("update_cuda", -1);
  const auto strides = [](const int64_t* s) { return Strides{s[0], s[1], s[2]}; };
  Params p{};
  p.dtype = static_cast<Dtype>(dtype);
  p.activation = static_cast<Activation>(activation);
  p.batch = sizes[0];
  p.channels = sizes[1];
  p.length = sizes[2];
  p.state_length = sizes[3];
  p.taps = sizes[4];
  p.dilation = sizes[5];
  p.x = x;
  p.x_strides = strides(x_strides);
  p.state = state;
  p.state_strides = strides(state_strides);
  p.weight = weight;
  p.weight_channel = weight_strides[0];
  p.weight_tap = weight_strides[1];
  p.bias = bias;
  p.y = y;
  p.y_strides = strides(y_strides);
  return update_cuda(p, nullptr);
}
