// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the choice of a CUDA kernel looks at.  Pure host code.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "ops/depthwise_conv/depthwise_conv.h"

namespace fastconv::depthwise_conv {

constexpr int kPackBytes = 16;

// kBackward: the gradients of the input and of the weight in one.
enum class Pass : uint8_t { kForward, kBackwardData, kBackwardWeight, kBackward };

// What the choice depends on: the problem, and the tensors that are read or written by pixel.
struct View {
  Pass pass;
  Problem problem;
  const void* big;  // the tensor over `in` positions: x or dx
  Strides5 big_strides;
  const void* small;  // the tensor over `out` positions: y or dy
  Strides5 small_strides;
  const void* extra = nullptr;  // kBackward: dx
  Strides5 extra_strides = {};
};

// Along such an axis nothing happens: one tap meets the input of the same place.
constexpr bool idle_axis(const Axis& a) {
  return a.kernel == 1 && a.stride == 1 && a.pad == 0 && a.in == a.out;
}

inline View view_of(const Forward& p) {
  return {Pass::kForward, p, p.x, p.x_strides, p.y, p.y_strides};
}
inline View view_of(const BackwardData& p) {
  return {Pass::kBackwardData, p, p.dx, p.dx_strides, p.dy, p.dy_strides};
}
inline View view_of(const BackwardWeight& p) {
  return {Pass::kBackwardWeight, p, p.x, p.x_strides, p.dy, p.dy_strides};
}
inline View view_of(const Backward& p) {
  return {Pass::kBackward, p, p.x, p.x_strides, p.dy, p.dy_strides, p.dx, p.dx_strides};
}

}  // namespace fastconv::depthwise_conv
