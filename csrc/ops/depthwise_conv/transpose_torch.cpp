// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Registers transposed depthwise convolution: the gradient of the input of a convolution with the
// sizes exchanged and the filters of a channel on the other side (Problem::wide_in), plus a bias.
// Its own gradient of the input is that convolution, and that of the weight has x and dy exchanged.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <array>

#include "ops/depthwise_conv/autograd_torch.h"
#include "ops/depthwise_conv/calls_torch.h"
#include "ops/depthwise_conv/geometry_torch.h"
#include "ops/depthwise_conv/kernels_torch.h"
#include "ops/depthwise_conv/transpose_geometry_torch.h"
#include "torch_utils.h"

// Of its own: the build compiles this file together with the room's others.
namespace fastconv::depthwise_conv::transpose_op {
namespace {

using at::Tensor;
using c10::SymIntArrayRef;

Gradients call_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                        SymIntArrayRef stride, SymIntArrayRef padding,
                        SymIntArrayRef output_padding, SymIntArrayRef dilation, Mask mask,
                        int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::_depthwise_conv_transpose_backward", "")
                             .typed<decltype(call_backward)>();
  return op.call(grad_output, input, weight, stride, padding, output_padding, dilation, mask, tile);
}

// ---- kernels: Meta, CPU, CUDA ----

// (C, m, *kernel) as the kernels know it: (C * m, 1, *kernel).
Tensor as_filters(const Tensor& weight) { return weight.flatten(0, 1).unsqueeze(1); }

// Each channel `multiplier` times in a row, in the same layout.  The result of a transposed
// convolution has as many channels and more pixels, so that this copy is not what takes time.
Tensor repeat_channels(const Tensor& x, int64_t multiplier, bool channels_last) {
  if (multiplier == 1) return x;
  auto sizes = c10::SymDimVector(x.sym_sizes());
  sizes[1] *= multiplier;
  const Tensor wide = empty_activation(x, sizes, channels_last);
  wide.unflatten(1, {x.size(1), multiplier}).copy_(x.unsqueeze(2));
  return wide;
}

Tensor forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
               SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef output_padding,
               SymIntArrayRef dilation, int64_t tile) {
  if (is_unbatched(input, stride)) {
    return forward(input.unsqueeze(0), weight, bias, stride, padding, output_padding, dilation,
                   tile)
        .squeeze(0);
  }
  const Geometry g =
      infer_transposed(input, weight, bias, stride, padding, output_padding, dilation);
  const Tensor output = empty_activation(input, g.out_sizes(), g.channels_last);
  if (input.is_meta() || output.numel() == 0) return output;
  run_backward_data(make_problem(g, input.scalar_type()), g.nd, in_layout(input, g.channels_last),
                    as_filters(weight), bias, output, tile);
  return output;
}

Gradients backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                   SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef output_padding,
                   SymIntArrayRef dilation, Mask mask, int64_t tile) {
  if (is_unbatched(input, stride)) {
    auto [dx, dw, db] = backward(grad_output.unsqueeze(0), input.unsqueeze(0), weight, stride,
                                 padding, output_padding, dilation, mask, tile);
    return {dx.defined() ? dx.squeeze(0) : dx, dw, db};
  }
  const Geometry g =
      infer_transposed(input, weight, std::nullopt, stride, padding, output_padding, dilation);
  check_grad_output("_depthwise_conv_transpose_backward", grad_output, input, g.out_sizes());
  const auto weight_format = weight.suggest_memory_format();
  Tensor dx, dw, db;
  if (mask[0]) dx = empty_activation(input, input.sym_sizes(), g.channels_last);
  if (mask[1]) dw = at::empty_symint(weight.sym_sizes(), weight.options());
  if (mask[2]) db = at::empty_symint({g.out_channels}, weight.options());
  if (!input.is_meta() && grad_output.numel() == 0) {
    for (const Tensor& t : {dx, dw, db}) {
      if (t.defined()) t.zero_();
    }
  } else if (!input.is_meta()) {
    const Problem p = make_problem(g, input.scalar_type());
    const Tensor dy = in_layout(grad_output, g.channels_last);
    if (mask[0]) run_forward(p, g.nd, dy, as_filters(weight), std::nullopt, dx, tile);
    Problem q = p;  // of a convolution from dy to x, with one filter per channel
    q.wide_in = false;
    q.channels = p.filters();
    q.multiplier = 1;
    if (mask[1]) {
      const Tensor x =
          repeat_channels(in_layout(input, g.channels_last), p.multiplier, g.channels_last);
      run_backward_weight(q, g.nd, dy, x, as_filters(dw), Tensor(), tile);
    }
    if (mask[2]) {  // a sum over dy's pixels: the gradient of a bias that a 1x1 convolution has
      for (Axis& a : q.axis) a = {a.in, a.in, 1, 1, 1, 0};
      run_backward_weight(q, g.nd, dy, dy, Tensor(), db, /*tile=*/-1);
    }
  }
  // The kernels' gradient is dense; torch's has the weight's memory format.
  return {dx, dw.defined() ? dw.contiguous(weight_format) : dw, db};
}

// ---- decomposition into native operators, for transforms that an opaque kernel cannot serve ----

Tensor decomposed(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                  SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef output_padding,
                  SymIntArrayRef dilation, int64_t tile) {
  if (is_unbatched(input, stride)) {
    return decomposed(input.unsqueeze(0), weight, bias, stride, padding, output_padding, dilation,
                      tile)
        .squeeze(0);
  }
  const Geometry g =
      infer_transposed(input, weight, bias, stride, padding, output_padding, dilation);
  return at::convolution_symint(input, weight, bias, stride, padding, dilation, true,
                                output_padding, g.channels);
}

Gradients decomposed_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                              SymIntArrayRef stride, SymIntArrayRef padding,
                              SymIntArrayRef output_padding, SymIntArrayRef dilation, Mask mask,
                              int64_t tile) {
  if (is_unbatched(input, stride)) {
    auto [dx, dw, db] = decomposed_backward(grad_output.unsqueeze(0), input.unsqueeze(0), weight,
                                            stride, padding, output_padding, dilation, mask, tile);
    return {dx.defined() ? dx.squeeze(0) : dx, dw, db};
  }
  const Geometry g =
      infer_transposed(input, weight, std::nullopt, stride, padding, output_padding, dilation);
  const c10::SymInt bias_size[] = {g.out_channels};
  return at::convolution_backward_symint(grad_output, input, weight, SymIntArrayRef(bias_size),
                                         stride, padding, dilation, true, output_padding,
                                         g.channels, mask);
}

// ---- Autograd ----

struct Transposed {
  static constexpr size_t kLists = 4;
  using Lists = std::array<SymIntArrayRef, kLists>;  // stride, padding, output_padding, dilation

  static Tensor forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        const Lists& a, int64_t tile) {
    return call_conv_transpose(input, weight, bias, a[0], a[1], a[2], a[3], tile);
  }
  static Gradients backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                            const Lists& a, Mask mask, int64_t tile) {
    return call_backward(grad_output, input, weight, a[0], a[1], a[2], a[3], mask, tile);
  }
};

Tensor forward_autograd(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        SymIntArrayRef stride, SymIntArrayRef padding,
                        SymIntArrayRef output_padding, SymIntArrayRef dilation, int64_t tile) {
  if (needs_decomposition({input, weight, bias.value_or(Tensor())})) {
    return decomposed(input, weight, bias, stride, padding, output_padding, dilation, tile);
  }
  return record_forward<Transposed>(input, weight, bias,
                                    {stride, padding, output_padding, dilation}, tile);
}

Gradients backward_autograd(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                            SymIntArrayRef stride, SymIntArrayRef padding,
                            SymIntArrayRef output_padding, SymIntArrayRef dilation, Mask mask,
                            int64_t tile) {
  if (needs_decomposition({grad_output, input, weight})) {
    return decomposed_backward(grad_output, input, weight, stride, padding, output_padding,
                               dilation, mask, tile);
  }
  return record_backward<Transposed>(grad_output, input, weight,
                                     {stride, padding, output_padding, dilation}, mask, tile);
}

// ---- Autocast: the lower precision type, as for torch's convolutions ----

template <c10::DispatchKey key, c10::DeviceType device>
Tensor forward_autocast(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        SymIntArrayRef stride, SymIntArrayRef padding,
                        SymIntArrayRef output_padding, SymIntArrayRef dilation, int64_t tile) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto to = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const auto& t) { return at::autocast::cached_cast(to, t, device); };
  return call_conv_transpose(cast(input), cast(weight), cast(bias), stride, padding, output_padding,
                             dilation, tile);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastconv, m) {
  m.def(
      "depthwise_conv_transpose(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, "
      "SymInt[] padding, SymInt[] output_padding, SymInt[] dilation, int tile=-1) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "_depthwise_conv_transpose_backward(Tensor grad_output, Tensor input, Tensor weight, "
      "SymInt[] stride, SymInt[] padding, SymInt[] output_padding, SymInt[] dilation, "
      "bool[3] output_mask, int tile=-1) -> (Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}
#define FASTCONV_KERNELS(key, forward_kernel, backward_kernel)               \
  TORCH_LIBRARY_IMPL(fastconv, key, m) {                                     \
    m.impl("depthwise_conv_transpose", TORCH_FN(forward_kernel));            \
    m.impl("_depthwise_conv_transpose_backward", TORCH_FN(backward_kernel)); \
  }
FASTCONV_KERNELS(Meta, forward, backward)
FASTCONV_KERNELS(CPU, forward, backward)
FASTCONV_KERNELS(CUDA, forward, backward)
FASTCONV_KERNELS(Autograd, forward_autograd, backward_autograd)
FASTCONV_KERNELS(FuncTorchBatched, decomposed, decomposed_backward)
#undef FASTCONV_KERNELS
TORCH_LIBRARY_IMPL(fastconv, AutocastCPU, m) {
  m.impl("depthwise_conv_transpose",
         TORCH_FN((forward_autocast<c10::DispatchKey::AutocastCPU, c10::DeviceType::CPU>)));
}
TORCH_LIBRARY_IMPL(fastconv, AutocastCUDA, m) {
  m.impl("depthwise_conv_transpose",
         TORCH_FN((forward_autocast<c10::DispatchKey::AutocastCUDA, c10::DeviceType::CUDA>)));
}

}  // namespace fastconv::depthwise_conv::transpose_op
