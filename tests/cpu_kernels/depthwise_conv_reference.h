// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The sums of depthwise_conv.h in double: what the tests of the CPU kernels expect.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/depthwise_conv/depthwise_conv.h"

namespace fastconv::depthwise_conv {

struct Sum {
  double value = 0, magnitude = 0;
  void add(double a, double b) {
    value += a * b;
    magnitude += std::fabs(a * b);
  }
};

// All four results in one pass over (n, filter, o, k): dense, in the order of the sizes.  A bias is
// that of y, or of dx where the convolution is transposed.
struct Expected {
  std::vector<Sum> y, dx, dw, db;

  Expected(const Problem& p, const std::vector<double>& x, const std::vector<double>& w,
           const std::vector<double>* b, const std::vector<double>& dy)
      : y(dy.size()), dx(x.size()), dw(w.size()), db(p.filters()) {
    const auto [depth, height, width] = p.axis;
    std::vector<Sum>& sums = p.wide_in ? dx : y;
    for (size_t i = 0; b != nullptr && i < sums.size(); ++i) {
      const int64_t pixels = p.wide_in ? p.in_pixels() : p.out_pixels();
      sums[i].add((*b)[i / pixels % p.filters()], 1);
    }
    for (int64_t n = 0; n < p.batch; ++n) {
      for (int64_t c = 0; c < p.filters(); ++c) {
        const int64_t narrow = c / p.multiplier;
        const int64_t image = (n * p.in_channels() + (p.wide_in ? c : narrow)) * p.in_pixels();
        int64_t at = (n * p.out_channels() + (p.wide_in ? narrow : c)) * p.out_pixels();
        for (int64_t z = 0; z < depth.out; ++z) {
          for (int64_t h = 0; h < height.out; ++h) {
            for (int64_t v = 0; v < width.out; ++v, ++at) {
              db[c].add(dy[at], 1);
              taps(p, c, image, {z, h, v}, [&](int64_t i, int64_t k) {
                y[at].add(w[k], x[i]);
                dx[i].add(w[k], dy[at]);
                dw[k].add(x[i], dy[at]);
              });
            }
          }
        }
      }
    }
  }

 private:
  // Calls f(input, weight) for the taps of an output that lie in the image.
  template <class F>
  static void taps(const Problem& p, int64_t c, int64_t image, const int64_t (&o)[kSpatial],
                   const F& f) {
    const auto place = [&](int axis, int64_t k) {
      const Axis& a = p.axis[axis];
      const int64_t i = o[axis] * a.stride + k * a.dilation - a.pad;
      return i < a.in ? i : -1;
    };
    for (int64_t kd = 0; kd < p.axis[0].kernel; ++kd) {
      const int64_t z = place(0, kd);
      if (z < 0) continue;
      for (int64_t kh = 0; kh < p.axis[1].kernel; ++kh) {
        const int64_t h = place(1, kh);
        if (h < 0) continue;
        for (int64_t kw = 0; kw < p.axis[2].kernel; ++kw) {
          const int64_t v = place(2, kw);
          if (v < 0) continue;
          f(image + (z * p.axis[1].in + h) * p.axis[2].in + v,
            ((c * p.axis[0].kernel + kd) * p.axis[1].kernel + kh) * p.axis[2].kernel + kw);
        }
      }
    }
  }
};

}  // namespace fastconv::depthwise_conv
