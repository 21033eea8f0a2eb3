// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Registers depthwise convolution with an activation in the same pass.
//
// Where gradients are recorded, relu and relu6 keep their result, which says what the slope is; for
// the others z must be known, and to keep it costs less than to compute it again: there, and under
// the transforms, convolution and activation are two operators (docs/adr/0016-fused-activation.md).
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <array>
#include <string_view>

#include "activations_torch.h"
#include "ops/depthwise_conv/autograd_torch.h"
#include "ops/depthwise_conv/calls_torch.h"
#include "ops/depthwise_conv/geometry_torch.h"
#include "ops/depthwise_conv/kernels_torch.h"
#include "torch_utils.h"

// Of its own: the build compiles this file together with the room's others.
namespace fastconv::depthwise_conv::activation_op {
namespace {

using at::Tensor;
using c10::SymIntArrayRef;
using Name = std::string_view;

Tensor call_pointwise(const Tensor& z, Name activation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::_activation", "")
                             .typed<decltype(call_pointwise)>();
  return op.call(z, activation);
}

Activation parse_activation(Name name) {
  const Activation activation = activation_named(name);
  TORCH_CHECK_VALUE(activation != Activation::kNone, "depthwise_conv_act: unknown activation '",
                    name, "', should be one of ", kActivationNames);
  return activation;
}

// Whether y says what the slope is.
constexpr bool result_tells_slope(Activation activation) {
  return activation == Activation::kRelu || activation == Activation::kRelu6;
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

// ---- two operators ----

Tensor forward_in_two(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                      SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                      Name activation, int64_t tile) {
  return native_activation(parse_activation(activation),
                           call_conv(input, weight, bias, stride, padding, dilation, tile));
}

// ---- Autograd ----

// For relu and relu6.
struct Node : torch::autograd::Function<Node> {
  using Lists = std::array<SymIntArrayRef, 3>;  // stride, padding, dilation

  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& input,
                        const Tensor& weight, const OptionalTensor& bias, const Lists& a,
                        std::string activation, int64_t tile) {
    at::AutoDispatchBelowADInplaceOrView guard;
    Tensor output = call_conv_act(input, weight, bias, a[0], a[1], a[2], activation, tile);
    ctx->save_for_backward({input, weight, output});
    ctx->saved_data["has_bias"] = bias.has_value() && bias->defined();
    ctx->saved_data["activation"] = std::move(activation);
    Saved<3>::save(ctx, a, tile);
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    torch::autograd::variable_list result(6);
    if (!grads[0].defined()) return result;
    const auto saved = ctx->get_saved_variables();
    const Tensor &input = saved[0], &weight = saved[1], &output = saved[2];
    const Saved<3> a(ctx);
    const auto& [stride, padding, dilation] = a.lists;
    const Activation activation = parse_activation(ctx->saved_data["activation"].toStringRef());
    const Tensor g = native_gradient(activation, grads[0], output);
    // A missing bias is no variable: asking whether it needs a gradient would raise.
    const bool bias_grad = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2);
    const Mask mask{ctx->needs_input_grad(0), ctx->needs_input_grad(1), bias_grad};
    std::tie(result[0], result[1], result[2]) =
        call_conv_backward(g, input, weight, stride, padding, dilation, mask, a.tile);
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
      if (!input.is_cpu()) {
        return forward_in_two(input, weight, bias, stride, padding, dilation, activation, tile);
      }
      return call_pointwise(call_conv(input, weight, bias, stride, padding, dilation, tile),
                            activation);
    }
    return Node::apply(input, weight, bias, Node::Lists{stride, padding, dilation},
                       std::string(activation), tile);
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_conv_act(input, weight, bias, stride, padding, dilation, activation, tile);
}

// ---- Autocast: the lower precision type, as for torch's convolutions ----

template <c10::DispatchKey key, c10::DeviceType device>
Tensor forward_autocast(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                        Name activation, int64_t tile) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto to = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const auto& t) { return at::autocast::cached_cast(to, t, device); };
  return call_conv_act(cast(input), cast(weight), cast(bias), stride, padding, dilation, activation,
                       tile);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastconv, m) {
  m.def(
      "depthwise_conv_act(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, str activation, int tile=-1) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(fastconv, Meta, m) { m.impl("depthwise_conv_act", TORCH_FN(forward)); }
TORCH_LIBRARY_IMPL(fastconv, CPU, m) { m.impl("depthwise_conv_act", TORCH_FN(forward)); }
TORCH_LIBRARY_IMPL(fastconv, CUDA, m) { m.impl("depthwise_conv_act", TORCH_FN(forward)); }
TORCH_LIBRARY_IMPL(fastconv, Autograd, m) {
  m.impl("depthwise_conv_act", TORCH_FN(forward_autograd));
}
TORCH_LIBRARY_IMPL(fastconv, FuncTorchBatched, m) {
  m.impl("depthwise_conv_act", TORCH_FN(forward_in_two));
}
TORCH_LIBRARY_IMPL(fastconv, AutocastCPU, m) {
  m.impl("depthwise_conv_act",
         TORCH_FN((forward_autocast<c10::DispatchKey::AutocastCPU, c10::DeviceType::CPU>)));
}
TORCH_LIBRARY_IMPL(fastconv, AutocastCUDA, m) {
  m.impl("depthwise_conv_act",
         TORCH_FN((forward_autocast<c10::DispatchKey::AutocastCUDA, c10::DeviceType::CUDA>)));
}

}  // namespace fastconv::depthwise_conv::activation_op
