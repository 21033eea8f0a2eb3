// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The operators as functions: calls through the dispatcher.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/SymIntArrayRef.h>

#include <string_view>

#include "ops/depthwise_conv/autograd_torch.h"

namespace fastconv::depthwise_conv {

inline at::Tensor call_conv(const at::Tensor& input, const at::Tensor& weight,
                            const OptionalTensor& bias, c10::SymIntArrayRef stride,
                            c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                            int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::depthwise_conv", "")
                             .typed<decltype(call_conv)>();
  return op.call(input, weight, bias, stride, padding, dilation, tile);
}

inline Gradients call_conv_backward(const at::Tensor& grad_output, const at::Tensor& input,
                                    const at::Tensor& weight, c10::SymIntArrayRef stride,
                                    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                                    Mask mask, int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::_depthwise_conv_backward", "")
                             .typed<decltype(call_conv_backward)>();
  return op.call(grad_output, input, weight, stride, padding, dilation, mask, tile);
}

inline at::Tensor call_conv_act(const at::Tensor& input, const at::Tensor& weight,
                                const OptionalTensor& bias, c10::SymIntArrayRef stride,
                                c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                                std::string_view activation, int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::depthwise_conv_act", "")
                             .typed<decltype(call_conv_act)>();
  return op.call(input, weight, bias, stride, padding, dilation, activation, tile);
}

inline at::Tensor call_conv_transpose(const at::Tensor& input, const at::Tensor& weight,
                                      const OptionalTensor& bias, c10::SymIntArrayRef stride,
                                      c10::SymIntArrayRef padding,
                                      c10::SymIntArrayRef output_padding,
                                      c10::SymIntArrayRef dilation, int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::depthwise_conv_transpose", "")
                             .typed<decltype(call_conv_transpose)>();
  return op.call(input, weight, bias, stride, padding, output_padding, dilation, tile);
}

}  // namespace fastconv::depthwise_conv
