// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// space_to_depth, depth_to_space and channel_shuffle as PyTorch operators: shapes_torch.h checks
// and describes, this file connects to the dispatcher.
#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "ops/rearrange/autograd_torch.h"
#include "ops/rearrange/plan.h"
#include "ops/rearrange/shapes_torch.h"
#include "torch_utils.h"

#if defined(FASTCONV_WITH_CUDA)
#include "ops/rearrange/rearrange_cuda.h"
#endif

namespace fastconv::rearrange {
namespace {

using at::Tensor;
using c10::SymInt;
using c10::SymIntArrayRef;

// ---- kernels ----

void run_cpu(const Copy& copy) {
  static constexpr auto kRun = FASTCONV_ISA_TABLE(run);
  const Plan plan = make_plan(copy);
  const auto run_tasks = kRun.get();
  constexpr int64_t kWorthTwoPasses = 4096;  // bytes
  TwoPass passes;
  if (plan.kernel == Kernel::kScalar && plan.tasks * plan.task_bytes >= kWorthTwoPasses &&
      make_two_pass(copy, passes)) {
    parallel_tasks(passes.tasks, passes.task_bytes / 4, [&](int64_t begin, int64_t end) {
      auto* scratch = static_cast<char*>(thread_scratch(passes.scratch_bytes));
      run_two_pass(passes, run_tasks, scratch, begin, end);
    });
    return;
  }
  parallel_tasks(plan.tasks, plan.task_bytes / 8,
                 [&](int64_t begin, int64_t end) { run_tasks(plan, begin, end); });
}

// Fills `output` with the copy that `describe(input, output, copy)` sets up.
template <class Describe>
Tensor run(const Tensor& input, at::IntArrayRef sizes, at::MemoryFormat format, int64_t tile,
           const Describe& describe) {
  const bool cpu = input.is_cpu();
  Tensor output = cpu ? Tensor(at::detail::empty_cpu(sizes, input.scalar_type(), false, format))
                      : at::empty(sizes, input.options().memory_format(format));
  if (output.numel() == 0) return output;
  Copy copy;
  copy.element = static_cast<int64_t>(input.element_size());
  Tensor source = input;
  if (!describe(source, output, copy)) {
    source = input.contiguous();  // more batch axes that do not merge than a Copy can hold
    TORCH_INTERNAL_ASSERT(describe(source, output, copy));
  }
  copy.in = source.const_data_ptr();
  copy.out = output.mutable_data_ptr();
  if (cpu) {
    run_cpu(copy);
  } else {
    launch_cuda(input,
                [&](auto stream) { return copy_cuda(copy, static_cast<int>(tile), stream); });
  }
  return output;
}

template <bool kToDepth>
Tensor block_op(const Tensor& input, at::IntArrayRef block, std::string_view order_name,
                int64_t tile) {
  const Order order = parse_order<kToDepth>(order_name);
  const auto sizes = block_sizes<kToDepth>(input.sizes(), block);
  return run(input, sizes, block_format(input, block.size()), tile,
             [&](const Tensor& from, const Tensor& to, Copy& copy) {
               return describe_block<kToDepth>(from, to, block, order, copy);
             });
}

Tensor channel_shuffle(const Tensor& input, int64_t groups, int64_t tile) {
  check_shuffle(input.sizes(), groups);
  return run(input, input.sizes(), input.suggest_memory_format(), tile,
             [&](const Tensor& from, const Tensor& to, Copy& copy) {
               return describe_shuffle(from, to, groups, copy);
             });
}

// ---- shapes alone ----

template <bool kToDepth>
Tensor block_meta(const Tensor& input, SymIntArrayRef block, std::string_view order,
                  int64_t /*tile*/) {
  parse_order<kToDepth>(order);
  const auto sizes = block_sizes<kToDepth>(input.sym_sizes(), block);
  return at::empty_symint(sizes, input.options().memory_format(block_format(input, block.size())));
}

Tensor channel_shuffle_meta(const Tensor& input, SymInt groups, int64_t /*tile*/) {
  check_shuffle(input.sym_sizes(), groups);
  return at::empty_symint(input.sym_sizes(),
                          input.options().memory_format(input.suggest_memory_format()));
}

// ---- native ops, for the transforms that see through them ----

template <bool kToDepth>
Tensor block_decomposed(const Tensor& input, SymIntArrayRef block, std::string_view order_name,
                        int64_t /*tile*/) {
  const Order order = parse_order<kToDepth>(order_name);
  const auto sizes = block_sizes<kToDepth>(input.sym_sizes(), block);
  return native_block<kToDepth>(input, block, order, sizes);
}

Tensor channel_shuffle_decomposed(const Tensor& input, SymInt groups, int64_t /*tile*/) {
  check_shuffle(input.sym_sizes(), groups);
  return native_shuffle(input, groups);
}

// ---- autograd: each op is the other's backward ----

template <bool kToDepth>
Tensor block_autograd(const Tensor& input, SymIntArrayRef block, std::string_view order,
                      int64_t tile) {
  if (needs_decomposition(input)) return block_decomposed<kToDepth>(input, block, order, tile);
  Tensor output;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    output = call_block<kToDepth>(input, block, order, tile);
  }
  if (!needs_graph(input)) return output;
  return with_node<BlockInverse<kToDepth>>(input, std::move(output),
                                           Numbers(block.begin(), block.end()), order);
}

Tensor channel_shuffle_autograd(const Tensor& input, SymInt groups, int64_t tile) {
  if (needs_decomposition(input)) return channel_shuffle_decomposed(input, groups, tile);
  Tensor output;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    output = call_shuffle(input, groups, tile);
  }
  if (!needs_graph(input)) return output;
  // The inverse swaps the two factors; without channels any number of groups does.
  Numbers inverse = {(input.sym_size(1) / groups).max(1)};
  return with_node<ShuffleInverse>(input, std::move(output), std::move(inverse), "");
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastconv, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  m.def("space_to_depth(Tensor input, SymInt[] block_size, str order='dcr', int tile=-1) -> Tensor",
        tags);
  m.def("depth_to_space(Tensor input, SymInt[] block_size, str order='dcr', int tile=-1) -> Tensor",
        tags);
  m.def("channel_shuffle(Tensor input, SymInt groups, int tile=-1) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  m.impl("space_to_depth", &block_op<true>);
  m.impl("depth_to_space", &block_op<false>);
  m.impl("channel_shuffle", &channel_shuffle);
}

TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("space_to_depth", &block_op<true>);
  m.impl("depth_to_space", &block_op<false>);
  m.impl("channel_shuffle", &channel_shuffle);
}

TORCH_LIBRARY_IMPL(fastconv, Meta, m) {
  m.impl("space_to_depth", &block_meta<true>);
  m.impl("depth_to_space", &block_meta<false>);
  m.impl("channel_shuffle", &channel_shuffle_meta);
}

TORCH_LIBRARY_IMPL(fastconv, Autograd, m) {
  m.impl("space_to_depth", &block_autograd<true>);
  m.impl("depth_to_space", &block_autograd<false>);
  m.impl("channel_shuffle", &channel_shuffle_autograd);
}

TORCH_LIBRARY_IMPL(fastconv, FuncTorchBatched, m) {
  m.impl("space_to_depth", &block_decomposed<true>);
  m.impl("depth_to_space", &block_decomposed<false>);
  m.impl("channel_shuffle", &channel_shuffle_decomposed);
}

}  // namespace fastconv::rearrange
