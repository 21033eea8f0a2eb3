// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depthwise convolution, 1-D to 3-D: the contract between torch.cpp and the kernels.
//
//   y[n, c*m + j, o] = bias[c*m + j] + sum_k w[c*m + j, k] * x[n, c, o*stride + k*dilation - pad]
//
// over three spatial axes (D, H, W); lower ranks have leading axes of size 1.  x reads as zero
// outside its bounds, and `pad` may be negative (a crop).  Only the pad before the first element
// matters here: the one after the last shows in `out`.
//
// A transposed convolution is the gradient of the input with a bias, of a convolution with the m
// filters of a channel on the other side: `wide_in`.  Then x has the C*m channels and y has C:
//
//   y[n, c, o] = sum_{j, k} w[c*m + j, k] * x[n, c*m + j, o*stride + k*dilation - pad]
//
// Weights are dense (C*m, kd, kh, kw), biases dense, one for each channel of the result.
// Activations are addressed by strides:
// - channels_last: every activation has a channel stride of 1; other strides are free;
// - otherwise: inputs have any strides; outputs are dense (N, C, D, H, W).
// Arithmetic is fp32 (fp64 for fp64), rounded once at the store.  Sums are taken in an order that
// depends on the problem alone, never on the number of threads or on timing.
#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/types.h"

namespace fastconv::depthwise_conv {

struct Axis {
  int64_t in, out, kernel, stride, dilation, pad;
};

struct Problem {
  Dtype dtype;
  bool channels_last;
  bool wide_in;  // x, not y, has channels * multiplier; not for the gradient of the weight
  int64_t batch, channels, multiplier;
  Axis axis[kSpatial];

  constexpr int64_t filters() const { return channels * multiplier; }
  constexpr int64_t in_channels() const { return wide_in ? filters() : channels; }
  constexpr int64_t out_channels() const { return wide_in ? channels : filters(); }
  constexpr int64_t taps() const { return axis[0].kernel * axis[1].kernel * axis[2].kernel; }
  constexpr int64_t in_pixels() const { return axis[0].in * axis[1].in * axis[2].in; }
  constexpr int64_t out_pixels() const { return axis[0].out * axis[1].out * axis[2].out; }
};

struct Forward : Problem {
  const void* x;
  Strides5 x_strides;
  const void* weight;
  const void* bias;  // may be null
  void* y;
  Strides5 y_strides;
  Activation activation = Activation::kNone;  // of the sum above
};

// dx[n, c, i] = sum over (j, k, o) with o*stride + k*dilation - pad == i of
//               w[c*m + j, k] * dy[n, c*m + j, o]
// and with wide_in, plus bias[c*m + j],
// dx[n, c*m + j, i] = sum over (k, o) of the same w[c*m + j, k] * dy[n, c, o].
struct BackwardData : Problem {
  const void* dy;
  Strides5 dy_strides;
  const void* weight;
  const void* bias;  // may be null
  void* dx;
  Strides5 dx_strides;
};

// dw[c*m + j, k] = sum_{n, o} dy[n, c*m + j, o] * x[n, c, o*stride + k*dilation - pad]
// db[c*m + j]    = sum_{n, o} dy[n, c*m + j, o]
struct BackwardWeight : Problem {
  const void* x;
  Strides5 x_strides;
  const void* dy;
  Strides5 dy_strides;
  void* dw;         // dense, in the tensor's own dtype; may be null when only db is asked for
  void* db;         // may be null
  void* workspace;  // partial sums; on CUDA, backward_weight_workspace_bytes_cuda() bytes
};

// Both gradients in one pass over x and dy, on CUDA where a kernel serves the problem.
struct Backward : BackwardWeight {
  const void* weight;
  void* dx;
  Strides5 dx_strides;
};

int64_t backward_weight_workspace_bytes_cuda(const BackwardWeight& p, int tile);

// The tile for `tile`, which may be -1, or none: -1.
int backward_tile_cuda(const Backward& p, int tile);
int64_t backward_workspace_bytes_cuda(const Backward& p, int tile);

}  // namespace fastconv::depthwise_conv
