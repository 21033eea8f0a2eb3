// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The autograd nodes of a depthwise convolution, transposed or not.  An Operator has
//   kLists                                                    how many lists of ints it takes
//   forward(input, weight, bias, lists, tile)                 calls through the dispatcher
//   backward(grad_output, input, weight, lists, mask, tile)
#pragma once

#include <ATen/ATen.h>
#include <c10/core/SymIntArrayRef.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "torch_utils.h"

namespace fastconv::depthwise_conv {

using OptionalTensor = std::optional<at::Tensor>;
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Mask = std::array<bool, 3>;  // which of input, weight and bias want a gradient

template <size_t N>
struct Saved {
  static constexpr const char* kNames[] = {"list0", "list1", "list2", "list3"};
  std::array<std::vector<c10::SymInt>, N> values;
  std::array<c10::SymIntArrayRef, N> lists;
  int64_t tile;

  static void save(torch::autograd::AutogradContext* ctx,
                   const std::array<c10::SymIntArrayRef, N>& lists, int64_t tile) {
    for (size_t i = 0; i < N; ++i) ctx->saved_data[kNames[i]] = lists[i];
    ctx->saved_data["tile"] = tile;
  }
  explicit Saved(torch::autograd::AutogradContext* ctx) : tile(ctx->saved_data["tile"].toInt()) {
    for (size_t i = 0; i < N; ++i) {
      values[i] = ctx->saved_data[kNames[i]].toSymIntVector();
      lists[i] = values[i];
    }
  }
  Saved(const Saved&) = delete;
};

template <class Operator>
struct ForwardNode : torch::autograd::Function<ForwardNode<Operator>> {
  using Lists = std::array<c10::SymIntArrayRef, Operator::kLists>;

  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& input,
                            const at::Tensor& weight, const OptionalTensor& bias,
                            const Lists& lists, int64_t tile) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({input, weight});
    ctx->saved_data["has_bias"] = bias.has_value() && bias->defined();
    Saved<Operator::kLists>::save(ctx, lists, tile);
    return Operator::forward(input, weight, bias, lists, tile);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    torch::autograd::variable_list result(5);
    if (!grads[0].defined()) return result;
    const auto saved = ctx->get_saved_variables();
    const Saved<Operator::kLists> a(ctx);
    // A missing bias is no variable: asking whether it needs a gradient would raise.
    const bool bias_grad = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2);
    const Mask mask{ctx->needs_input_grad(0), ctx->needs_input_grad(1), bias_grad};
    std::tie(result[0], result[1], result[2]) =
        Operator::backward(grads[0], saved[0], saved[1], a.lists, mask, a.tile);
    return result;
  }
};

// The backward is linear in each of grad_output, input and weight, so its own gradients are again
// a forward, a backward-data and a backward-weight, with one operand replaced.  The node returns
// the gradients that the mask asks for, and no others: an undefined tensor cannot be an output.
template <class Operator>
struct BackwardNode : torch::autograd::Function<BackwardNode<Operator>> {
  using Lists = std::array<c10::SymIntArrayRef, Operator::kLists>;

  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const at::Tensor& grad_output,
                                                const at::Tensor& input, const at::Tensor& weight,
                                                const Lists& lists, Mask mask, int64_t tile) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({grad_output, input, weight});
    Saved<Operator::kLists>::save(ctx, lists, tile);
    ctx->saved_data["mask"] = std::vector<bool>(mask.begin(), mask.end());
    auto [dx, dw, db] = Operator::backward(grad_output, input, weight, lists, mask, tile);
    torch::autograd::variable_list outputs;
    for (const at::Tensor& t : {dx, dw, db}) {
      if (t.defined()) outputs.push_back(t);
    }
    return outputs;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &dy = saved[0], &x = saved[1], &w = saved[2];
    const auto [ddx, ddw, ddb] = unpack(ctx->saved_data["mask"].toBoolList(), grads);
    const Saved<Operator::kLists> a(ctx);
    at::Tensor grad_dy, grad_x, grad_w;
    if (ctx->needs_input_grad(0)) {
      if (ddx.defined()) grad_dy = Operator::forward(ddx, w, std::nullopt, a.lists, a.tile);
      if (ddw.defined()) {
        const at::Tensor y = Operator::forward(x, ddw, std::nullopt, a.lists, a.tile);
        grad_dy = grad_dy.defined() ? grad_dy + y : y;
      }
      if (ddb.defined()) {
        std::vector<c10::SymInt> sizes(dy.dim(), 1);
        sizes[dy.dim() - w.dim() + 1] = ddb.sym_size(0);
        const at::Tensor y = ddb.view_symint(sizes).expand_symint(dy.sym_sizes());
        grad_dy = grad_dy.defined() ? grad_dy + y : y;
      }
    }
    if (ctx->needs_input_grad(1) && ddw.defined()) {
      grad_x =
          std::get<0>(Operator::backward(dy, x, ddw, a.lists, Mask{true, false, false}, a.tile));
    }
    if (ctx->needs_input_grad(2) && ddx.defined()) {
      grad_w =
          std::get<1>(Operator::backward(dy, ddx, w, a.lists, Mask{false, true, false}, a.tile));
    }
    torch::autograd::variable_list result(6);
    result[0] = grad_dy;
    result[1] = grad_x;
    result[2] = grad_w;
    return result;
  }

  // The node's outputs, or their gradients, back in their places.
  template <class Which>
  static Gradients unpack(const Which& mask, const torch::autograd::variable_list& outputs) {
    std::array<at::Tensor, 3> all;
    size_t next = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      if (mask[i]) all[i] = outputs[next++];
    }
    return {all[0], all[1], all[2]};
  }
};

// What an Autograd kernel does once it is clear that no transform is active.
template <class Operator>
at::Tensor record_forward(const at::Tensor& input, const at::Tensor& weight,
                          const OptionalTensor& bias,
                          const std::array<c10::SymIntArrayRef, Operator::kLists>& lists,
                          int64_t tile) {
  if (!needs_graph({input, weight, bias.value_or(at::Tensor())})) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return Operator::forward(input, weight, bias, lists, tile);
  }
  return ForwardNode<Operator>::apply(input, weight, bias, lists, tile);
}

template <class Operator>
Gradients record_backward(const at::Tensor& grad_output, const at::Tensor& input,
                          const at::Tensor& weight,
                          const std::array<c10::SymIntArrayRef, Operator::kLists>& lists, Mask mask,
                          int64_t tile) {
  if (!needs_graph({grad_output, input, weight})) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return Operator::backward(grad_output, input, weight, lists, mask, tile);
  }
  using Node = BackwardNode<Operator>;
  return Node::unpack(mask, Node::apply(grad_output, input, weight, lists, mask, tile));
}

}  // namespace fastconv::depthwise_conv
