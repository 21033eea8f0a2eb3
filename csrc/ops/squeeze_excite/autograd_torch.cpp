// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Squeeze and excitation: autograd, autocast, and what torch.func and forward-mode AD see.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <string>
#include <tuple>

#include "ops/squeeze_excite/shapes_torch.h"
#include "torch_utils.h"

namespace fastconv::squeeze_excite {
namespace {

using at::Tensor;
using c10::SymInt;
using c10::SymIntArrayRef;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Mask = std::array<bool, 2>;
using Pair = std::tuple<Tensor, Tensor>;

// ---- native operators, for transforms and for gradients of gradients ----

c10::SmallVector<int64_t, 3> space_of(const Tensor& t) {
  c10::SmallVector<int64_t, 3> dims;
  for (int64_t d = 2; d < t.dim(); ++d) dims.push_back(d);
  return dims;
}
Tensor widened(const Tensor& t) { return t.scalar_type() == at::kDouble ? t : t.to(at::kFloat); }

Tensor pool_decomposed(const Tensor& input) {
  check_input(kPool, input);
  return input.mean(space_of(input), /*keepdim=*/true);
}
Tensor pool_backward_decomposed(const Tensor& grad_output, SymIntArrayRef input_size, bool) {
  SymInt pixels = 1;
  for (size_t d = 2; d < input_size.size(); ++d) pixels *= input_size[d];
  return (grad_output / c10::Scalar(pixels)).expand_symint(input_size);
}
Tensor like_pooled(const Tensor& gate, const Tensor& input) {
  return gate.dim() == 2 ? gate.view_symint(pooled_sizes(input.sym_sizes())) : gate;
}
Tensor gate_decomposed(const Tensor& input, const Tensor& gate) {
  check_gate(kGate, input, gate);
  return (widened(input) * widened(like_pooled(gate, input)).sigmoid()).to(input.scalar_type());
}
// Of tensors that need no gradient: what the mask leaves out stays undefined.
Pair gate_backward_decomposed(const Tensor& grad_output, const Tensor& input, const Tensor& gate,
                              Mask mask) {
  check_gate(kGateBackward, input, gate);
  const auto type = input.scalar_type();
  const Tensor dy = widened(grad_output), s = widened(like_pooled(gate, input)).sigmoid();
  Tensor dx, dg;
  if (mask[0]) dx = (dy * s).to(type);
  if (mask[1]) {
    const Tensor sum = (dy * widened(input)).sum(space_of(input), /*keepdim=*/true);
    dg = (sum * s * (1 - s)).reshape_symint(gate.sym_sizes()).to(type);
  }
  return {dx, dg};
}

// ---- Autograd ----

template <class Schema>
auto find(const std::string& name) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(("fastconv::" + name).c_str(), "")
      .typed<Schema>();
}
Tensor call_pool(const Tensor& input) {
  static const auto op = find<Tensor(const Tensor&)>(kPool);
  return op.call(input);
}
Tensor call_pool_backward(const Tensor& grad, SymIntArrayRef input_size, bool channels_last) {
  static const auto op = find<Tensor(const Tensor&, SymIntArrayRef, bool)>(kPoolBackward);
  return op.call(grad, input_size, channels_last);
}
Tensor call_gate(const Tensor& input, const Tensor& gate) {
  static const auto op = find<Tensor(const Tensor&, const Tensor&)>(kGate);
  return op.call(input, gate);
}
Pair call_gate_backward(const Tensor& grad, const Tensor& input, const Tensor& gate, Mask mask) {
  static const auto op =
      find<Pair(const Tensor&, const Tensor&, const Tensor&, Mask)>(kGateBackward);
  return op.call(grad, input, gate, mask);
}

struct PoolNode : torch::autograd::Function<PoolNode> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    Tensor y = call_pool(input);  // first: it checks
    ctx->saved_data["size"] = input.sym_sizes();
    ctx->saved_data["channels_last"] = wants_channels_last(input);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {Tensor()};
    return {call_pool_backward(grads[0], ctx->saved_data["size"].toSymIntVector(),
                               ctx->saved_data["channels_last"].toBool())};
  }
};

// Linear: the gradient of an average's gradient is an average.
struct PoolBackwardNode : torch::autograd::Function<PoolBackwardNode> {
  static Tensor forward(AutogradContext*, const Tensor& grad, SymIntArrayRef input_size,
                        bool channels_last) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_pool_backward(grad, input_size, channels_last);
  }
  static variable_list backward(AutogradContext*, const variable_list& grads) {
    variable_list out(3);
    if (grads[0].defined()) out[0] = call_pool(grads[0]);
    return out;
  }
};

struct GateNode : torch::autograd::Function<GateNode> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& gate) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({input, gate});
    return call_gate(input, gate);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {Tensor(), Tensor()};
    const auto saved = ctx->get_saved_variables();
    const Mask mask{ctx->needs_input_grad(0), ctx->needs_input_grad(1)};
    auto [dx, dg] = call_gate_backward(grads[0], saved[0], saved[1], mask);
    return {dx, dg};
  }
};

Tensor pool_autograd(const Tensor& input) {
  if (needs_decomposition(input)) return pool_decomposed(input);
  if (needs_graph(input)) return PoolNode::apply(input);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_pool(input);
}
Tensor pool_backward_autograd(const Tensor& grad, SymIntArrayRef input_size, bool channels_last) {
  if (needs_decomposition(grad)) return pool_backward_decomposed(grad, input_size, channels_last);
  if (needs_graph(grad)) return PoolBackwardNode::apply(grad, input_size, channels_last);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_pool_backward(grad, input_size, channels_last);
}
Tensor gate_autograd(const Tensor& input, const Tensor& gate) {
  if (needs_decomposition({input, gate})) return gate_decomposed(input, gate);
  if (needs_graph({input, gate})) return GateNode::apply(input, gate);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_gate(input, gate);
}
// A gradient that is to be differentiated again is made of operators that have gradients.
Pair gate_backward_autograd(const Tensor& grad, const Tensor& input, const Tensor& gate,
                            Mask mask) {
  if (needs_decomposition({grad, input, gate}) || needs_graph({grad, input, gate})) {
    return gate_backward_decomposed(grad, input, gate, mask);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_gate_backward(grad, input, gate, mask);
}

// ---- Autocast: the wider type of the two, as for torch's multiplication ----

template <c10::DispatchKey key>
Tensor gate_autocast(const Tensor& input, const Tensor& gate) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto type = at::promote_types(input.scalar_type(), gate.scalar_type());
  return call_gate(input.to(type), gate.to(type));
}

}  // namespace

#define FASTCONV_REGISTER(m, suffix)                      \
  m.impl(kPool, TORCH_FN(pool##suffix));                  \
  m.impl(kPoolBackward, TORCH_FN(pool_backward##suffix)); \
  m.impl(kGate, TORCH_FN(gate##suffix));                  \
  m.impl(kGateBackward, TORCH_FN(gate_backward##suffix))

TORCH_LIBRARY_IMPL(fastconv, Autograd, m) { FASTCONV_REGISTER(m, _autograd); }
TORCH_LIBRARY_IMPL(fastconv, FuncTorchBatched, m) { FASTCONV_REGISTER(m, _decomposed); }
#undef FASTCONV_REGISTER

TORCH_LIBRARY_IMPL(fastconv, AutocastCPU, m) {
  m.impl(kGate, TORCH_FN(gate_autocast<c10::DispatchKey::AutocastCPU>));
}
TORCH_LIBRARY_IMPL(fastconv, AutocastCUDA, m) {
  m.impl(kGate, TORCH_FN(gate_autocast<c10::DispatchKey::AutocastCUDA>));
}

}  // namespace fastconv::squeeze_excite
