// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// One problem on which the CPU kernels of depthwise convolution are tried.
#pragma once

#include <string>

#include "harness.h"
#include "ops/depthwise_conv/cpu.h"

namespace depthwise_conv_cases {

using namespace fastconv;
using namespace fastconv::depthwise_conv;
using harness::Random;

inline constexpr const char* kDtypes[] = {"float32", "float64", "float16", "bfloat16"};

struct Case : Problem {
  bool bias, dw, db;
  bool views;  // inputs with gaps, permuted or expanded axes; channels-last outputs with gaps
  Activation activation = Activation::kNone;  // of the forward pass
};

inline Axis axis(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t begin,
                 int64_t end) {
  const int64_t window = dilation * (kernel - 1) + 1;
  in = max_of(in, window - begin - end);
  return {in, (in + begin + end - window) / stride + 1, kernel, stride, dilation, begin};
}

inline std::string text(const Case& c) {
  std::string s = kDtypes[static_cast<int>(c.dtype)];
  s += c.channels_last ? " channels_last" : " contiguous";
  s += std::string(c.views ? " views" : "") + (c.wide_in ? " transposed" : "");
  s += " n" + std::to_string(c.batch) + " c" + std::to_string(c.channels) + " m" +
       std::to_string(c.multiplier);
  for (const Axis& a : c.axis) {
    s += " (in " + std::to_string(a.in) + " out " + std::to_string(a.out) + " k" +
         std::to_string(a.kernel) + " s" + std::to_string(a.stride) + " d" +
         std::to_string(a.dilation) + " p" + std::to_string(a.pad) + ")";
  }
  s += std::string(" ") + kActivations[static_cast<int>(c.activation)];
  return s + (c.bias ? " bias" : "") + (c.dw ? " dw" : "") + (c.db ? " db" : "");
}

}  // namespace depthwise_conv_cases
