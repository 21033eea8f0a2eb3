// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Registers causal_conv1d_update.  It is for decoding, where the call costs more than the
// arithmetic: checks are plain comparisons, and the result is the only tensor that is made.
#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <torch/library.h>

#include <optional>
#include <string_view>

#include "activations_torch.h"
#include "ops/causal_conv1d_update/causal_conv1d_update_cpu.h"
#include "torch_utils.h"

#if defined(FASTCONV_WITH_CUDA)
#include "ops/causal_conv1d_update/causal_conv1d_update_cuda.h"
#endif

namespace fastconv::causal_conv1d_update {
namespace {

using at::Tensor;
using c10::SymInt;
using OptionalTensor = std::optional<Tensor>;
using OptionalName = std::optional<std::string_view>;

constexpr const char* kName = "causal_conv1d_update";

Activation parse_activation(const OptionalName& name) {
  if (!name) return Activation::kNone;
  if (*name == "swish") return Activation::kSilu;
  const Activation activation = activation_named(*name);
  TORCH_CHECK_VALUE(activation != Activation::kNone, kName, ": unknown activation '", *name,
                    "', should be None or one of ", kActivationNames);
  return activation;
}

// The one place that checks arguments, on sizes that may be symbolic.
void check(const Tensor& x, const Tensor& state, const Tensor& weight, const OptionalTensor& bias,
           const SymInt& dilation) {
  TORCH_CHECK_NOT_IMPLEMENTED(is_arithmetic_dtype(x.scalar_type()), "\"", kName,
                              "\" not implemented for '", x.scalar_type(),
                              "': expected x of dtype float32, float64, float16 or bfloat16");
  const auto same = [&](const Tensor& t, const char* argument) {
    TORCH_CHECK(t.scalar_type() == x.scalar_type(), kName, ": x (", x.scalar_type(), ") and ",
                argument, " (", t.scalar_type(), ") should have the same dtype");
    TORCH_CHECK(t.device() == x.device(), kName,
                ": expected all tensors to be on the same device, but x is on ", x.device(),
                " and ", argument, " is on ", t.device());
  };
  same(state, "conv_state");
  same(weight, "weight");
  if (bias) same(*bias, "bias");
  TORCH_CHECK(x.dim() == 2 || x.dim() == 3, kName,
              ": expected x of size (batch, dim) or (batch, dim, length), but got ", x.sym_sizes());
  const SymInt batch = x.sym_size(0), channels = x.sym_size(1);
  TORCH_CHECK(state.dim() == 3, kName,
              ": expected conv_state of size (batch, dim, state_len), but got ", state.sym_sizes());
  TORCH_SYM_CHECK(state.sym_size(0).sym_eq(batch).sym_and(state.sym_size(1).sym_eq(channels)),
                  kName, ": expected conv_state of size (", batch, ", ", channels,
                  ", state_len), as x is of size ", x.sym_sizes(), ", but got ", state.sym_sizes());
  const bool plain = weight.dim() == 2;
  TORCH_CHECK(plain || weight.dim() == 3, kName,
              ": expected weight of size (dim, width) or (dim, 1, width), but got ",
              weight.sym_sizes());
  TORCH_SYM_CHECK(weight.sym_size(0).sym_eq(channels).sym_and(
                      plain ? weight.sym_size(0).sym_eq(channels) : weight.sym_size(1).sym_eq(1)),
                  kName, ": expected weight of size (", channels, plain ? "" : ", 1",
                  ", width), as x has ", channels, " channels, but got ", weight.sym_sizes());
  const SymInt width = weight.sym_size(-1);
  TORCH_SYM_CHECK(width.sym_gt(0), kName, ": expected weight of positive width, but got ",
                  weight.sym_sizes());
  TORCH_SYM_CHECK(
      dilation.sym_gt(0).sym_and(dilation.sym_lt(int64_t{1} << 31)), kName,
      ": dilation should be greater than zero and less than 2^31, got dilation=", dilation);
  TORCH_SYM_CHECK(state.sym_size(2).sym_ge((width - 1) * dilation), kName,
                  ": expected conv_state to hold at least (width - 1) * dilation = ",
                  (width - 1) * dilation, " elements of each channel, but got ", state.sym_sizes());
  if (bias) {
    TORCH_CHECK(bias->dim() == 1, kName, ": expected bias to be 1-dimensional with ", channels,
                " elements, but got bias of size ", bias->sym_sizes());
    TORCH_SYM_CHECK(bias->sym_size(0).sym_eq(channels), kName,
                    ": expected bias to be 1-dimensional with ", channels,
                    " elements, but got bias of size ", bias->sym_sizes());
  }
}

Tensor meta(const Tensor& x, Tensor& state, const Tensor& weight, const OptionalTensor& bias,
            OptionalName activation, SymInt dilation) {
  parse_activation(activation);
  check(x, state, weight, bias, dilation);
  return at::empty_symint(x.sym_sizes(), x.options());
}

Tensor update(const Tensor& x, Tensor& state, const Tensor& weight, const OptionalTensor& bias,
              OptionalName activation, int64_t dilation) {
  static constexpr auto kRun = FASTCONV_ISA_TABLE(run);
  Params p{};
  p.activation = parse_activation(activation);
  check(x, state, weight, bias, dilation);
  at::assert_no_internal_overlap(state);
  Tensor y = at::empty(x.sizes(), x.options());
  if (y.numel() == 0) return y;
  const auto strides = [](const Tensor& t) {
    return Strides{t.stride(0), t.stride(1), t.dim() == 3 ? t.stride(2) : 0};
  };
  p.dtype = to_dtype(x.scalar_type());
  p.batch = x.size(0);
  p.channels = x.size(1);
  p.length = x.dim() == 3 ? x.size(2) : 1;
  p.state_length = state.size(2);
  p.taps = weight.size(-1);
  p.dilation = dilation;
  p.x = x.const_data_ptr();
  p.x_strides = strides(x);
  p.state = state.mutable_data_ptr();
  p.state_strides = strides(state);
  p.weight = weight.const_data_ptr();
  p.weight_channel = weight.stride(0);
  p.weight_tap = weight.stride(-1);
  Tensor dense_bias;
  if (bias) {
    dense_bias = bias->contiguous();
    p.bias = dense_bias.const_data_ptr();
  }
  p.y = y.mutable_data_ptr();
  p.y_strides = strides(y);
  if (x.is_cuda()) {
    launch_cuda(x, [&]([[maybe_unused]] auto stream) { return update_cuda(p, stream); });
    return y;
  }
  const int64_t work = kChannels * (p.length * (p.taps + 2) + p.state_length);
  parallel_tasks(tasks_of(p), work, [&](int64_t begin, int64_t end) { kRun.get()(p, begin, end); });
  return y;
}

// For vmap: the same in native operators.
Tensor decomposed(const Tensor& x, Tensor& state, const Tensor& weight, const OptionalTensor& bias,
                  OptionalName activation, SymInt dilation) {
  const Activation act = parse_activation(activation);
  check(x, state, weight, bias, dilation);
  const Tensor steps = x.dim() == 3 ? x : x.unsqueeze(-1);
  const Tensor all = at::cat({state, steps}, -1);
  const SymInt length = steps.sym_size(-1), old = state.sym_size(-1), taps = weight.sym_size(-1);
  const Tensor taken = all.slice_symint(-1, old - (taps - 1) * dilation);
  const SymInt channels = x.sym_size(1), one = 1, zero = 0;
  const Tensor filters = weight.dim() == 3 ? weight : weight.unsqueeze(1);
  Tensor y = at::convolution_symint(taken, filters, bias, {one}, {zero}, {dilation}, false, {zero},
                                    channels);
  state.copy_(all.slice_symint(-1, length));
  y = native_activation(act, y);
  return x.dim() == 3 ? y : y.squeeze(-1);
}

Tensor call(const Tensor& x, Tensor& state, const Tensor& weight, const OptionalTensor& bias,
            OptionalName activation, SymInt dilation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::causal_conv1d_update", "")
                             .typed<decltype(call)>();
  return op.call(x, state, weight, bias, activation, std::move(dilation));
}

// There is no gradient: what it would need is overwritten.
Tensor autograd(const Tensor& x, Tensor& state, const Tensor& weight, const OptionalTensor& bias,
                OptionalName activation, SymInt dilation) {
  if (needs_decomposition({x, state, weight})) {
    return decomposed(x, state, weight, bias, activation, std::move(dilation));
  }
  TORCH_CHECK(!needs_graph({x, state, weight, bias.value_or(Tensor())}), kName,
              " has no gradient, as it overwrites conv_state, but an argument requires one. Call "
              "it under torch.no_grad() or torch.inference_mode(), or train with "
              "depthwise_conv1d(..., padding='causal').");
  const at::AutoDispatchBelowADInplaceOrView guard;
  Tensor y = call(x, state, weight, bias, activation, std::move(dilation));
  torch::autograd::impl::bump_version(state);
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastconv, m) {
  m.def(
      "causal_conv1d_update(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias=None, "
      "str? activation=None, SymInt dilation=1) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(fastconv, Meta, m) { m.impl("causal_conv1d_update", TORCH_FN(meta)); }
TORCH_LIBRARY_IMPL(fastconv, CPU, m) { m.impl("causal_conv1d_update", TORCH_FN(update)); }
TORCH_LIBRARY_IMPL(fastconv, CUDA, m) { m.impl("causal_conv1d_update", TORCH_FN(update)); }
TORCH_LIBRARY_IMPL(fastconv, Autograd, m) { m.impl("causal_conv1d_update", TORCH_FN(autograd)); }
TORCH_LIBRARY_IMPL(fastconv, FuncTorchBatched, m) {
  m.impl("causal_conv1d_update", TORCH_FN(decomposed));
}

}  // namespace fastconv::causal_conv1d_update
