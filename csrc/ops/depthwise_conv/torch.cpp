// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Registers depthwise convolution with PyTorch: schemas, and one section per dispatch key.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <array>

#include "ops/depthwise_conv/autograd_torch.h"
#include "ops/depthwise_conv/calls_torch.h"
#include "ops/depthwise_conv/geometry_torch.h"
#include "ops/depthwise_conv/kernels_torch.h"
#include "torch_utils.h"

namespace fastconv::depthwise_conv {
namespace {

using at::Tensor;
using c10::SymIntArrayRef;

// ---- kernels: Meta, CPU, CUDA ----

Tensor forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
               SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
               int64_t tile) {
  if (is_unbatched(input, stride)) {
    return forward(input.unsqueeze(0), weight, bias, stride, padding, dilation, tile).squeeze(0);
  }
  const Geometry g = infer(input, weight, bias, stride, padding, dilation);
  Tensor output = empty_activation(input, g.out_sizes(), g.channels_last);
  if (input.is_meta() || output.numel() == 0) return output;

  run_forward(make_problem(g, input.scalar_type()), g.nd, in_layout(input, g.channels_last), weight,
              bias, output, tile);
  return output;
}

Gradients backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                   SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                   Mask mask, int64_t tile) {
  if (is_unbatched(input, stride)) {
    auto [dx, dw, db] = backward(grad_output.unsqueeze(0), input.unsqueeze(0), weight, stride,
                                 padding, dilation, mask, tile);
    return {dx.defined() ? dx.squeeze(0) : dx, dw, db};
  }
  const Geometry g = infer(input, weight, std::nullopt, stride, padding, dilation);
  check_grad_output("_depthwise_conv_backward", grad_output, input, g.out_sizes());
  const Tensor dy = input.is_meta() ? grad_output : in_layout(grad_output, g.channels_last);
  Tensor dx, dw, db;
  if (mask[0]) dx = empty_activation(input, input.sym_sizes(), g.channels_last);
  if (mask[1]) dw = at::empty_like(weight, weight.suggest_memory_format());
  if (mask[2]) db = at::empty_symint({g.out_channels}, weight.options());
  if (input.is_meta()) return {dx, dw, db};
  const Problem p = make_problem(g, input.scalar_type());
  const Tensor x = mask[1] || mask[2] ? in_layout(input, g.channels_last) : input;
  if (mask[0] && mask[1] && dx.numel() > 0 &&
      run_backward(p, g.nd, x, dy, weight, dx, dw, db, tile)) {
    return {dx, dw, db};
  }
  if (mask[0] && dx.numel() > 0) run_backward_data(p, g.nd, dy, weight, std::nullopt, dx, tile);
  if (mask[1] || mask[2]) {
    run_backward_weight(p, g.nd, x, dy, dw, db, tile);
  }
  return {dx, dw, db};
}

// ---- decomposition into native operators, for transforms that an opaque kernel cannot serve ----

struct Padding {
  bool symmetric = true;
  c10::SymDimVector both, zero, constant_pad, unpad;  // the last two last dimension first

  Padding(int64_t nd, SymIntArrayRef padding) : zero(nd, 0) {
    const bool pairs = static_cast<int64_t>(padding.size()) == 2 * nd;
    for (int64_t i = 0; i < nd; ++i) {
      both.push_back(padding[pairs ? 2 * i : i]);
      if (pairs && padding[2 * i] != padding[2 * i + 1]) symmetric = false;
    }
    for (int64_t i = nd - 1; i >= 0; --i) {
      for (const c10::SymInt& p : {both[i], padding[pairs ? 2 * i + 1 : i]}) {
        constant_pad.push_back(p);
        unpad.push_back(-p);
      }
    }
  }
  SymIntArrayRef native() const { return symmetric ? both : zero; }
};

Tensor decomposed(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                  SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                  int64_t tile) {
  if (is_unbatched(input, stride)) {
    return decomposed(input.unsqueeze(0), weight, bias, stride, padding, dilation, tile).squeeze(0);
  }
  const Geometry g = infer(input, weight, bias, stride, padding, dilation);
  const Padding pad(g.nd, padding);
  const Tensor x = pad.symmetric ? input : at::constant_pad_nd_symint(input, pad.constant_pad);
  return at::convolution_symint(x, weight, bias, stride, pad.native(), dilation, false, pad.zero,
                                g.channels);
}

Gradients decomposed_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                              SymIntArrayRef stride, SymIntArrayRef padding,
                              SymIntArrayRef dilation, Mask mask, int64_t tile) {
  if (is_unbatched(input, stride)) {
    auto [dx, dw, db] = decomposed_backward(grad_output.unsqueeze(0), input.unsqueeze(0), weight,
                                            stride, padding, dilation, mask, tile);
    return {dx.defined() ? dx.squeeze(0) : dx, dw, db};
  }
  const Geometry g = infer(input, weight, std::nullopt, stride, padding, dilation);
  const Padding pad(g.nd, padding);
  const Tensor x = pad.symmetric ? input : at::constant_pad_nd_symint(input, pad.constant_pad);
  const c10::SymInt bias_size[] = {g.out_channels};
  auto [dx, dw, db] =
      at::convolution_backward_symint(grad_output, x, weight, SymIntArrayRef(bias_size), stride,
                                      pad.native(), dilation, false, pad.zero, g.channels, mask);
  if (dx.defined() && !pad.symmetric) dx = at::constant_pad_nd_symint(dx, pad.unpad);
  return {dx, dw, db};
}

// ---- Autograd ----

struct Convolution {
  static constexpr size_t kLists = 3;
  using Lists = std::array<SymIntArrayRef, kLists>;  // stride, padding, dilation

  static Tensor forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        const Lists& a, int64_t tile) {
    return call_conv(input, weight, bias, a[0], a[1], a[2], tile);
  }
  static Gradients backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                            const Lists& a, Mask mask, int64_t tile) {
    return call_conv_backward(grad_output, input, weight, a[0], a[1], a[2], mask, tile);
  }
};

Tensor forward_autograd(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                        int64_t tile) {
  if (needs_decomposition({input, weight, bias.value_or(Tensor())})) {
    return decomposed(input, weight, bias, stride, padding, dilation, tile);
  }
  return record_forward<Convolution>(input, weight, bias, {stride, padding, dilation}, tile);
}

Gradients backward_autograd(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                            SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                            Mask mask, int64_t tile) {
  if (needs_decomposition({grad_output, input, weight})) {
    return decomposed_backward(grad_output, input, weight, stride, padding, dilation, mask, tile);
  }
  return record_backward<Convolution>(grad_output, input, weight, {stride, padding, dilation}, mask,
                                      tile);
}

// ---- Autocast: the lower precision type, as for torch's convolutions ----

template <c10::DispatchKey key, c10::DeviceType device>
Tensor forward_autocast(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                        int64_t tile) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto to = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const auto& t) { return at::autocast::cached_cast(to, t, device); };
  return call_conv(cast(input), cast(weight), cast(bias), stride, padding, dilation, tile);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastconv, m) {
  m.def(
      "depthwise_conv(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, int tile=-1) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "_depthwise_conv_backward(Tensor grad_output, Tensor input, Tensor weight, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, bool[3] output_mask, int tile=-1) "
      "-> (Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(fastconv, Meta, m) {
  m.impl("depthwise_conv", TORCH_FN(forward));
  m.impl("_depthwise_conv_backward", TORCH_FN(backward));
}
TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  m.impl("depthwise_conv", TORCH_FN(forward));
  m.impl("_depthwise_conv_backward", TORCH_FN(backward));
}
TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("depthwise_conv", TORCH_FN(forward));
  m.impl("_depthwise_conv_backward", TORCH_FN(backward));
}
TORCH_LIBRARY_IMPL(fastconv, Autograd, m) {
  m.impl("depthwise_conv", TORCH_FN(forward_autograd));
  m.impl("_depthwise_conv_backward", TORCH_FN(backward_autograd));
}
TORCH_LIBRARY_IMPL(fastconv, FuncTorchBatched, m) {
  m.impl("depthwise_conv", TORCH_FN(decomposed));
  m.impl("_depthwise_conv_backward", TORCH_FN(decomposed_backward));
}
TORCH_LIBRARY_IMPL(fastconv, AutocastCPU, m) {
  m.impl("depthwise_conv",
         TORCH_FN((forward_autocast<c10::DispatchKey::AutocastCPU, c10::DeviceType::CPU>)));
}
TORCH_LIBRARY_IMPL(fastconv, AutocastCUDA, m) {
  m.impl("depthwise_conv",
         TORCH_FN((forward_autocast<c10::DispatchKey::AutocastCUDA, c10::DeviceType::CUDA>)));
}

}  // namespace fastconv::depthwise_conv
