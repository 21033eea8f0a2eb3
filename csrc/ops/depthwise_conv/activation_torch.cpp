// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Registers depthwise convolution with an activation in the same pass.
//
// Where gradients are recorded, relu and relu6 keep their result, which says what the slope is; for
// the others z must be known, and to keep it costs less than to compute it again: there, and under
// the transforms, the convolution and torch's activation are two operators
// (docs/adr/0016-fused-activation.md).
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <array>
#include <string_view>

#include "ops/depthwise_conv/activations_torch.h"
#include "ops/depthwise_conv/autograd_torch.h"
#include "ops/depthwise_conv/geometry_torch.h"
#include "ops/depthwise_conv/kernels_torch.h"
#include "torch_utils.h"

namespace fastconv::depthwise_conv {
namespace {

using at::Tensor;
using c10::SymIntArrayRef;
using Name = std::string_view;

Tensor call_convolution(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                        int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::depthwise_conv", "")
                             .typed<decltype(call_convolution)>();
  return op.call(input, weight, bias, stride, padding, dilation, tile);
}

Gradients call_convolution_backward(const Tensor& grad_output, const Tensor& input,
                                    const Tensor& weight, SymIntArrayRef stride,
                                    SymIntArrayRef padding, SymIntArrayRef dilation, Mask mask,
                                    int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::_depthwise_conv_backward", "")
                             .typed<decltype(call_convolution_backward)>();
  return op.call(grad_output, input, weight, stride, padding, dilation, mask, tile);
}

Tensor call_forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                    SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                    Name activation, int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::depthwise_conv_act", "")
                             .typed<decltype(call_forward)>();
  return op.call(input, weight, bias, stride, padding, dilation, activation, tile);
}

Tensor call_gradient(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                     const OptionalTensor& bias, SymIntArrayRef stride, SymIntArrayRef padding,
                     SymIntArrayRef dilation, Name activation, int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::_depthwise_conv_act_gradient", "")
                             .typed<decltype(call_gradient)>();
  return op.call(grad_output, input, weight, bias, stride, padding, dilation, activation, tile);
}

// ---- kernels: Meta, CPU, CUDA ----

Tensor forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
               SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
               Name activation, int64_t tile) {
  if (is_unbatched(input, stride)) {
    return forward(input.unsqueeze(0), weight, bias, stride, padding, dilation, activation, tile)
        .squeeze(0);
  }
  const Activation kind = parse_activation(activation);
  const Geometry g = infer(input, weight, bias, stride, padding, dilation);
  Tensor output = empty_activation(input, g.out_sizes(), g.channels_last);
  if (input.is_meta() || output.numel() == 0) return output;
  run_forward(make_problem(g, input.scalar_type()), g.nd, in_layout(input, g.channels_last), weight,
              bias, output, tile, kind);
  return output;
}

// `t` with the strides of `like`, copied if it has others.
Tensor with_strides_of(const Tensor& like, const Tensor& t) {
  bool same = true;
  for (int64_t d = 0; d < t.dim(); ++d) {
    same = same && (t.size(d) == 1 || t.stride(d) == like.stride(d));
  }
  return same ? t : at::empty_strided(like.sizes(), like.strides(), like.options()).copy_(t);
}

Tensor gradient(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                const OptionalTensor& bias, SymIntArrayRef stride, SymIntArrayRef padding,
                SymIntArrayRef dilation, Name activation, int64_t tile) {
  if (is_unbatched(input, stride)) {
    return gradient(grad_output.unsqueeze(0), input.unsqueeze(0), weight, bias, stride, padding,
                    dilation, activation, tile)
        .squeeze(0);
  }
  const Activation kind = parse_activation(activation);
  const Geometry g = infer(input, weight, bias, stride, padding, dilation);
  check_grad_output("_depthwise_conv_act_gradient", grad_output, input, g.out_sizes());
  Tensor output = empty_activation(input, g.out_sizes(), g.channels_last);
  if (input.is_meta() || output.numel() == 0) return output;
  const auto run = [&](Activation activation, const Tensor& dy) {
    run_forward(make_problem(g, input.scalar_type()), g.nd, in_layout(input, g.channels_last),
                weight, bias, output, tile, activation, dy);
  };
  if (input.is_cpu()) {
    run(kind, with_strides_of(output, grad_output));
    return output;
  }
  run(Activation::kNone, Tensor());
  return native_gradient(kind, with_strides_of(output, grad_output), output);
}

// ---- two operators ----

Tensor forward_in_two(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                      SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                      Name activation, int64_t tile) {
  return native_activation(parse_activation(activation),
                           call_convolution(input, weight, bias, stride, padding, dilation, tile));
}

Tensor gradient_in_two(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                       const OptionalTensor& bias, SymIntArrayRef stride, SymIntArrayRef padding,
                       SymIntArrayRef dilation, Name activation, int64_t tile) {
  const Tensor z = call_convolution(input, weight, bias, stride, padding, dilation, tile);
  return native_gradient(parse_activation(activation), grad_output, z);
}

// ---- Autograd ----

struct Node : torch::autograd::Function<Node> {
  using Lists = std::array<SymIntArrayRef, 3>;  // stride, padding, dilation

  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& input,
                        const Tensor& weight, const OptionalTensor& bias, const Lists& a,
                        std::string activation, int64_t tile) {
    at::AutoDispatchBelowADInplaceOrView guard;
    Tensor output = call_forward(input, weight, bias, a[0], a[1], a[2], activation, tile);
    const bool has_bias = bias.has_value() && bias->defined();
    const bool keep_output = result_tells_slope(parse_activation(activation));
    ctx->save_for_backward({input, weight, keep_output ? output : has_bias ? *bias : Tensor()});
    ctx->saved_data["has_bias"] = has_bias;
    ctx->saved_data["activation"] = std::move(activation);
    Saved<3>::save(ctx, a, tile);
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    torch::autograd::variable_list result(6);
    if (!grads[0].defined()) return result;
    const auto saved = ctx->get_saved_variables();
    const Tensor &input = saved[0], &weight = saved[1], &third = saved[2];
    const Saved<3> a(ctx);
    const auto& [stride, padding, dilation] = a.lists;
    const std::string& name = ctx->saved_data["activation"].toStringRef();
    const Activation activation = parse_activation(name);
    Tensor g;
    if (result_tells_slope(activation)) {
      g = native_gradient(activation, grads[0], third);
    } else {
      const OptionalTensor bias = third.defined() ? OptionalTensor(third) : std::nullopt;
      g = call_gradient(grads[0], input, weight, bias, stride, padding, dilation, name, a.tile);
    }
    // A missing bias is no variable: asking whether it needs a gradient would raise.
    const bool bias_grad = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2);
    const Mask mask{ctx->needs_input_grad(0), ctx->needs_input_grad(1), bias_grad};
    std::tie(result[0], result[1], result[2]) =
        call_convolution_backward(g, input, weight, stride, padding, dilation, mask, a.tile);
    return result;
  }
};

Tensor forward_autograd(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                        Name activation, int64_t tile) {
  const Tensor b = bias.value_or(Tensor());
  if (needs_decomposition({input, weight, b})) {
    return forward_in_two(input, weight, bias, stride, padding, dilation, activation, tile);
  }
  if (needs_graph({input, weight, b})) {
    // To save z costs less than to compute it again, where tensors fit into a cache.
    if (!result_tells_slope(parse_activation(activation))) {
      return forward_in_two(input, weight, bias, stride, padding, dilation, activation, tile);
    }
    return Node::apply(input, weight, bias, Node::Lists{stride, padding, dilation},
                       std::string(activation), tile);
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_forward(input, weight, bias, stride, padding, dilation, activation, tile);
}

Tensor gradient_autograd(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                         const OptionalTensor& bias, SymIntArrayRef stride, SymIntArrayRef padding,
                         SymIntArrayRef dilation, Name activation, int64_t tile) {
  const Tensor b = bias.value_or(Tensor());
  if (needs_decomposition({grad_output, input, weight, b}) ||
      needs_graph({grad_output, input, weight, b})) {
    return gradient_in_two(grad_output, input, weight, bias, stride, padding, dilation, activation,
                           tile);
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_gradient(grad_output, input, weight, bias, stride, padding, dilation, activation,
                       tile);
}

// ---- Autocast: the lower precision type, as for torch's convolutions ----

template <c10::DispatchKey key, c10::DeviceType device>
Tensor forward_autocast(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                        Name activation, int64_t tile) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto to = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const auto& t) { return at::autocast::cached_cast(to, t, device); };
  return call_forward(cast(input), cast(weight), cast(bias), stride, padding, dilation, activation,
                      tile);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastconv, m) {
  m.def(
      "depthwise_conv_act(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, str activation, int tile=-1) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "_depthwise_conv_act_gradient(Tensor grad_output, Tensor input, Tensor weight, Tensor? bias, "
      "SymInt[] stride, SymInt[] padding, SymInt[] dilation, str activation, int tile=-1) "
      "-> Tensor",
      {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(fastconv, Meta, m) {
  m.impl("depthwise_conv_act", TORCH_FN(forward));
  m.impl("_depthwise_conv_act_gradient", TORCH_FN(gradient));
}
TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  m.impl("depthwise_conv_act", TORCH_FN(forward));
  m.impl("_depthwise_conv_act_gradient", TORCH_FN(gradient));
}
TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("depthwise_conv_act", TORCH_FN(forward));
  m.impl("_depthwise_conv_act_gradient", TORCH_FN(gradient));
}
TORCH_LIBRARY_IMPL(fastconv, Autograd, m) {
  m.impl("depthwise_conv_act", TORCH_FN(forward_autograd));
  m.impl("_depthwise_conv_act_gradient", TORCH_FN(gradient_autograd));
}
TORCH_LIBRARY_IMPL(fastconv, FuncTorchBatched, m) {
  m.impl("depthwise_conv_act", TORCH_FN(forward_in_two));
  m.impl("_depthwise_conv_act_gradient", TORCH_FN(gradient_in_two));
}
TORCH_LIBRARY_IMPL(fastconv, AutocastCPU, m) {
  m.impl("depthwise_conv_act",
         TORCH_FN((forward_autocast<c10::DispatchKey::AutocastCPU, c10::DeviceType::CPU>)));
}
TORCH_LIBRARY_IMPL(fastconv, AutocastCUDA, m) {
  m.impl("depthwise_conv_act",
         TORCH_FN((forward_autocast<c10::DispatchKey::AutocastCUDA, c10::DeviceType::CUDA>)));
}

}  // namespace fastconv::depthwise_conv
