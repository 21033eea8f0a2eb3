// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Activations of the sums of depthwise_conv_reference.h, and how far results may be from them; and
// activations and slopes in passes of their own.
#pragma once

#include "depthwise_conv_reference.h"
#include "harness.h"
#include "ops/depthwise_conv/cpu.h"

namespace fastconv::depthwise_conv {

constexpr const char* kActivations[] = {"none", "relu", "relu6", "hardswish", "silu", "gelu"};

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

struct Rounding {
  double out, acc, least;

  explicit Rounding(Dtype dtype) {
    constexpr double kRound[] = {0x1p-24, 0x1p-53, 0x1p-11, 0x1p-8};
    out = kRound[static_cast<int>(dtype)];
    acc = dtype == Dtype::kFloat64 ? 0x1p-52 : 0x1p-24;
    least = 0x1p-24 * out;
  }
  // Of the activation of a number that is `before` off: the activation stretches that by at most
  // 1.13, adds some errors of the accumulator, and is rounded.
  double activated(double z, double y, double before) const {
    return 1.13 * before + 1.1 * (8 * acc * (std::fabs(z) + std::fabs(y)) + out * std::fabs(y)) +
           least;
  }
};

// `want(i)` gives the exact value of element i and how far from it the result may be.
template <class F>
void compare_with(Dtype dtype, const harness::Buffer& got, const harness::Layout& layout,
                  const char* what, const F& want) {
  size_t i = 0;
  layout.each([&](int64_t offset, const std::vector<int64_t>&) {
    const double value = harness::read_number(dtype, got.bytes() + offset * element_size(dtype));
    const auto [exact, bound] = want(i++);
    if (!(std::fabs(value - exact) <= bound)) {
      harness::fail("%s is %.17g instead of %.17g, bound %.3g", what, value, exact, bound);
    }
  });
}

struct Near {
  double value, bound;
};

// `c` is a case with an activation; its sums are rounded, too.
template <class Case>
void compare_activated(const Case& c, const harness::Buffer& got, const harness::Layout& layout,
                       const std::vector<Sum>& sums) {
  const Rounding r(c.dtype);
  const double n = static_cast<double>(c.taps() + 1), growth = std::fmin(n, 6 * std::sqrt(n));
  compare_with(c.dtype, got, layout, kActivations[static_cast<int>(c.activation)], [&](size_t i) {
    const auto [z, magnitude] = sums[i];
    const double before = 1.1 * (growth * r.acc * magnitude + r.out * std::fabs(z)) + r.least;
    const double y = activate(c.activation, z);
    return Near{y, r.activated(z, y, before)};
  });
}

// The activation of numbers as many as the case's results, and its slope there times others.
class OwnPasses {
 public:
  template <class Case>
  OwnPasses(const Case& c, harness::Run& run, uint64_t seed)
      : dtype_(c.dtype),
        activation_(c.activation),
        layout_(harness::dense({c.batch * c.out_channels() * c.out_pixels()}, {0})),
        z_(harness::numbers(run, c.dtype, layout_, seed)),
        dy_(harness::numbers(run, c.dtype, layout_, seed + 1)),
        y_(run.output(layout_, element_size(c.dtype))),
        g_(run.output(layout_, element_size(c.dtype))) {
    constexpr auto kRun = FASTCONV_ISA_TABLE(pointwise_run);
    for (const bool slope : {false, true}) {
      const Pointwise p{c.dtype,
                        activation_,
                        layout_.size[0],
                        z_.data(),
                        slope ? dy_.data() : nullptr,
                        (slope ? g_ : y_).data()};
      run.in_pieces(p.tasks(), 0,
                    [&](int64_t begin, int64_t end, void*) { kRun.get()(p, begin, end); });
    }
  }

  void compare() const {
    const Rounding r(dtype_);
    const auto number = [&](const harness::Buffer& b, size_t i) {
      return harness::read_number(dtype_,
                                  b.bytes() + static_cast<int64_t>(i) * element_size(dtype_));
    };
    compare_with(dtype_, y_, layout_, "an activation", [&](size_t i) {
      const double z = number(z_, i), y = activate(activation_, z);
      return Near{y, r.activated(z, y, 0)};
    });
    compare_with(dtype_, g_, layout_, "a slope", [&](size_t i) {
      const double dy = number(dy_, i), g = dy * slope(activation_, number(z_, i));
      return Near{g, 16 * r.acc * std::fabs(dy) + 1.1 * r.out * std::fabs(g) + r.least};
    });
  }

 private:
  Dtype dtype_;
  Activation activation_;
  harness::Layout layout_;
  const harness::Buffer &z_, &dy_;
  harness::Buffer &y_, &g_;
};

}  // namespace fastconv::depthwise_conv
