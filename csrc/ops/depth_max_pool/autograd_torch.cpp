// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling: gradients, and what torch.func and forward-mode AD see.
//
// Training saves an integer per output: the offset within the window where only values are asked
// for, the int64 positions where those are returned anyway.  The backward is an op of its own,
// linear in grad_output, whose gradient is the gather that undoes it.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/depth_max_pool/windows_torch.h"

namespace fastconv::depth_max_pool {
namespace {

using at::Tensor;
using c10::SymInt;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<Tensor, Tensor>;
using SymList = c10::SymIntArrayRef;
using SymWindows = Windows<SymInt>;

// ---- the registered ops, through the dispatcher ----

using PoolSchema = Tensor(const Tensor&, SymList, SymList, SymList, SymList, bool, int64_t);
using PairSchema = Pair(const Tensor&, SymList, SymList, SymList, SymList, bool, int64_t);
using BackwardSchema = Tensor(const Tensor&, const Tensor&, SymList, bool, SymList, SymList,
                              SymList, SymList, int64_t);

template <class Schema>
auto find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Schema>();
}

Tensor call_pool(const Tensor& input, const SymWindows& w, bool ceil_mode, int64_t tile) {
  static const auto op = find<PoolSchema>("fastconv::depth_max_pool");
  return op.call(input, w.kernel, w.stride, w.padding, w.dilation, ceil_mode, tile);
}
Pair call_with_indices(const Tensor& input, const SymWindows& w, bool ceil_mode, int64_t tile) {
  static const auto op = find<PairSchema>("fastconv::depth_max_pool_with_indices");
  return op.call(input, w.kernel, w.stride, w.padding, w.dilation, ceil_mode, tile);
}
Pair call_argmax(const Tensor& input, const SymWindows& w, bool ceil_mode, int64_t tile) {
  static const auto op = find<PairSchema>("fastconv::_depth_max_pool_argmax");
  return op.call(input, w.kernel, w.stride, w.padding, w.dilation, ceil_mode, tile);
}
Tensor call_backward(const Tensor& grad, const Tensor& index, SymList input_size,
                     bool channels_last, const SymWindows& w, int64_t tile) {
  static const auto op = find<BackwardSchema>("fastconv::_depth_max_pool_backward");
  return op.call(grad, index, input_size, channels_last, w.kernel, w.stride, w.padding, w.dilation,
                 tile);
}

// ---- native forms ----

// x at the winners, (N, C', *spatial'): differentiable in x by every means that torch has.
Tensor take_winners(const Tensor& x, const Tensor& index, const SymWindows& w) {
  const int64_t first = index.dim() - w.axes();
  // A window may lie in the padding altogether (dilation beyond the input): its position is none.
  const Tensor flat = flat_positions(index, x.sym_sizes(), w).flatten(first);
  const Tensor rows = x.flatten(first);
  const Tensor inside = flat.clamp_max(c10::Scalar(rows.sym_size(first) - 1));
  return rows.gather(first, inside).view_symint(index.sym_sizes());
}

Tensor put_winners(const Tensor& grad, const Tensor& index, SymList input_size,
                   const SymWindows& w) {
  const int64_t first = index.dim() - w.axes();
  const Tensor flat = flat_positions(index, input_size, w).flatten(first);
  SymInt length = 1;
  c10::SymDimVector shape(input_size.begin(), input_size.begin() + first);
  for (size_t a = first; a < input_size.size(); ++a) length = length * input_size[a];
  shape.push_back(length);
  const Tensor inside = flat.clamp_max(c10::Scalar(length - 1));
  return at::zeros_symint(shape, grad.options())
      .scatter_add(first, inside, grad.flatten(first))
      .view_symint(input_size);
}

// ---- autograd nodes ----

// The windows, kept between forward and backward.
void save_windows(AutogradContext* ctx, const SymWindows& w, SymList input_size, bool channels_last,
                  int64_t tile) {
  ctx->saved_data["kernel"] = w.kernel;
  ctx->saved_data["stride"] = w.stride;
  ctx->saved_data["padding"] = w.padding;
  ctx->saved_data["dilation"] = w.dilation;
  ctx->saved_data["input_size"] = input_size;
  ctx->saved_data["channels_last"] = channels_last;
  ctx->saved_data["tile"] = tile;
}

struct SavedWindows {
  std::vector<SymInt> kernel, stride, padding, dilation, input_size;
  bool channels_last;
  int64_t tile;

  explicit SavedWindows(AutogradContext* ctx)
      : kernel(ctx->saved_data["kernel"].toSymIntVector()),
        stride(ctx->saved_data["stride"].toSymIntVector()),
        padding(ctx->saved_data["padding"].toSymIntVector()),
        dilation(ctx->saved_data["dilation"].toSymIntVector()),
        input_size(ctx->saved_data["input_size"].toSymIntVector()),
        channels_last(ctx->saved_data["channels_last"].toBool()),
        tile(ctx->saved_data["tile"].toInt()) {}

  SymWindows windows() const { return {kernel, stride, padding, dilation}; }
};

class PoolNode : public torch::autograd::Function<PoolNode> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& input, const SymWindows& w,
                               bool ceil_mode, bool with_indices, int64_t tile) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto [y, index] = with_indices ? call_with_indices(input, w, ceil_mode, tile)
                                         : call_argmax(input, w, ceil_mode, tile);
    save_windows(ctx, w, input.sym_sizes(),
                 format_of(input, w.axes()) != at::MemoryFormat::Contiguous, tile);
    ctx->save_for_backward({index});
    ctx->mark_non_differentiable({index});
    return {y, index};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].defined()) return variable_list(5);
    const SavedWindows s(ctx);
    variable_list out(5);
    out[0] = call_backward(grads[0], ctx->get_saved_variables()[0], s.input_size, s.channels_last,
                           s.windows(), s.tile);
    return out;
  }
};

class BackwardNode : public torch::autograd::Function<BackwardNode> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& grad, const Tensor& index,
                        SymList input_size, bool channels_last, const SymWindows& w, int64_t tile) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    save_windows(ctx, w, input_size, channels_last, tile);
    ctx->save_for_backward({index});
    return call_backward(grad, index, input_size, channels_last, w, tile);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(6);
    if (!grads[0].defined()) return out;
    const SavedWindows s(ctx);
    out[0] = take_winners(grads[0], ctx->get_saved_variables()[0], s.windows());
    return out;
  }
};

// ---- Autograd key ----

Pair tracked_autograd(const Tensor& input, const SymWindows& w, bool ceil_mode, bool with_indices,
                      int64_t tile) {
  if (needs_decomposition(input)) {
    Tensor y, index;
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      std::tie(y, index) = call_with_indices(input, w, ceil_mode, tile);
    }
    return {take_winners(input, index, w), index};
  }
  const variable_list out = PoolNode::apply(input, w, ceil_mode, with_indices, tile);
  return {out[0], out[1]};
}

Tensor pool_autograd(const Tensor& input, SymList kernel, SymList stride, SymList padding,
                     SymList dilation, bool ceil_mode, int64_t tile) {
  const SymWindows w{kernel, stride, padding, dilation};
  if (!needs_graph(input) && !needs_decomposition(input)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_pool(input, w, ceil_mode, tile);
  }
  return std::get<0>(tracked_autograd(input, w, ceil_mode, /*with_indices=*/false, tile));
}

Pair pool_with_indices_autograd(const Tensor& input, SymList kernel, SymList stride,
                                SymList padding, SymList dilation, bool ceil_mode, int64_t tile) {
  const SymWindows w{kernel, stride, padding, dilation};
  if (!needs_graph(input) && !needs_decomposition(input)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_with_indices(input, w, ceil_mode, tile);
  }
  return tracked_autograd(input, w, ceil_mode, /*with_indices=*/true, tile);
}

Pair pool_argmax_autograd(const Tensor& input, SymList kernel, SymList stride, SymList padding,
                          SymList dilation, bool ceil_mode, int64_t tile) {
  const SymWindows w{kernel, stride, padding, dilation};
  if (!needs_graph(input)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_argmax(input, w, ceil_mode, tile);
  }
  const variable_list out = PoolNode::apply(input, w, ceil_mode, /*with_indices=*/false, tile);
  return {out[0], out[1]};
}

Tensor backward_autograd(const Tensor& grad, const Tensor& index, SymList input_size,
                         bool channels_last, SymList kernel, SymList stride, SymList padding,
                         SymList dilation, int64_t tile) {
  const SymWindows w{kernel, stride, padding, dilation};
  if (needs_decomposition(grad)) return put_winners(grad, index, input_size, w);
  if (!needs_graph(grad)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_backward(grad, index, input_size, channels_last, w, tile);
  }
  return BackwardNode::apply(grad, index, input_size, channels_last, w, tile);
}

// ---- vmap: the mapped axis joins the batch ----

// One op call's view of a mapped tensor.
struct Mapped {
  Tensor value;             // (B * N, C, *spatial)
  std::optional<SymInt> n;  // N where the unmapped tensor has a batch axis
  SymInt size;              // B
};

Mapped join_batch(const Tensor& value, std::optional<int64_t> bdim, const SymInt& size,
                  int64_t axes) {
  Tensor t = bdim ? value.movedim(*bdim, 0) : value.unsqueeze(0);
  if (!bdim) {
    c10::SymDimVector sizes(t.sym_sizes().begin(), t.sym_sizes().end());
    sizes[0] = size;
    t = t.expand_symint(sizes);
  }
  if (t.dim() < axes + 2) return {t, std::nullopt, size};
  const SymInt n = t.sym_size(1);
  return {t.flatten(0, 1), n, size};
}

Tensor split_batch(const Tensor& t, const Mapped& m) {
  if (!m.n) return t;
  c10::SymDimVector sizes{m.size, *m.n};
  sizes.insert(sizes.end(), t.sym_sizes().begin() + 1, t.sym_sizes().end());
  return t.view_symint(sizes);
}

// A tensor without its map of that level.
struct Unwrapped {
  Tensor value;
  std::optional<int64_t> bdim;
};

int64_t level_of(const Tensor& t) {
  const auto* batched = at::functorch::maybeGetBatchedImpl(t);
  return batched != nullptr ? batched->level() : -1;
}
Unwrapped unwrap(const Tensor& t, int64_t level) {
  if (level < 0 || level_of(t) != level) return {t, std::nullopt};
  const auto* batched = at::functorch::unsafeGetBatchedImpl(t);
  return {batched->value(), batched->bdim()};
}

// Checks the rank here: a wrong one could look right once the mapped axis has joined.
void check_rank(const Tensor& input, int64_t axes) {
  TORCH_CHECK(input.dim() == axes || input.dim() == axes + 1, "depth_max_pool: expected a ",
              axes + 1, "-D (batched) or ", axes, "-D input, but got ", input.dim(), "-D of size ",
              input.sym_sizes());
}

Tensor pool_batched(const Tensor& input, SymList kernel, SymList stride, SymList padding,
                    SymList dilation, bool ceil_mode, int64_t tile) {
  const SymWindows w{kernel, stride, padding, dilation};
  check_rank(input, w.axes());
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::FuncTorchBatched);
  const int64_t level = level_of(input);
  const auto [value, bdim] = unwrap(input, level);
  if (!bdim) return call_pool(value, w, ceil_mode, tile);
  const Mapped m = join_batch(value, bdim, value.sym_size(*bdim), w.axes());
  const Tensor y = call_pool(m.value, w, ceil_mode, tile);
  return at::functorch::makeBatched(split_batch(y, m), 0, level);
}

template <auto kCall>
Pair pair_batched(const Tensor& input, SymList kernel, SymList stride, SymList padding,
                  SymList dilation, bool ceil_mode, int64_t tile) {
  const SymWindows w{kernel, stride, padding, dilation};
  check_rank(input, w.axes());
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::FuncTorchBatched);
  const int64_t level = level_of(input);
  const auto [value, bdim] = unwrap(input, level);
  if (!bdim) return kCall(value, w, ceil_mode, tile);
  const Mapped m = join_batch(value, bdim, value.sym_size(*bdim), w.axes());
  const auto [y, index] = kCall(m.value, w, ceil_mode, tile);
  return {at::functorch::makeBatched(split_batch(y, m), 0, level),
          at::functorch::makeBatched(split_batch(index, m), 0, level)};
}

Tensor backward_batched(const Tensor& grad, const Tensor& index, SymList input_size,
                        bool channels_last, SymList kernel, SymList stride, SymList padding,
                        SymList dilation, int64_t tile) {
  const SymWindows w{kernel, stride, padding, dilation};
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::DispatchKey::FuncTorchBatched);
  const int64_t level = std::max(level_of(grad), level_of(index));
  const auto [g, g_bdim] = unwrap(grad, level);
  const auto [i, i_bdim] = unwrap(index, level);
  if (!g_bdim && !i_bdim) return call_backward(g, i, input_size, channels_last, w, tile);
  const SymInt size = g_bdim ? g.sym_size(*g_bdim) : i.sym_size(*i_bdim);
  const Mapped mg = join_batch(g, g_bdim, size, w.axes());
  const Mapped mi = join_batch(i, i_bdim, size, w.axes());
  c10::SymDimVector joined(input_size.begin(), input_size.end());
  if (mg.n) {
    joined[0] = joined[0] * size;
  } else {
    joined.insert(joined.begin(), size);
  }
  const Tensor dx = call_backward(mg.value, mi.value, joined, channels_last, w, tile);
  return at::functorch::makeBatched(split_batch(dx, mg), 0, level);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastconv, Autograd, m) {
  m.impl("depth_max_pool", TORCH_FN(pool_autograd));
  m.impl("depth_max_pool_with_indices", TORCH_FN(pool_with_indices_autograd));
  m.impl("_depth_max_pool_argmax", TORCH_FN(pool_argmax_autograd));
  m.impl("_depth_max_pool_backward", TORCH_FN(backward_autograd));
}

TORCH_LIBRARY_IMPL(fastconv, FuncTorchBatched, m) {
  m.impl("depth_max_pool", TORCH_FN(pool_batched));
  m.impl("depth_max_pool_with_indices", TORCH_FN(pair_batched<call_with_indices>));
  m.impl("_depth_max_pool_argmax", TORCH_FN(pair_batched<call_argmax>));
  m.impl("_depth_max_pool_backward", TORCH_FN(backward_batched));
}

}  // namespace fastconv::depth_max_pool
