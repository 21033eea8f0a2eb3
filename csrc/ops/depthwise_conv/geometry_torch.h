// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Argument checks and shape inference of depthwise convolution, on symbolic integers: the one
// place for both, called first by every kernel (Meta, CPU, CUDA, autograd).
#pragma once

#include <ATen/ATen.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/SymIntArrayRef.h>

#include "ops/depthwise_conv/depthwise_conv.h"
#include "torch_utils.h"

namespace fastconv::depthwise_conv {

// A call whose arguments are sound.  `input` is batched: (N, C, *spatial).  Of a transposed
// convolution it is the convolution whose gradient that is: `in` are then the result's sizes.
struct Geometry {
  int64_t nd;
  bool channels_last;
  bool wide_in = false;  // transposed
  c10::SymInt batch, channels, out_channels;
  struct SymAxis {
    c10::SymInt in, out, kernel, stride, dilation, begin, end;  // begin, end: padding
  };
  SymAxis axis[kSpatial];  // the first nd

  // Of the result.
  c10::SymDimVector out_sizes() const {
    c10::SymDimVector sizes{batch, out_channels};
    for (int64_t i = 0; i < nd; ++i) sizes.push_back(wide_in ? axis[i].in : axis[i].out);
    return sizes;
  }
};

// Unbatched input (C, *spatial) is a batch of one.
inline bool is_unbatched(const at::Tensor& input, c10::SymIntArrayRef stride) {
  return input.dim() == static_cast<int64_t>(stride.size()) + 1;
}

// Whether torch would compute in channels-last.  Three-dimensional tensors have no memory format
// of their own: an input whose channels are innermost, (N, L, C) in memory, keeps that layout.
inline bool wants_channels_last(const at::Tensor& t, int64_t nd) {
  if (nd == 2) return t.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  if (nd == 3) return t.suggest_memory_format() == at::MemoryFormat::ChannelsLast3d;
  const auto sizes = t.sym_sizes(), strides = t.sym_strides();
  const c10::SymInt sizes2d[] = {sizes[0], sizes[1], 1, sizes[2]};
  const c10::SymInt strides2d[] = {strides[0], strides[1], sizes[2] * strides[2], strides[2]};
  return c10::is_channels_last_strides_2d(c10::SymIntArrayRef(sizes2d),
                                          c10::SymIntArrayRef(strides2d));
}

// Strides of a dense tensor of these sizes in the layout.
inline c10::SymDimVector dense_strides(c10::SymIntArrayRef sizes, bool channels_last) {
  const int64_t dims = static_cast<int64_t>(sizes.size());
  c10::SymDimVector strides(dims);
  c10::SymInt step = 1;
  const auto place = [&](int64_t d) {
    strides[d] = step;
    step *= sizes[d].max(1);
  };
  if (channels_last) place(1);
  for (int64_t d = dims - 1; d >= 2; --d) place(d);
  if (!channels_last) place(1);
  place(0);
  return strides;
}

inline void check_tensors(const char* name, const at::Tensor& input, const at::Tensor& weight,
                          const std::optional<at::Tensor>& bias) {
  TORCH_CHECK_NOT_IMPLEMENTED(is_arithmetic_dtype(input.scalar_type()), "\"", name,
                              "\" not implemented for '", input.scalar_type(),
                              "': expected input of dtype float32, float64, float16 or bfloat16");
  const auto same = [&](const at::Tensor& t, const char* argument) {
    TORCH_CHECK(t.scalar_type() == input.scalar_type(), name, ": input (", input.scalar_type(),
                ") and ", argument, " (", t.scalar_type(), ") should have the same dtype");
    TORCH_CHECK(t.device() == input.device(), name,
                ": expected all tensors to be on the same device, but input is on ", input.device(),
                " and ", argument, " is on ", t.device());
  };
  same(weight, "weight");
  if (bias && bias->defined()) same(*bias, "bias");
}

inline void check_per_dimension(const char* name, const char* argument, c10::SymIntArrayRef list,
                                int64_t nd) {
  TORCH_CHECK(static_cast<int64_t>(list.size()) == nd, name, ": expected ", argument,
              " to be a single integer or a list of ", nd, " values, but got ", argument, "=",
              list);
}

// `weight_size` says what the weight's should be.
inline void check_ranks(const char* name, const at::Tensor& input, const at::Tensor& weight,
                        const char* weight_size, int64_t nd) {
  TORCH_CHECK(input.dim() == nd + 2, "Expected ", nd + 1, "D (unbatched) or ", nd + 2,
              "D (batched) input to ", name, ", but got input of size: ", input.sym_sizes());
  TORCH_CHECK(weight.dim() == nd + 2, name, ": expected weight of ", nd + 2, " dimensions, ",
              weight_size, ", but got weight of size ", weight.sym_sizes());
  TORCH_SYM_CHECK(input.sym_size(1).sym_gt(0), name,
                  ": expected input with at least one channel, got ", input.sym_sizes());
}

inline void check_bias(const char* name, const std::optional<at::Tensor>& bias,
                       const c10::SymInt& channels) {
  if (!bias || !bias->defined()) return;
  TORCH_CHECK(bias->dim() == 1, name, ": expected bias to be 1-dimensional with ", channels,
              " elements, but got bias of size ", bias->sym_sizes());
  TORCH_SYM_CHECK(bias->sym_size(0).sym_eq(channels), name,
                  ": expected bias to be 1-dimensional with ", channels,
                  " elements, but got bias of size ", bias->sym_sizes());
}

// What an axis demands of its numbers, transposed or not.
inline void check_axis(const char* name, const Geometry::SymAxis& a, const at::Tensor& weight,
                       c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                       c10::SymIntArrayRef dilation) {
  // Far above any real size, and products of a few of these still fit 64 bits.
  const c10::SymInt limit = int64_t{1} << 31;
  TORCH_SYM_CHECK(a.kernel.sym_gt(0), name,
                  ": expected a kernel of positive size, but got weight of size ",
                  weight.sym_sizes());
  TORCH_SYM_CHECK(a.stride.sym_gt(0), name,
                  ": non-positive stride is not supported, got stride=", stride);
  TORCH_SYM_CHECK(a.dilation.sym_gt(0), name,
                  ": dilation should be greater than zero, got dilation=", dilation);
  TORCH_SYM_CHECK(a.begin.sym_ge(0).sym_and(a.end.sym_ge(0)), name,
                  ": negative padding is not supported, got padding=", padding);
  TORCH_SYM_CHECK(a.stride.sym_lt(limit)
                      .sym_and(a.dilation.sym_lt(limit))
                      .sym_and(a.begin.sym_lt(limit))
                      .sym_and(a.end.sym_lt(limit)),
                  name, ": stride, padding and dilation must be below 2^31, got stride=", stride,
                  ", padding=", padding, ", dilation=", dilation);
}

inline void check_grad_output(const char* name, const at::Tensor& grad_output,
                              const at::Tensor& input, c10::SymIntArrayRef sizes) {
  TORCH_CHECK(
      grad_output.scalar_type() == input.scalar_type() && grad_output.device() == input.device(),
      name, ": expected grad_output of dtype ", input.scalar_type(), " on ", input.device(),
      ", but got ", grad_output.scalar_type(), " on ", grad_output.device());
  TORCH_CHECK(grad_output.sym_sizes().size() == sizes.size(), name,
              ": expected grad_output of size ", sizes, ", but got ", grad_output.sym_sizes());
  for (size_t d = 0; d < sizes.size(); ++d) {
    TORCH_SYM_CHECK(grad_output.sym_size(d).sym_eq(sizes[d]), name,
                    ": expected grad_output of size ", sizes, ", but got ",
                    grad_output.sym_sizes());
  }
}

// `padding` has a (begin, end) pair per dimension, or one number for both.
inline Geometry infer(const at::Tensor& input, const at::Tensor& weight,
                      const std::optional<at::Tensor>& bias, c10::SymIntArrayRef stride,
                      c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation) {
  static constexpr const char* kNames[] = {"depthwise_conv1d", "depthwise_conv2d",
                                           "depthwise_conv3d"};
  const int64_t nd = static_cast<int64_t>(stride.size());
  TORCH_CHECK(nd >= 1 && nd <= kSpatial, "depthwise_conv: expected stride of 1 to 3 elements, got ",
              stride);
  const char* name = kNames[nd - 1];
  check_per_dimension(name, "dilation", dilation, nd);
  const bool pairs = static_cast<int64_t>(padding.size()) == 2 * nd;
  if (!pairs) check_per_dimension(name, "padding", padding, nd);
  check_tensors(name, input, weight, bias);
  check_ranks(name, input, weight, "(C * multiplier, 1, *kernel_size)", nd);
  Geometry g;
  g.nd = nd;
  g.batch = input.sym_size(0);
  g.channels = input.sym_size(1);
  g.out_channels = weight.sym_size(0);
  TORCH_SYM_CHECK(weight.sym_size(1).sym_eq(1), name,
                  ": expected weight of size (C * multiplier, 1, *kernel_size), but got ",
                  weight.sym_sizes());
  TORCH_SYM_CHECK(g.out_channels.sym_gt(0).sym_and((g.out_channels % g.channels).sym_eq(0)), name,
                  ": expected weight.size(0) to be a positive multiple of the input's ", g.channels,
                  " channels, but got weight of size ", weight.sym_sizes(), " and input of size ",
                  input.sym_sizes());
  check_bias(name, bias, g.out_channels);
  c10::SymInt elements = g.batch.max(1) * g.out_channels;
  for (int64_t i = 0; i < nd; ++i) {
    auto& a = g.axis[i];
    a.in = input.sym_size(i + 2);
    a.kernel = weight.sym_size(i + 2);
    a.stride = stride[i];
    a.dilation = dilation[i];
    a.begin = padding[pairs ? 2 * i : i];
    a.end = padding[pairs ? 2 * i + 1 : i];
    check_axis(name, a, weight, stride, padding, dilation);
    const c10::SymInt padded = a.in + a.begin + a.end;
    const c10::SymInt window = a.dilation * (a.kernel - 1) + 1;
    TORCH_SYM_CHECK(padded.sym_ge(window), name, ": calculated padded input size ", padded,
                    " along spatial dimension ", i, " is smaller than the dilated kernel size ",
                    window, ". Kernel size can't be greater than actual input size");
    a.out = (padded - window) / a.stride + 1;
    // Concrete sizes only: symbolic ones are checked when they become concrete.
    const auto n = elements.maybe_as_int(), o = a.out.maybe_as_int();
    int64_t product = 0;
    TORCH_CHECK(!n || !o || !__builtin_mul_overflow(*n, *o, &product), name,
                ": output size overflows 64 bits, got input of size ", input.sym_sizes(),
                " with padding=", padding);
    elements = elements * a.out;
  }
  g.channels_last = wants_channels_last(input, nd) || (nd > 1 && wants_channels_last(weight, nd));
  return g;
}

// Empty tensor of these sizes in the call's layout.
inline at::Tensor empty_activation(const at::Tensor& like, c10::SymIntArrayRef sizes,
                                   bool channels_last) {
  return at::empty_strided_symint(sizes, dense_strides(sizes, channels_last), like.options());
}

// An activation as the kernels want it: with channels innermost where they run over channels.
inline at::Tensor in_layout(const at::Tensor& t, bool channels_last) {
  if (!channels_last || t.stride(1) == 1 || t.size(1) == 1) return t;
  at::Tensor copy =
      at::empty_strided_symint(t.sym_sizes(), dense_strides(t.sym_sizes(), true), t.options());
  copy.copy_(t);
  return copy;
}

inline Strides5 strides_of(const at::Tensor& t, int64_t nd) {
  Strides5 s{t.stride(0), t.stride(1), {0, 0, 0}};
  for (int64_t i = 0; i < nd; ++i) s.sp[kSpatial - nd + i] = t.stride(i + 2);
  return s;
}

// The kernels' view of a call with concrete sizes.
inline Problem make_problem(const Geometry& g, at::ScalarType type) {
  Problem p;
  p.dtype = to_dtype(type);
  p.channels_last = g.channels_last;
  p.wide_in = g.wide_in;
  p.batch = g.batch.expect_int();
  p.channels = g.channels.expect_int();
  p.multiplier = g.out_channels.expect_int() / p.channels;
  for (auto& axis : p.axis) axis = {1, 1, 1, 1, 1, 0};
  for (int64_t i = 0; i < g.nd; ++i) {
    const auto& a = g.axis[i];
    const int64_t out = a.out.expect_int(), kernel = a.kernel.expect_int();
    // A single window has no stride and a single tap no dilation: kernels may size buffers by them.
    p.axis[kSpatial - g.nd + i] = {a.in.expect_int(),
                                   out,
                                   kernel,
                                   out == 1 ? 1 : a.stride.expect_int(),
                                   kernel == 1 ? 1 : a.dilation.expect_int(),
                                   a.begin.expect_int()};
  }
  return p;
}

// Taps far apart, of which some meet padding alone whatever the output, are left out: the CPU's
// kernels stage what lies between the first and the last.  Returns the part of the weight, or of
// its gradient, that the problem is then about.
inline at::Tensor drop_idle_taps(Problem& p, int64_t nd, at::Tensor weight) {
  constexpr int64_t kFar = int64_t{1} << 16;
  for (int64_t i = 0; i < nd; ++i) {
    Axis& a = p.axis[kSpatial - nd + i];
    if ((a.kernel - 1) * a.dilation < kFar) continue;
    // Tap k is at k * dilation - pad + o * stride for output o.
    const int64_t reach = (a.out - 1) * a.stride;
    const int64_t first = min_of(ceil_div(max_of(0, a.pad - reach), a.dilation), a.kernel - 1);
    const int64_t end = min_of(ceil_div(a.in + a.pad, a.dilation), a.kernel);
    if (weight.defined()) weight = weight.slice(i + 2, first, max_of(end, first + 1));
    a.kernel = max_of(end - first, 1);
    a.pad -= first * a.dilation;
    if (a.kernel == 1) a.dilation = 1;
  }
  return weight;
}

}  // namespace fastconv::depthwise_conv
