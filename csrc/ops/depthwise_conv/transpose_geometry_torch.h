// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Argument checks and shape inference of transposed depthwise convolution: see geometry_torch.h.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/SymIntArrayRef.h>

#include <optional>

#include "ops/depthwise_conv/geometry_torch.h"

namespace fastconv::depthwise_conv {

// Concrete sizes only: symbolic ones are checked when they become concrete.
inline void check_64_bits(const char* name, const Geometry::SymAxis& a,
                          const c10::SymInt& output_padding, const c10::SymInt& elements,
                          const at::Tensor& input) {
  const auto n = elements.maybe_as_int(), in = a.out.maybe_as_int(), k = a.kernel.maybe_as_int(),
             s = a.stride.maybe_as_int(), d = a.dilation.maybe_as_int(),
             e = output_padding.maybe_as_int();
  if (!n || !in || !k || !s || !d || !e) return;
  int64_t reach = 0, window = 0, out = 0, product = 0;
  const bool overflows =
      __builtin_mul_overflow(max_of(*in - 1, 0), *s, &reach) ||
      __builtin_mul_overflow(*k - 1, *d, &window) || __builtin_add_overflow(reach, window, &out) ||
      __builtin_add_overflow(out, *e + 1, &out) || __builtin_mul_overflow(out, *n, &product);
  TORCH_CHECK(!overflows, name, ": output size overflows 64 bits, got input of size ",
              input.sym_sizes(), " with stride=", a.stride, ", dilation=", a.dilation);
}

inline Geometry infer_transposed(const at::Tensor& input, const at::Tensor& weight,
                                 const std::optional<at::Tensor>& bias, c10::SymIntArrayRef stride,
                                 c10::SymIntArrayRef padding, c10::SymIntArrayRef output_padding,
                                 c10::SymIntArrayRef dilation) {
  static constexpr const char* kNames[] = {
      "depthwise_conv_transpose1d", "depthwise_conv_transpose2d", "depthwise_conv_transpose3d"};
  const int64_t nd = static_cast<int64_t>(stride.size());
  TORCH_CHECK(nd >= 1 && nd <= kSpatial,
              "depthwise_conv_transpose: expected stride of 1 to 3 elements, got ", stride);
  const char* name = kNames[nd - 1];
  check_per_dimension(name, "padding", padding, nd);
  check_per_dimension(name, "output_padding", output_padding, nd);
  check_per_dimension(name, "dilation", dilation, nd);
  check_tensors(name, input, weight, bias);
  check_ranks(name, input, weight, "(C, multiplier, *kernel_size)", nd);
  Geometry g;
  g.nd = nd;
  g.wide_in = true;
  g.batch = input.sym_size(0);
  g.channels = input.sym_size(1);
  g.out_channels = g.channels * weight.sym_size(1);
  TORCH_SYM_CHECK(weight.sym_size(0).sym_eq(g.channels).sym_and(weight.sym_size(1).sym_gt(0)), name,
                  ": expected weight of size (C, multiplier, *kernel_size) for the input's ",
                  g.channels, " channels, but got weight of size ", weight.sym_sizes(),
                  " and input of size ", input.sym_sizes());
  check_bias(name, bias, g.out_channels);
  c10::SymInt elements = g.batch.max(1) * g.out_channels;
  for (int64_t i = 0; i < nd; ++i) {
    auto& a = g.axis[i];
    a.out = input.sym_size(i + 2);
    a.kernel = weight.sym_size(i + 2);
    a.stride = stride[i];
    a.dilation = dilation[i];
    a.begin = a.end = padding[i];
    check_axis(name, a, weight, stride, padding, dilation);
    const c10::SymInt& extra = output_padding[i];
    TORCH_SYM_CHECK(
        extra.sym_ge(0), name,
        ": negative output_padding is not supported, got output_padding=", output_padding);
    TORCH_SYM_CHECK(extra.sym_lt(a.stride).sym_or(extra.sym_lt(a.dilation)), name,
                    ": output_padding must be smaller than either stride or dilation, but got "
                    "output_padding=",
                    output_padding, ", stride=", stride, ", dilation=", dilation);
    TORCH_SYM_CHECK(a.out.sym_gt(0).sym_or(g.batch.sym_eq(0)), name,
                    ": expected input with non-zero size along spatial dimensions, but got input "
                    "of size ",
                    input.sym_sizes());
    check_64_bits(name, a, extra, elements, input);
    a.in = (a.out - 1) * a.stride - 2 * a.begin + a.dilation * (a.kernel - 1) + extra + 1;
    // As torch for its default dtype and for empty batches: a result without elements is one.
    TORCH_SYM_CHECK(a.in.sym_ge(0), name, ": calculated output size ", a.in,
                    " along spatial dimension ", i, " for input of size ", input.sym_sizes(),
                    " with padding=", padding, ". Output size is too small");
    elements = elements * a.in;
  }
  g.channels_last = wants_channels_last(input, nd) || (nd > 1 && wants_channels_last(weight, nd));
  return g;
}

}  // namespace fastconv::depthwise_conv
