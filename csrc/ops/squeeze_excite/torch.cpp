// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// global_avg_pool, sigmoid_gate and their gradients: schemas, and the CPU, CUDA and Meta kernels.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <array>
#include <limits>
#include <tuple>

#include "ops/squeeze_excite/shapes_torch.h"
#include "ops/squeeze_excite/squeeze_excite_cpu.h"
#include "ops/squeeze_excite/tiles.h"
#include "torch_utils.h"

#if defined(FASTCONV_WITH_CUDA)
#include "ops/squeeze_excite/squeeze_excite_cuda.h"
#endif

namespace fastconv::squeeze_excite {
namespace {

using at::Tensor;
using c10::SymIntArrayRef;
using Mask = std::array<bool, 2>;
using Pair = std::tuple<Tensor, Tensor>;

// ---- CPU and CUDA ----

Params make_params(Pass pass, const Tensor& activation, bool channels_last) {
  Params p{};
  p.pass = pass;
  p.dtype = to_dtype(activation.scalar_type());
  p.channels_last = channels_last;
  p.batch = activation.size(0);
  p.channels = activation.size(1);
  p.pixels = 1;
  for (int64_t d = 2; d < activation.dim(); ++d) p.pixels *= activation.size(d);
  return p;
}

void run_pass(Params& p, const Tensor& like) {
  const auto wide = p.dtype == Dtype::kFloat64 ? at::kDouble : at::kFloat;
  Tensor partial;
  const auto allocate = [&] {
    if (!p.needs_partial()) return;
    partial = at::empty({p.batch * p.chunks * p.channels}, like.options().dtype(wide));
    p.partial = partial.mutable_data_ptr();
  };
  if (like.is_cuda()) {
    cut_for_cuda(p);
    allocate();
    launch_cuda(like, [&]([[maybe_unused]] auto stream) { return run_cuda(p, stream); });
    return;
  }
  static constexpr auto kRun = FASTCONV_ISA_TABLE(run);
  static constexpr auto kCombine = FASTCONV_ISA_TABLE(combine);
  prepare(p);
  allocate();
  const int64_t tasks = tasks_of(p), bytes = scratch_bytes(p);
  const int64_t work = p.planes() * (p.pixels / 4 + 4) / tasks;
  parallel_tasks(tasks, work, [&](int64_t begin, int64_t end) {
    kRun.get()(p, thread_scratch(bytes), begin, end);
  });
  if (p.needs_partial()) {
    parallel_tasks(p.batch, p.chunks * p.channels / 8,
                   [&](int64_t begin, int64_t end) { kCombine.get()(p, begin, end); });
  }
}

// ---- global average pooling: Meta, CPU, CUDA ----

Tensor pool(const Tensor& input) {
  check_input(kPool, input);
  Tensor y = at::empty_symint(pooled_sizes(input.sym_sizes()), input.options());
  if (input.is_meta() || y.numel() == 0) return y;
  if (input.numel() == 0) return y.fill_(std::numeric_limits<double>::quiet_NaN());  // as torch
  const bool channels_last = wants_channels_last(input);
  Params p = make_params(Pass::kMean, input, channels_last);
  const Tensor x = in_layout(input, channels_last, p.x_strides);
  p.x = x.const_data_ptr();
  p.sums = y.mutable_data_ptr();
  run_pass(p, input);
  return y;
}

Tensor pool_backward(const Tensor& grad_output, SymIntArrayRef input_size, bool channels_last) {
  check_input(kPoolBackward, grad_output);
  TORCH_CHECK(static_cast<int64_t>(input_size.size()) == grad_output.dim() &&
                  grad_output.sym_sizes() == SymIntArrayRef(pooled_sizes(input_size)),
              kPoolBackward, ": expected grad_output of size (N, C, 1, ...), as the input was of ",
              input_size, ", but got grad_output of size ", grad_output.sym_sizes());
  Tensor dx = empty_activation(grad_output, input_size, channels_last);
  if (dx.is_meta() || dx.numel() == 0) return dx;
  Params p = make_params(Pass::kMeanGradient, dx, channels_last);
  const Tensor dy = grad_output.contiguous();
  p.per_channel = dy.const_data_ptr();
  strides_in(dx, channels_last, p.y_strides);
  p.y = dx.mutable_data_ptr();
  run_pass(p, dx);
  return dx;
}

// ---- the gate: Meta, CPU, CUDA ----

Tensor gate(const Tensor& input, const Tensor& gate) {
  check_gate(kGate, input, gate);
  const bool channels_last = wants_channels_last(input);
  Tensor y = empty_activation(input, input.sym_sizes(), channels_last);
  if (input.is_meta() || y.numel() == 0) return y;
  Params p = make_params(Pass::kGate, input, channels_last);
  const Tensor x = in_layout(input, channels_last, p.x_strides), g = gate.contiguous();
  p.x = x.const_data_ptr();
  p.per_channel = g.const_data_ptr();
  strides_in(y, channels_last, p.y_strides);
  p.y = y.mutable_data_ptr();
  run_pass(p, input);
  return y;
}

// The gradient of the gate needs the input's pass, which gives that of the input as well.
Pair gate_backward(const Tensor& grad_output, const Tensor& input, const Tensor& gate, Mask mask) {
  check_gate(kGateBackward, input, gate);
  check_same(kGateBackward, input, grad_output, "grad_output");
  TORCH_CHECK(grad_output.sym_sizes() == input.sym_sizes(), kGateBackward,
              ": expected grad_output of the input's size ", input.sym_sizes(), ", but got ",
              grad_output.sym_sizes());
  const bool channels_last = wants_channels_last(input);
  Tensor dx, dg;
  if (mask[1]) dg = at::empty_symint(gate.sym_sizes(), gate.options());
  if (mask[0]) dx = empty_activation(input, input.sym_sizes(), channels_last);
  if (input.is_meta() || !(mask[0] || mask[1])) return {dx, dg};
  if (input.numel() == 0) {
    if (mask[1]) dg.zero_();
    return {dx, dg};
  }
  const Tensor written = mask[0] ? dx : empty_activation(input, input.sym_sizes(), channels_last);
  Params p = make_params(mask[1] ? Pass::kGateGradient : Pass::kGate, input, channels_last);
  Strides dy_strides;
  const Tensor dy = in_layout(grad_output, channels_last, dy_strides), g = gate.contiguous();
  Tensor x;
  if (mask[1]) {
    x = in_layout(input, channels_last, p.x_strides);
    p.x = x.const_data_ptr();
    p.dy = dy.const_data_ptr();
    p.dy_strides = dy_strides;
    p.sums = dg.mutable_data_ptr();
  } else {
    p.x = dy.const_data_ptr();
    p.x_strides = dy_strides;
  }
  p.per_channel = g.const_data_ptr();
  strides_in(written, channels_last, p.y_strides);
  p.y = written.mutable_data_ptr();
  run_pass(p, input);
  return {dx, dg};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastconv, m) {
  const auto define = [&](const char* schema) { m.def(schema, {at::Tag::pt2_compliant_tag}); };
  define("global_avg_pool(Tensor input) -> Tensor");
  define(
      "_global_avg_pool_backward(Tensor grad_output, SymInt[] input_size, bool channels_last) "
      "-> Tensor");
  define("sigmoid_gate(Tensor input, Tensor gate) -> Tensor");
  define(
      "_sigmoid_gate_backward(Tensor grad_output, Tensor input, Tensor gate, bool[2] output_mask) "
      "-> (Tensor, Tensor)");
}

#define FASTCONV_REGISTER(m)                      \
  m.impl(kPool, TORCH_FN(pool));                  \
  m.impl(kPoolBackward, TORCH_FN(pool_backward)); \
  m.impl(kGate, TORCH_FN(gate));                  \
  m.impl(kGateBackward, TORCH_FN(gate_backward))

TORCH_LIBRARY_IMPL(fastconv, Meta, m) { FASTCONV_REGISTER(m); }
TORCH_LIBRARY_IMPL(fastconv, CPU, m) { FASTCONV_REGISTER(m); }
TORCH_LIBRARY_IMPL(fastconv, CUDA, m) { FASTCONV_REGISTER(m); }
#undef FASTCONV_REGISTER

}  // namespace fastconv::squeeze_excite
