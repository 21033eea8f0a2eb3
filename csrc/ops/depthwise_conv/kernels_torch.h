// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// From tensors to the kernels of their device: the three passes over concrete problems.
#pragma once

#include <ATen/ATen.h>

#include <optional>

#include "ops/depthwise_conv/cpu.h"
#include "ops/depthwise_conv/geometry_torch.h"
#include "torch_utils.h"
#if defined(FASTCONV_WITH_CUDA)
#include "ops/depthwise_conv/depthwise_conv_cuda.h"
#endif

namespace fastconv::depthwise_conv {

// Runs a plan's tasks on at::parallel_for, each thread with scratch of its own.
template <class Plan>
void run_tasks(const Plan& plan, int64_t scratch_bytes,
               void (*run)(const Plan&, int64_t, int64_t, void*)) {
  parallel_tasks(plan.tasks(), plan.work(), [&](int64_t begin, int64_t end) {
    run(plan, begin, end, thread_scratch(scratch_bytes));
  });
}

inline void run_correlation(const Correlation& plan) {
  static constexpr auto kRun = FASTCONV_EVERY_ISA_TABLE(correlation_run);
  static constexpr auto kScratch = FASTCONV_EVERY_ISA_TABLE(correlation_scratch);
  run_tasks(plan, kScratch.get()(plan), kRun.get());
}

inline void run_weight_plan(WeightPlan plan) {
  static constexpr auto kRun = FASTCONV_EVERY_ISA_TABLE(weight_run);
  static constexpr auto kScratch = FASTCONV_EVERY_ISA_TABLE(weight_scratch);
  static constexpr auto kReduce = FASTCONV_EVERY_ISA_TABLE(reduce_weight);
  const at::Tensor workspace = at::empty({plan.workspace_bytes()}, at::kByte);
  plan.workspace = workspace.mutable_data_ptr();
  run_tasks(plan, kScratch.get()(plan), kRun.get());
  parallel_tasks(plan.out_channels(), plan.columns() * plan.groups,
                 [&](int64_t begin, int64_t end) { kReduce.get()(plan, begin, end); });
}

// The operands of a correlation: weights (filters, 1, *kernel) of any strides, and a bias or none.
struct Filters {
  at::Tensor weight, bias;

  Filters(Problem& p, int64_t nd, const at::Tensor& w, const std::optional<at::Tensor>& b)
      : weight((w.is_cpu() ? drop_idle_taps(p, nd, w) : w).contiguous()) {
    if (b && b->defined()) bias = b->contiguous();
  }
  const void* bias_data() const { return bias.defined() ? bias.const_data_ptr() : nullptr; }
};

// Activations are in the problem's layout, and results allocated and not empty.
inline void run_forward(const Problem& problem, int64_t nd, const at::Tensor& x,
                        const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                        const at::Tensor& y, int64_t tile,
                        Activation activation = Activation::kNone) {
  Forward p;
  static_cast<Problem&>(p) = problem;
  const Filters filters(p, nd, weight, bias);
  p.x = x.const_data_ptr();
  p.x_strides = strides_of(x, nd);
  p.weight = filters.weight.const_data_ptr();
  p.bias = filters.bias_data();
  p.y = y.mutable_data_ptr();
  p.y_strides = strides_of(y, nd);
  p.activation = activation;
  if (x.is_cpu()) {
    run_correlation(make_forward(p, active_isa()));
  } else {
    launch_cuda(x, [&](auto stream) { return forward_cuda(p, tile, stream); });
  }
}

inline void run_backward_data(const Problem& problem, int64_t nd, const at::Tensor& dy,
                              const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                              const at::Tensor& dx, int64_t tile) {
  BackwardData p;
  static_cast<Problem&>(p) = problem;
  const Filters filters(p, nd, weight, bias);
  p.dy = dy.const_data_ptr();
  p.dy_strides = strides_of(dy, nd);
  p.weight = filters.weight.const_data_ptr();
  p.bias = filters.bias_data();
  p.dx = dx.mutable_data_ptr();
  p.dx_strides = strides_of(dx, nd);
  if (dy.is_cpu()) {
    run_correlation(make_backward_data(p, active_isa()));
  } else {
    launch_cuda(dy, [&](auto stream) { return backward_data_cuda(p, tile, stream); });
  }
}

// `dw`, dense (filters, 1, *kernel), and `db` may each be undefined.
inline void run_backward_weight(const Problem& problem, int64_t nd, const at::Tensor& x,
                                const at::Tensor& dy, const at::Tensor& dw, const at::Tensor& db,
                                int64_t tile) {
  BackwardWeight p;
  static_cast<Problem&>(p) = problem;
  p.x = x.const_data_ptr();
  p.x_strides = strides_of(x, nd);
  p.dy = dy.const_data_ptr();
  p.dy_strides = strides_of(dy, nd);
  p.db = db.defined() ? db.mutable_data_ptr() : nullptr;
  p.workspace = nullptr;
  if (x.is_cpu()) {
    const at::Tensor used = drop_idle_taps(p, nd, dw);
    const bool all = !dw.defined() || used.sizes() == dw.sizes();
    const at::Tensor sums = all ? dw : at::empty(used.sizes(), dw.options());
    p.dw = sums.defined() ? sums.mutable_data_ptr() : nullptr;
    run_weight_plan(make_backward_weight(p, active_isa()));
    if (!all) {
      dw.zero_();
      used.copy_(sums);
    }
    return;
  }
  p.dw = dw.defined() ? dw.mutable_data_ptr() : nullptr;
  launch_cuda(x, [&](auto stream) {
    const at::Tensor workspace =
        at::empty({backward_weight_workspace_bytes_cuda(p, tile)}, x.options().dtype(at::kByte));
    p.workspace = workspace.mutable_data_ptr();
    return backward_weight_cuda(p, tile, stream);
  });
}

// Both gradients in one pass over `x` and `dy`, where a CUDA kernel serves the problem; returns
// whether one did.
inline bool run_backward([[maybe_unused]] const Problem& problem, [[maybe_unused]] int64_t nd,
                         const at::Tensor& x, [[maybe_unused]] const at::Tensor& dy,
                         [[maybe_unused]] const at::Tensor& weight,
                         [[maybe_unused]] const at::Tensor& dx,
                         [[maybe_unused]] const at::Tensor& dw,
                         [[maybe_unused]] const at::Tensor& db, [[maybe_unused]] int64_t tile) {
  if (!x.is_cuda()) return false;
#if defined(FASTCONV_WITH_CUDA)
  Backward p;
  static_cast<Problem&>(p) = problem;
  const Filters filters(p, nd, weight, std::nullopt);
  p.x = x.const_data_ptr();
  p.x_strides = strides_of(x, nd);
  p.dy = dy.const_data_ptr();
  p.dy_strides = strides_of(dy, nd);
  p.weight = filters.weight.const_data_ptr();
  p.dx = dx.mutable_data_ptr();
  p.dx_strides = strides_of(dx, nd);
  p.dw = dw.mutable_data_ptr();
  p.db = db.defined() ? db.mutable_data_ptr() : nullptr;
  const int served = backward_tile_cuda(p, static_cast<int>(tile));
  if (served < 0) return false;
  launch_cuda(x, [&](auto stream) {
    const at::Tensor workspace =
        at::empty({backward_workspace_bytes_cuda(p, served)}, x.options().dtype(at::kByte));
    p.workspace = workspace.mutable_data_ptr();
    return backward_cuda(p, served, stream);
  });
  return true;
#else
  return false;
#endif
}

}  // namespace fastconv::depthwise_conv
