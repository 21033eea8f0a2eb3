// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Activations of the sums of depthwise_conv_reference.h, and how far results may be from them.
#pragma once

#include "depthwise_conv_reference.h"
#include "harness.h"

namespace fastconv::depthwise_conv {

constexpr const char* kActivations[] = {"none", "relu", "relu6", "hardswish", "silu", "gelu"};

// A value and how far from it a result may be; or anything, where a slope jumps.
struct Near {
  double value, bound;
  bool anything;
};

inline double activate(Activation activation, double z) {
  switch (activation) {
    case Activation::kRelu:
      return std::fmax(z, 0);
    case Activation::kRelu6:
      return std::fmin(std::fmax(z, 0), 6);
    case Activation::kHardswish:
      return z * std::fmin(std::fmax(z + 3, 0), 6) / 6;
    case Activation::kSilu:
      return z / (1 + std::exp(-z));
    default:
      return z * std::erfc(-z * std::sqrt(0.5)) / 2;
  }
}
inline double slope(Activation activation, double z) {
  switch (activation) {
    case Activation::kRelu:
      return z > 0 ? 1 : 0;
    case Activation::kRelu6:
      return z > 0 && z < 6 ? 1 : 0;
    case Activation::kHardswish:
      return z <= -3 ? 0 : z >= 3 ? 1 : z / 3 + 0.5;
    case Activation::kSilu:
      return (1 + z / (1 + std::exp(z))) / (1 + std::exp(-z));
    default:
      return std::erfc(-z * std::sqrt(0.5)) / 2 +
             z * std::exp(-z * z / 2) / std::sqrt(8 * std::atan(1));
  }
}
inline bool jumps_within(Activation activation, double z, double distance) {
  const auto near = [&](double corner) { return std::fabs(z - corner) <= distance; };
  switch (activation) {
    case Activation::kRelu:
      return near(0);
    case Activation::kRelu6:
      return near(0) || near(6);
    case Activation::kHardswish:
      return near(-3) || near(3);
    default:
      return false;
  }
}

// The activation of a sum of `terms` terms, or its slope times dy: the sum is rounded, the
// activation stretches that error by at most 1.13 (its slope by 1), adds some errors of the
// accumulator, and is rounded again.
inline Near activated(Activation activation, bool gradient, const Sum& z, int64_t terms, double dy,
                      Dtype dtype) {
  constexpr double kRound[] = {0x1p-24, 0x1p-53, 0x1p-11, 0x1p-8};
  const double out = kRound[static_cast<int>(dtype)];
  const double acc = dtype == Dtype::kFloat64 ? 0x1p-52 : 0x1p-24, least = 0x1p-24 * out;
  const double n = static_cast<double>(terms), growth = std::fmin(n, 6 * std::sqrt(n));
  const double before = 1.1 * (growth * acc * z.magnitude + out * std::fabs(z.value)) + least;
  if (gradient) {
    const double value = dy * slope(activation, z.value);
    return {value, std::fabs(dy) * (before + 16 * acc) + 1.1 * out * std::fabs(value) + least,
            jumps_within(activation, z.value, before)};
  }
  const double value = activate(activation, z.value), size = std::fabs(value);
  return {value, 1.13 * before + 1.1 * (8 * acc * (std::fabs(z.value) + size) + out * size) + least,
          false};
}

// `c` is a case with an activation.
template <class Case>
void compare_activated(const Case& c, const harness::Buffer& got, const harness::Layout& layout,
                       const std::vector<Sum>& sums, const std::vector<double>& gradient) {
  size_t i = 0;
  layout.each([&](int64_t offset, const std::vector<int64_t>&) {
    const Sum& z = sums[i];
    const double dy = c.gradient ? gradient[i] : 1;
    const Near want = activated(c.activation, c.gradient, z, c.taps() + 1, dy, c.dtype);
    const double value =
        harness::read_number(c.dtype, got.bytes() + offset * element_size(c.dtype));
    if (!want.anything && !(std::fabs(value - want.value) <= want.bound)) {
      harness::fail("%s of %.17g is %.17g instead of %.17g, bound %.3g",
                    kActivations[static_cast<int>(c.activation)], z.value, value, want.value,
                    want.bound);
    }
    ++i;
  });
}

}  // namespace fastconv::depthwise_conv
