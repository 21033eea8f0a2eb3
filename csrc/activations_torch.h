// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Activations by name, and torch's operators for them.
#pragma once

#include <ATen/ATen.h>

#include <string_view>

#include "common/activation.h"

namespace fastconv {

inline constexpr const char* kActivationNames = "'relu', 'relu6', 'hardswish', 'silu', 'gelu'";

// kNone for a name that is none of these.
inline Activation activation_named(std::string_view name) {
  if (name == "relu") return Activation::kRelu;
  if (name == "relu6") return Activation::kRelu6;
  if (name == "hardswish") return Activation::kHardswish;
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  return Activation::kNone;
}

inline at::Tensor native_activation(Activation activation, const at::Tensor& z) {
  switch (activation) {
    case Activation::kNone:
      return z;
    case Activation::kRelu:
      return at::relu(z);
    case Activation::kRelu6:
      return at::hardtanh(z, 0, 6);
    case Activation::kHardswish:
      return at::hardswish(z);
    case Activation::kSilu:
      return at::silu(z);
    case Activation::kGelu:
      return at::gelu(z);
  }
  return z;
}

// dy * activation'(z).  For relu and relu6, `z` may be the result as well.
inline at::Tensor native_gradient(Activation activation, const at::Tensor& dy,
                                  const at::Tensor& z) {
  switch (activation) {
    case Activation::kNone:
      return dy;
    case Activation::kRelu:
      return at::threshold_backward(dy, z, 0);
    case Activation::kRelu6:
      return at::hardtanh_backward(dy, z, 0, 6);
    case Activation::kHardswish:
      return at::hardswish_backward(dy, z);
    case Activation::kSilu: {
      // torch does not differentiate silu_backward.
      const at::Tensor s = at::sigmoid(z);
      return dy * s * (1 + z * (1 - s));
    }
    case Activation::kGelu:
      return at::gelu_backward(dy, z);
  }
  return dy;
}

}  // namespace fastconv
