// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Registers an activation and its gradient as operators of their own, for convolutions whose sums
// must be kept.  Torch's are not used on the CPU: the bits of some depend on the number of threads.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <string_view>

#include "activations_torch.h"
#include "ops/depthwise_conv/cpu.h"
#include "torch_utils.h"

// Of its own: the build compiles this file together with the room's others.
namespace fastconv::depthwise_conv::pointwise_op {
namespace {

using at::Tensor;
using Name = std::string_view;

Activation parse(Name name) {
  const Activation activation = activation_named(name);
  TORCH_CHECK_VALUE(activation != Activation::kNone, "_activation: unknown activation '", name,
                    "', should be one of ", kActivationNames);
  return activation;
}

void check(const Tensor& z, const std::optional<Tensor>& grad_output) {
  TORCH_CHECK_NOT_IMPLEMENTED(is_arithmetic_dtype(z.scalar_type()),
                              "\"_activation\" not implemented for '", z.scalar_type(), "'");
  if (!grad_output) return;
  TORCH_CHECK(
      grad_output->scalar_type() == z.scalar_type() && grad_output->sym_sizes() == z.sym_sizes(),
      "_activation_gradient: expected grad_output of size ", z.sym_sizes(), " and dtype ",
      z.scalar_type(), ", but got ", grad_output->sym_sizes(), " and ", grad_output->scalar_type());
}

// ---- kernels ----

// `t` with the strides of `like`, copied if it has others.
Tensor with_strides_of(const Tensor& like, const Tensor& t) {
  bool same = true;
  for (int64_t d = 0; d < t.dim(); ++d) {
    same = same && (t.size(d) <= 1 || t.stride(d) == like.stride(d));
  }
  return same ? t : at::empty_strided(like.sizes(), like.strides(), like.options()).copy_(t);
}

Tensor run(const Tensor& z, const std::optional<Tensor>& grad_output, Name activation) {
  static constexpr auto kRun = FASTCONV_EVERY_ISA_TABLE(pointwise_run);
  Pointwise p{};
  p.activation = parse(activation);
  check(z, grad_output);
  const Tensor y = at::empty_like(z);  // dense, whatever z is
  if (z.is_meta() || z.numel() == 0) return y;
  const Tensor source = with_strides_of(y, z);
  const Tensor gradient = grad_output ? with_strides_of(y, *grad_output) : Tensor();
  p.dtype = to_dtype(z.scalar_type());
  p.elements = z.numel();
  p.z = source.const_data_ptr();
  p.gradient = grad_output ? gradient.const_data_ptr() : nullptr;
  p.y = y.mutable_data_ptr();
  // A vector of the widest level takes some 5 ns.
  parallel_tasks(p.tasks(), Pointwise::kChunk / 4,
                 [&](int64_t begin, int64_t end) { kRun.get()(p, begin, end); });
  return y;
}
Tensor forward(const Tensor& z, Name activation) { return run(z, std::nullopt, activation); }
Tensor gradient(const Tensor& grad_output, const Tensor& z, Name activation) {
  return run(z, grad_output, activation);
}

// ---- native operators, which torch knows how to transform ----

Tensor native_forward(const Tensor& z, Name activation) {
  return native_activation(parse(activation), z);
}
Tensor native_slope(const Tensor& grad_output, const Tensor& z, Name activation) {
  return native_gradient(parse(activation), grad_output, z);
}

// ---- Autograd ----

Tensor call_forward(const Tensor& z, Name activation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::_activation", "")
                             .typed<decltype(call_forward)>();
  return op.call(z, activation);
}
Tensor call_gradient(const Tensor& grad_output, const Tensor& z, Name activation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::_activation_gradient", "")
                             .typed<decltype(call_gradient)>();
  return op.call(grad_output, z, activation);
}

struct Node : torch::autograd::Function<Node> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& z,
                        std::string activation) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({z});
    Tensor y = call_forward(z, activation);
    ctx->saved_data["activation"] = std::move(activation);
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    if (!grads[0].defined()) return {Tensor(), Tensor()};
    const auto saved = ctx->get_saved_variables();
    const std::string& activation = ctx->saved_data["activation"].toStringRef();
    return {call_gradient(grads[0], saved[0], activation), Tensor()};
  }
};

Tensor forward_autograd(const Tensor& z, Name activation) {
  if (needs_decomposition({z})) return native_forward(z, activation);
  if (needs_graph({z})) return Node::apply(z, std::string(activation));
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_forward(z, activation);
}
Tensor gradient_autograd(const Tensor& grad_output, const Tensor& z, Name activation) {
  if (needs_decomposition({grad_output, z}) || needs_graph({grad_output, z})) {
    return native_slope(grad_output, z, activation);
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_gradient(grad_output, z, activation);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastconv, m) {
  m.def("_activation(Tensor z, str activation) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("_activation_gradient(Tensor grad_output, Tensor z, str activation) -> Tensor",
        {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(fastconv, Meta, m) {
  m.impl("_activation", TORCH_FN(forward));
  m.impl("_activation_gradient", TORCH_FN(gradient));
}
TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  m.impl("_activation", TORCH_FN(forward));
  m.impl("_activation_gradient", TORCH_FN(gradient));
}
TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("_activation", TORCH_FN(native_forward));
  m.impl("_activation_gradient", TORCH_FN(native_slope));
}
TORCH_LIBRARY_IMPL(fastconv, Autograd, m) {
  m.impl("_activation", TORCH_FN(forward_autograd));
  m.impl("_activation_gradient", TORCH_FN(gradient_autograd));
}
TORCH_LIBRARY_IMPL(fastconv, FuncTorchBatched, m) {
  m.impl("_activation", TORCH_FN(native_forward));
  m.impl("_activation_gradient", TORCH_FN(native_slope));
}

}  // namespace fastconv::depthwise_conv::pointwise_op
