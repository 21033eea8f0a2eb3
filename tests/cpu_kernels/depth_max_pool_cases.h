// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The problems on which the CPU kernels of depth max pooling are tried.
#pragma once

#include "harness.h"
#include "ops/depth_max_pool/depth_max_pool_cpu.h"

namespace depth_max_pool_cases {

using namespace fastconv;
using namespace fastconv::depth_max_pool;
using harness::Random;

inline constexpr const char* kDtypes[] = {"float32", "float64", "float16", "bfloat16"};
inline constexpr const char* kIndexTypes[] = {"none", "uint8", "int32", "int64"};

struct Case : Problem {
  bool views;   // inputs with gaps, permuted or expanded axes
  bool merged;  // axes merged as torch.cpp merges them
  int rough;    // what the input holds besides numbers; see roughen()
};

// As torch infers the output, with ceil_mode or without.
inline Axis axis(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad,
                 bool ceil_mode) {
  const int64_t extent = (kernel - 1) * dilation + 1;
  pad = min_of(pad, extent / 2);
  in = max_of(in, extent - 2 * pad);
  const int64_t room = in + 2 * pad - extent + (ceil_mode ? stride - 1 : 0);
  int64_t out = room / stride + 1;
  if (ceil_mode && (out - 1) * stride >= in + pad) --out;
  return {in, out, kernel, stride, dilation, pad};
}

inline Case draw(Random& random) {
  static constexpr int64_t kRuns[] = {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 65, 130};
  Case c{};
  c.dtype = static_cast<Dtype>(random.in(0, 3));
  c.inner = random.one_in(2) ? 0 : 3;
  c.batch = random.in(1, 2);
  const int style = static_cast<int>(random.in(0, 3));
  const bool ceil_mode = random.one_in(3);
  for (int a = 0; a < kAxes; ++a) {
    const int64_t in = a == c.inner ? random.pick(kRuns) : random.in(1, 7);
    if (style == 0 && a > 0) {  // channels alone
      c.axis[a] = axis(in, 1, 1, 1, 0, false);
    } else if (style == 1) {  // windows of 2 or 4 that tile the input, and leave a rest
      const int64_t k = random.one_in(3) ? 1 : random.one_in(3) ? 4 : 2;
      c.axis[a] = axis(a == c.inner ? in * k : in, k, k, 1, 0, ceil_mode);
    } else {
      const bool leaves_none = style == 2;
      const int64_t kernel = random.in(1, 4), stride = random.in(1, leaves_none ? kernel : 4);
      const int64_t dilation = !leaves_none && random.one_in(4) ? random.in(2, 9) : 1;
      c.axis[a] = axis(in, kernel, stride, dilation, random.in(0, 2), ceil_mode);
    }
  }
  c.index_type = static_cast<IndexType>(random.in(0, 3));
  if (c.index_type == IndexType::kUint8 && c.taps() > 256) c.index_type = IndexType::kInt32;
  c.views = random.one_in(2);
  c.merged = !random.one_in(4);
  c.rough = static_cast<int>(random.in(0, 3));
  return c;
}

// Runs of more than one piece, which random problems do not have.
inline std::vector<Case> table() {
  std::vector<Case> cases;
  const Axis one{};
  const auto add = [&](Dtype dtype, IndexType index, const Axis& run, const Axis& other) {
    for (const int inner : {0, 3}) {
      Case c{};
      c.dtype = dtype;
      c.index_type = index;
      c.inner = inner;
      c.batch = 1;
      for (Axis& a : c.axis) a = one;
      c.axis[inner] = run;
      c.axis[2] = other;
      c.merged = true;
      c.rough = 1;
      cases.push_back(c);
    }
  };
  const Axis rows = axis(3, 2, 1, 1, 0, false);
  add(Dtype::kFloat32, IndexType::kUint8, axis(9001, 2, 2, 1, 0, true), one);
  add(Dtype::kBFloat16, IndexType::kUint8, axis(16500, 4, 4, 1, 0, false), one);
  add(Dtype::kFloat16, IndexType::kInt32, axis(4999, 3, 1, 1, 1, false), rows);
  add(Dtype::kFloat64, IndexType::kInt64, axis(8200, 3, 2, 2, 1, false), rows);
  // One axis after the other: several bands of rows, and blocks of channels.
  for (const IndexType index : {IndexType::kNone, IndexType::kUint8, IndexType::kInt32}) {
    for (int i = 0; i < 4; ++i) {
      Case c{};
      c.dtype = static_cast<Dtype>(i);
      c.index_type = index;
      c.inner = 3;
      c.batch = 1;
      c.axis[0] = axis(40, 3, 1 + i % 2, 1, 1, false);
      c.axis[1] = axis(1 + i, 1 + i, 1, 1, 0, false);
      c.axis[2] = axis(90, 4, 1 + i, 1, 1, true);
      c.axis[3] = axis(i == 1 ? 50 : 21, 2 + i, 1 + i, 1, 1, true);
      c.rough = 3;
      cases.push_back(c);
    }
  }
  return cases;
}

inline std::string text(const Case& c) {
  std::string s = kDtypes[static_cast<int>(c.dtype)];
  s += std::string(" index ") + kIndexTypes[static_cast<int>(c.index_type)];
  s += c.inner == 0 ? " channels_last" : " contiguous";
  s += " n" + std::to_string(c.batch);
  for (const Axis& a : c.axis) {
    s += " (in " + std::to_string(a.in) + " out " + std::to_string(a.out) + " k" +
         std::to_string(a.kernel) + " s" + std::to_string(a.stride) + " d" +
         std::to_string(a.dilation) + " p" + std::to_string(a.pad) + ")";
  }
  return s + (c.views ? " views" : "") + (c.merged ? " merged" : "") + " rough " +
         std::to_string(c.rough);
}

}  // namespace depth_max_pool_cases
