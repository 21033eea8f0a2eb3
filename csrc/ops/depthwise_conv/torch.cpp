// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Registers depthwise convolution with PyTorch: schemas, and one section per dispatch key.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>

#include "ops/depthwise_conv/cpu.h"
#include "ops/depthwise_conv/geometry_torch.h"
#include "torch_utils.h"
#if defined(FASTCONV_WITH_CUDA)
#include "ops/depthwise_conv/depthwise_conv_cuda.h"
#endif

namespace fastconv::depthwise_conv {
namespace {

using at::Tensor;
using c10::SymIntArrayRef;
using OptionalTensor = std::optional<Tensor>;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;
using Mask = std::array<bool, 3>;  // which of input, weight and bias want a gradient

Tensor call_forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                    SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                    int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::depthwise_conv", "")
                             .typed<decltype(call_forward)>();
  return op.call(input, weight, bias, stride, padding, dilation, tile);
}

Gradients call_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                        SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                        Mask mask, int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::_depthwise_conv_backward", "")
                             .typed<decltype(call_backward)>();
  return op.call(grad_output, input, weight, stride, padding, dilation, mask, tile);
}

// Unbatched input (C, *spatial) is a batch of one.
bool is_unbatched(const Tensor& input, SymIntArrayRef stride) {
  return input.dim() == static_cast<int64_t>(stride.size()) + 1;
}

// ---- kernels: Meta, CPU, CUDA ----

// Runs a plan's tasks on at::parallel_for, each thread with scratch of its own.
template <class Plan>
void run_tasks(const Plan& plan, int64_t scratch_bytes,
               void (*run)(const Plan&, int64_t, int64_t, void*)) {
  parallel_tasks(plan.tasks(), plan.work(), [&](int64_t begin, int64_t end) {
    run(plan, begin, end, thread_scratch(scratch_bytes));
  });
}

void run_correlation(const Correlation& plan) {
  static constexpr auto kRun = FASTCONV_EVERY_ISA_TABLE(correlation_run);
  static constexpr auto kScratch = FASTCONV_EVERY_ISA_TABLE(correlation_scratch);
  run_tasks(plan, kScratch.get()(plan), kRun.get());
}

void run_backward_weight(WeightPlan plan) {
  static constexpr auto kRun = FASTCONV_EVERY_ISA_TABLE(weight_run);
  static constexpr auto kScratch = FASTCONV_EVERY_ISA_TABLE(weight_scratch);
  static constexpr auto kReduce = FASTCONV_EVERY_ISA_TABLE(reduce_weight);
  const Tensor workspace = at::empty({plan.workspace_bytes()}, at::kByte);
  plan.workspace = workspace.mutable_data_ptr();
  run_tasks(plan, kScratch.get()(plan), kRun.get());
  parallel_tasks(plan.out_channels(), plan.columns() * plan.groups,
                 [&](int64_t begin, int64_t end) { kReduce.get()(plan, begin, end); });
}

Tensor forward(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
               SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
               int64_t tile) {
  if (is_unbatched(input, stride)) {
    return forward(input.unsqueeze(0), weight, bias, stride, padding, dilation, tile).squeeze(0);
  }
  const Geometry g = infer(input, weight, bias, stride, padding, dilation);
  Tensor output = empty_activation(input, g.out_sizes(), g.channels_last);
  if (input.is_meta() || output.numel() == 0) return output;

  const Tensor x = in_layout(input, g.channels_last);
  Forward p;
  static_cast<Problem&>(p) = make_problem(g, input.scalar_type());
  const Tensor w = (input.is_cpu() ? drop_idle_taps(p, g.nd, weight) : weight).contiguous();
  const Tensor b = bias && bias->defined() ? bias->contiguous() : Tensor();
  p.x = x.const_data_ptr();
  p.x_strides = strides_of(x, g.nd);
  p.weight = w.const_data_ptr();
  p.bias = b.defined() ? b.const_data_ptr() : nullptr;
  p.y = output.mutable_data_ptr();
  p.y_strides = strides_of(output, g.nd);
  if (input.is_cpu()) {
    run_correlation(make_forward(p));
  } else {
    launch_cuda(input, [&](auto stream) { return forward_cuda(p, tile, stream); });
  }
  return output;
}

Tensor backward_data(const Geometry& g, const Tensor& dy, const Tensor& input, const Tensor& weight,
                     int64_t tile) {
  Tensor dx = empty_activation(input, input.sym_sizes(), g.channels_last);
  if (input.is_meta() || dx.numel() == 0) return dx;
  BackwardData p;
  static_cast<Problem&>(p) = make_problem(g, input.scalar_type());
  const Tensor w = (input.is_cpu() ? drop_idle_taps(p, g.nd, weight) : weight).contiguous();
  p.dy = dy.const_data_ptr();
  p.dy_strides = strides_of(dy, g.nd);
  p.weight = w.const_data_ptr();
  p.dx = dx.mutable_data_ptr();
  p.dx_strides = strides_of(dx, g.nd);
  if (input.is_cpu()) {
    run_correlation(make_backward_data(p));
  } else {
    launch_cuda(input, [&](auto stream) { return backward_data_cuda(p, tile, stream); });
  }
  return dx;
}

void backward_weight(const Geometry& g, const Tensor& dy, const Tensor& input, const Tensor& dw,
                     const Tensor& db, int64_t tile) {
  if (input.is_meta()) return;
  const Tensor x = in_layout(input, g.channels_last);
  BackwardWeight p;
  static_cast<Problem&>(p) = make_problem(g, input.scalar_type());
  p.x = x.const_data_ptr();
  p.x_strides = strides_of(x, g.nd);
  p.dy = dy.const_data_ptr();
  p.dy_strides = strides_of(dy, g.nd);
  p.db = db.defined() ? db.mutable_data_ptr() : nullptr;
  p.workspace = nullptr;
  if (input.is_cpu()) {
    const Tensor used = drop_idle_taps(p, g.nd, dw);
    const bool all = !dw.defined() || used.sizes() == dw.sizes();
    const Tensor sums = all ? dw : at::empty(used.sizes(), dw.options());
    p.dw = sums.defined() ? sums.mutable_data_ptr() : nullptr;
    run_backward_weight(make_backward_weight(p));
    if (!all) {
      dw.zero_();
      used.copy_(sums);
    }
    return;
  }
  p.dw = dw.defined() ? dw.mutable_data_ptr() : nullptr;
  launch_cuda(input, [&](auto stream) {
    const Tensor workspace = at::empty({backward_weight_workspace_bytes_cuda(p, tile)},
                                       input.options().dtype(at::kByte));
    p.workspace = workspace.mutable_data_ptr();
    return backward_weight_cuda(p, tile, stream);
  });
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
  const auto sizes = g.out_sizes();
  TORCH_CHECK(
      grad_output.scalar_type() == input.scalar_type() && grad_output.device() == input.device(),
      "_depthwise_conv_backward: expected grad_output of dtype ", input.scalar_type(), " on ",
      input.device(), ", but got ", grad_output.scalar_type(), " on ", grad_output.device());
  TORCH_CHECK(grad_output.dim() == g.nd + 2, "_depthwise_conv_backward: expected grad_output of ",
              "size ", sizes, ", but got ", grad_output.sym_sizes());
  for (int64_t d = 0; d < g.nd + 2; ++d) {
    TORCH_SYM_CHECK(grad_output.sym_size(d).sym_eq(sizes[d]),
                    "_depthwise_conv_backward: expected grad_output of size ", sizes, ", but got ",
                    grad_output.sym_sizes());
  }
  const Tensor dy = input.is_meta() ? grad_output : in_layout(grad_output, g.channels_last);
  Tensor dx, dw, db;
  if (mask[0]) dx = backward_data(g, dy, input, weight, tile);
  if (mask[1]) dw = at::empty_like(weight, weight.suggest_memory_format());
  if (mask[2]) db = at::empty_symint({g.out_channels}, weight.options());
  if (mask[1] || mask[2]) backward_weight(g, dy, input, dw, db, tile);
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

struct SavedArguments {
  std::vector<c10::SymInt> stride, padding, dilation;
  int64_t tile;

  static void save(torch::autograd::AutogradContext* ctx, SymIntArrayRef stride,
                   SymIntArrayRef padding, SymIntArrayRef dilation, int64_t tile) {
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    ctx->saved_data["dilation"] = dilation;
    ctx->saved_data["tile"] = tile;
  }
  explicit SavedArguments(torch::autograd::AutogradContext* ctx)
      : stride(ctx->saved_data["stride"].toSymIntVector()),
        padding(ctx->saved_data["padding"].toSymIntVector()),
        dilation(ctx->saved_data["dilation"].toSymIntVector()),
        tile(ctx->saved_data["tile"].toInt()) {}
};

struct ForwardNode : torch::autograd::Function<ForwardNode> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& input,
                        const Tensor& weight, const OptionalTensor& bias, SymIntArrayRef stride,
                        SymIntArrayRef padding, SymIntArrayRef dilation, int64_t tile) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({input, weight});
    ctx->saved_data["has_bias"] = bias.has_value() && bias->defined();
    SavedArguments::save(ctx, stride, padding, dilation, tile);
    return call_forward(input, weight, bias, stride, padding, dilation, tile);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    torch::autograd::variable_list result(7);
    if (!grads[0].defined()) return result;
    const auto saved = ctx->get_saved_variables();
    const SavedArguments a(ctx);
    // A missing bias is no variable: asking whether it needs a gradient would raise.
    const bool bias_grad = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2);
    const Mask mask{ctx->needs_input_grad(0), ctx->needs_input_grad(1), bias_grad};
    std::tie(result[0], result[1], result[2]) =
        call_backward(grads[0], saved[0], saved[1], a.stride, a.padding, a.dilation, mask, a.tile);
    return result;
  }
};

// The backward is linear in each of grad_output, input and weight, so its own gradients are again
// a forward, a backward-data and a backward-weight, with one operand replaced.  The node returns
// the gradients that the mask asks for, and no others: an undefined tensor cannot be an output.
struct BackwardNode : torch::autograd::Function<BackwardNode> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const Tensor& grad_output, const Tensor& input,
                                                const Tensor& weight, SymIntArrayRef stride,
                                                SymIntArrayRef padding, SymIntArrayRef dilation,
                                                Mask mask, int64_t tile) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({grad_output, input, weight});
    SavedArguments::save(ctx, stride, padding, dilation, tile);
    ctx->saved_data["mask"] = std::vector<bool>(mask.begin(), mask.end());
    auto [dx, dw, db] =
        call_backward(grad_output, input, weight, stride, padding, dilation, mask, tile);
    torch::autograd::variable_list outputs;
    for (const Tensor& t : {dx, dw, db}) {
      if (t.defined()) outputs.push_back(t);
    }
    return outputs;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &dy = saved[0], &x = saved[1], &w = saved[2];
    const auto [ddx, ddw, ddb] = unpack(ctx->saved_data["mask"].toBoolList(), grads);
    const SavedArguments a(ctx);
    Tensor grad_dy, grad_x, grad_w;
    if (ctx->needs_input_grad(0)) {
      if (ddx.defined()) {
        grad_dy = call_forward(ddx, w, std::nullopt, a.stride, a.padding, a.dilation, a.tile);
      }
      if (ddw.defined()) {
        const Tensor y =
            call_forward(x, ddw, std::nullopt, a.stride, a.padding, a.dilation, a.tile);
        grad_dy = grad_dy.defined() ? grad_dy + y : y;
      }
      if (ddb.defined()) {
        std::vector<c10::SymInt> sizes(dy.dim(), 1);
        sizes[dy.dim() - w.dim() + 1] = ddb.sym_size(0);
        const Tensor y = ddb.view_symint(sizes).expand_symint(dy.sym_sizes());
        grad_dy = grad_dy.defined() ? grad_dy + y : y;
      }
    }
    if (ctx->needs_input_grad(1) && ddw.defined()) {
      grad_x = std::get<0>(
          call_backward(dy, x, ddw, a.stride, a.padding, a.dilation, {true, false, false}, a.tile));
    }
    if (ctx->needs_input_grad(2) && ddx.defined()) {
      grad_w = std::get<1>(
          call_backward(dy, ddx, w, a.stride, a.padding, a.dilation, {false, true, false}, a.tile));
    }
    torch::autograd::variable_list result(8);
    result[0] = grad_dy;
    result[1] = grad_x;
    result[2] = grad_w;
    return result;
  }

  // The node's outputs, or their gradients, back in their places.
  template <class Mask>
  static Gradients unpack(const Mask& mask, const torch::autograd::variable_list& outputs) {
    std::array<Tensor, 3> all;
    size_t next = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      if (mask[i]) all[i] = outputs[next++];
    }
    return {all[0], all[1], all[2]};
  }
};

Tensor forward_autograd(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                        int64_t tile) {
  if (needs_decomposition({input, weight, bias.value_or(Tensor())})) {
    return decomposed(input, weight, bias, stride, padding, dilation, tile);
  }
  if (!needs_graph({input, weight, bias.value_or(Tensor())})) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return call_forward(input, weight, bias, stride, padding, dilation, tile);
  }
  return ForwardNode::apply(input, weight, bias, stride, padding, dilation, tile);
}

Gradients backward_autograd(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                            SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                            Mask mask, int64_t tile) {
  if (needs_decomposition({grad_output, input, weight})) {
    return decomposed_backward(grad_output, input, weight, stride, padding, dilation, mask, tile);
  }
  if (!needs_graph({grad_output, input, weight})) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(grad_output, input, weight, stride, padding, dilation, mask, tile);
  }
  return BackwardNode::unpack(
      mask, BackwardNode::apply(grad_output, input, weight, stride, padding, dilation, mask, tile));
}

// ---- Autocast: the lower precision type, as for torch's convolutions ----

template <c10::DispatchKey key, c10::DeviceType device>
Tensor forward_autocast(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                        SymIntArrayRef stride, SymIntArrayRef padding, SymIntArrayRef dilation,
                        int64_t tile) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto to = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const auto& t) { return at::autocast::cached_cast(to, t, device); };
  return call_forward(cast(input), cast(weight), cast(bias), stride, padding, dilation, tile);
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
