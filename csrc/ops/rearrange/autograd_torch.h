// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The rearrangements as calls through the dispatcher, and their autograd node.
//
// A rearrangement is undone by another one, which is its gradient and needs nothing but a few
// numbers.  torch::autograd::Function would keep those in a hash table and the shapes of inputs and
// outputs besides: for a small tensor that takes longer than the call itself.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace fastconv::rearrange {

template <bool kToDepth>
at::Tensor call_block(const at::Tensor& input, c10::SymIntArrayRef block, std::string_view order,
                      int64_t tile) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow(kToDepth ? "fastconv::space_to_depth" : "fastconv::depth_to_space", "")
          .typed<at::Tensor(const at::Tensor&, c10::SymIntArrayRef, std::string_view, int64_t)>();
  return op.call(input, block, order, tile);
}

inline at::Tensor call_shuffle(const at::Tensor& input, const c10::SymInt& groups, int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::channel_shuffle", "")
                             .typed<at::Tensor(const at::Tensor&, c10::SymInt, int64_t)>();
  return op.call(input, groups, tile);
}

// What a node keeps: the inverse's block sizes and order, or its number of groups.
using Numbers = c10::SmallVector<c10::SymInt, 3>;

template <bool kToDepth>
struct BlockInverse {
  static constexpr const char* kNodeName =
      kToDepth ? "fastconv::SpaceToDepthBackward" : "fastconv::DepthToSpaceBackward";
  static at::Tensor apply(const at::Tensor& grad, c10::SymIntArrayRef numbers,
                          std::string_view order) {
    return call_block<!kToDepth>(grad, numbers, order, /*tile=*/-1);
  }
};

struct ShuffleInverse {
  static constexpr const char* kNodeName = "fastconv::ChannelShuffleBackward";
  static at::Tensor apply(const at::Tensor& grad, c10::SymIntArrayRef numbers,
                          std::string_view /*order*/) {
    return call_shuffle(grad, numbers[0], /*tile=*/-1);
  }
};

template <class Inverse>
class InverseNode : public torch::autograd::TraceableFunction {
  using List = torch::autograd::variable_list;

 public:
  InverseNode(Numbers numbers, std::string_view order)
      : numbers_(std::move(numbers)), order_(order) {}

  std::string name() const override { return Inverse::kNodeName; }

  List apply(List&& grads) override {
    if (!grads[0].defined() || !task_should_compute_output(0)) return {at::Tensor()};
    return {Inverse::apply(grads[0], numbers_, order_)};
  }

  // Compiled autograd: what identifies the node, and apply() as a function of what it keeps.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(c10::ArrayRef<c10::SymInt>(numbers_));
    args.collect(order_);
  }

  List apply_with_saved(const List& grads,
                        torch::dynamo::autograd::SwapSavedVariables& saved) override {
    namespace compiled = torch::dynamo::autograd;
    saved.before(numbers_);
    compiled::PackedArgs packed;
    packed.pack(std::vector<c10::SymInt>(numbers_.begin(), numbers_.end()));
    packed.pack(order_);
    const std::vector<at::TypePtr> schema = {
        compiled::IValuePacker<std::vector<c10::SymInt>>::packed_type(),
        compiled::IValuePacker<std::string>::packed_type()};
    const auto& python = compiled::getPyCompilerInterface();
    const auto function =
        python->bind_function(saved.get_py_compiler(), name(), apply_packed, schema);
    List out = python->call_function(
        saved.get_py_compiler(), "apply_functional", function, grads, packed.vec(),
        compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            compiled::get_input_metadata(next_edges())));
    saved.after(numbers_);
    return out;
  }

 private:
  static List apply_packed(const List& grads, const std::vector<at::IValue>& values) {
    if (!grads[0].defined()) return {at::Tensor()};
    torch::dynamo::autograd::PackedArgs packed(values);
    const auto numbers = packed.unpack<std::vector<c10::SymInt>>();
    const auto order = packed.unpack<std::string>();
    return {Inverse::apply(grads[0], numbers, order)};
  }

  Numbers numbers_;
  const std::string order_;
};

// `output`, which `input` was rearranged to, with the node that leads back.
template <class Inverse>
at::Tensor with_node(const at::Tensor& input, at::Tensor output, Numbers numbers,
                     std::string_view order) {
  using Owner = decltype(std::declval<torch::autograd::Node&>().getptr());
  Owner node;
  if constexpr (std::is_constructible_v<Owner, std::shared_ptr<InverseNode<Inverse>>>) {
    node = std::make_shared<InverseNode<Inverse>>(std::move(numbers), order);  // torch <= 2.12
  } else {
    node = c10::make_intrusive<InverseNode<Inverse>>(std::move(numbers), order);
  }
  node->set_next_edges(torch::autograd::collect_next_edges(input));
  torch::autograd::set_history(output, node);
  return output;
}

}  // namespace fastconv::rearrange
