// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling: schemas, shapes, and the CPU, CUDA and Meta kernels.
#include <torch/library.h>

#include "ops/depth_max_pool/depth_max_pool_cpu.h"
#include "ops/depth_max_pool/windows_torch.h"

#if defined(FASTCONV_WITH_CUDA)
#include "ops/depth_max_pool/depth_max_pool_cuda.h"
#endif

namespace fastconv::depth_max_pool {
namespace {

using at::Tensor;
using Pair = std::tuple<Tensor, Tensor>;

constexpr auto kForwardCpu = FASTCONV_ISA_TABLE(forward);
constexpr IsaTable<decltype(&baseline::expand)> kBackwardCpu[] = {  // in the order of BackwardWay
    FASTCONV_ISA_TABLE(expand), FASTCONV_ISA_TABLE(scatter), FASTCONV_ISA_TABLE(gather)};
constexpr auto kLanesCpu = FASTCONV_ISA_TABLE(lanes);

// Offsets within the window, in the smallest type of two.
template <class Int>
at::ScalarType argmax_type(const char* op, const Windows<Int>& w) {
  const Int taps = w.taps();
  TORCH_CHECK(
      taps <= std::numeric_limits<int32_t>::max(), op,
      ": windows of 2^31 elements or more have no gradient, but got kernel_size=", w.kernel);
  return taps <= 256 ? at::kByte : at::kInt;
}

IndexType index_type_of(const Tensor& index) {
  if (!index.defined()) return IndexType::kNone;
  switch (index.scalar_type()) {
    case at::kByte:
      return IndexType::kUint8;
    case at::kInt:
      return IndexType::kInt32;
    default:
      return IndexType::kInt64;
  }
}

// ---- torch's tensors as the kernels' structs ----

void set_problem(Problem& p, at::ScalarType type, at::IntArrayRef in, at::IntArrayRef out,
                 const Windows<int64_t>& w, bool channels_last, const Tensor& index) {
  const int64_t axes = w.axes(), first = static_cast<int64_t>(in.size()) - axes;
  p.dtype = to_dtype(type);
  p.index_type = index_type_of(index);
  p.batch = first > 0 ? in[0] : 1;
  int64_t pixels = 1;
  for (int64_t a = 0; a < axes; ++a) {
    p.axis[a == 0 ? 0 : kAxes - axes + a] = {in[first + a], out[first + a], w.kernel[a],
                                             w.stride[a],   w.dilation[a],  w.padding[a]};
    if (a > 0) pixels *= in[first + a] * out[first + a];
  }
  p.inner = channels_last || pixels == 1 ? 0 : kAxes - 1;
}

Strides strides_of(const Tensor& t, int64_t axes) {
  Strides s;
  const int64_t first = t.dim() - axes;
  s.n = first > 0 ? t.stride(0) : 0;
  for (int64_t a = 0; a < axes; ++a) {
    // The stride of an axis of one element is arbitrary; 1 keeps an inner axis dense.
    s.axis[a == 0 ? 0 : kAxes - axes + a] = t.size(first + a) == 1 ? 1 : t.stride(first + a);
  }
  return s;
}

// Whether `t` is dense along the inner axis, once merge_plain_axes() has passed over the axes of
// one element: the next one's stride becomes that of the inner axis.
bool is_dense_inner(const Tensor& t, int64_t axes, const Problem& p) {
  if (p.inner == 0) return strides_of(t, axes).axis[0] == 1;
  for (int64_t d = t.dim() - 1; d > t.dim() - axes; --d) {
    if (t.size(d) != 1) return t.stride(d) == 1;
  }
  return true;
}

void run_forward(const Tensor& input, const Windows<int64_t>& w, const Tensor& y,
                 const Tensor& index, int64_t tile) {
  if (y.numel() == 0) return;
  Forward p{};
  const bool channels_last = format_of(input, w.axes()) != at::MemoryFormat::Contiguous;
  set_problem(p, input.scalar_type(), input.sizes(), y.sizes(), w, channels_last, index);
  p.x = input.const_data_ptr();
  p.x_strides = strides_of(input, w.axes());
  p.y = y.mutable_data_ptr();
  p.index = index.defined() ? index.mutable_data_ptr() : nullptr;
  p.y_strides = strides_of(y, w.axes());
  merge_plain_axes(p, {&p.x_strides, &p.y_strides});
  merge_pixels_into_channels(p, {&p.x_strides, &p.y_strides}, {true, false});
  if (input.is_cuda()) {
    launch_cuda(input, [&]([[maybe_unused]] auto stream) {
      return forward_cuda(p, static_cast<int>(tile), stream);
    });
    return;
  }
  const int64_t tasks = forward_tasks(p);
  parallel_tasks(tasks, ceil_div(forward_work(p), tasks), [&](int64_t begin, int64_t end) {
    kForwardCpu.get()(p, thread_scratch(forward_bytes(p)), begin, end);
  });
}

// ---- CPU and CUDA ----

Tensor pool(const Tensor& input, at::IntArrayRef kernel, at::IntArrayRef stride,
            at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode, int64_t tile) {
  const Windows<int64_t> w{kernel, stride, padding, dilation};
  const auto out = check_forward("depth_max_pool", input, w, ceil_mode);
  const Tensor y = at::empty(out, input.options(), format_of(input, w.axes()));
  run_forward(input, w, y, {}, tile);
  return y;
}

Pair pool_tracked(const char* op, const Tensor& input, const Windows<int64_t>& w, bool ceil_mode,
                  at::ScalarType index_type, int64_t tile) {
  const auto out = check_forward(op, input, w, ceil_mode);
  const auto format = format_of(input, w.axes());
  Tensor y = at::empty(out, input.options(), format);
  Tensor index = at::empty(out, input.options().dtype(index_type), format);
  run_forward(input, w, y, index, tile);
  return {y, index};
}

Pair pool_argmax(const Tensor& input, at::IntArrayRef kernel, at::IntArrayRef stride,
                 at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode, int64_t tile) {
  const char* op = "depth_max_pool";
  const Windows<int64_t> w{kernel, stride, padding, dilation};
  check_windows(op, w);
  return pool_tracked(op, input, w, ceil_mode, argmax_type(op, w), tile);
}

Pair pool_with_indices(const Tensor& input, at::IntArrayRef kernel, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation, bool ceil_mode,
                       int64_t tile) {
  const char* op = "depth_max_pool_with_indices";
  const Windows<int64_t> w{kernel, stride, padding, dilation};
  check_forward(op, input, w, ceil_mode);
  // Kernels count a window's flat span in 32 bits.
  int64_t span = 0, flat = 1;
  for (int64_t a = w.axes() - 1; a >= 0; --a) {
    const int64_t in = input.size(input.dim() - w.axes() + a);
    span += min_of((kernel[a] - 1) * dilation[a], in) * flat;
    flat *= in;
  }
  if (span <= std::numeric_limits<int32_t>::max()) {
    return pool_tracked(op, input, w, ceil_mode, at::kLong, tile);
  }
  auto [y, argmax] = pool_tracked(op, input, w, ceil_mode, argmax_type(op, w), tile);
  const auto sym = [](at::IntArrayRef v) { return c10::fromIntArrayRefSlow(v); };
  return {y, flat_positions(argmax, sym(input.sizes()),
                            {sym(kernel), sym(stride), sym(padding), sym(dilation)})};
}

template <class Int>
void check_backward(const Tensor& grad, const Tensor& index, List<Int> input_size,
                    const Windows<Int>& w) {
  const char* op = "_depth_max_pool_backward";
  check_windows(op, w);
  const auto dim = static_cast<int64_t>(input_size.size());
  TORCH_CHECK(is_arithmetic_dtype(grad.scalar_type()), op,
              ": expected grad_output to be float32, float64, float16 or bfloat16, but got ",
              grad.scalar_type());
  TORCH_CHECK(grad.sym_sizes() == index.sym_sizes() && grad.device() == index.device(), op,
              ": expected grad_output and the indices of one size and device, but got ",
              grad.sym_sizes(), " on ", grad.device(), " and ", index.sym_sizes(), " on ",
              index.device());
  TORCH_CHECK(index.scalar_type() == at::kLong || index.scalar_type() == argmax_type(op, w), op,
              ": expected indices of type int64 or ", argmax_type(op, w), ", but got ",
              index.scalar_type());
  TORCH_CHECK((dim == w.axes() || dim == w.axes() + 1) && grad.dim() == dim, op,
              ": expected an input size of ", w.axes(), " or ", w.axes() + 1,
              " values and a grad_output of as many dimensions, but got ", input_size, " and ",
              grad.sym_sizes());
  TORCH_CHECK(dim == w.axes() || sizes_of<Int>(grad)[0] == input_size[0], op,
              ": expected grad_output to have the batch size of the input, but got ",
              grad.sym_sizes(), " and ", input_size);
}

at::MemoryFormat backward_format(int64_t dim, bool channels_last) {
  return channels_last ? channels_last_of(dim) : at::MemoryFormat::Contiguous;
}

Tensor backward(const Tensor& grad_output, const Tensor& index_in, at::IntArrayRef input_size,
                bool channels_last, at::IntArrayRef kernel, at::IntArrayRef stride,
                at::IntArrayRef padding, at::IntArrayRef dilation, int64_t tile) {
  const Windows<int64_t> w{kernel, stride, padding, dilation};
  check_backward(grad_output, index_in, input_size, w);
  const auto format = backward_format(static_cast<int64_t>(input_size.size()), channels_last);
  const Tensor dx = at::empty(input_size, grad_output.options(), format);
  if (dx.numel() == 0) return dx;
  Backward p{};
  set_problem(p, dx.scalar_type(), input_size, grad_output.sizes(), w, channels_last, index_in);
  // Gradients of sums are expanded scalars: those are written out, being smaller than dx.
  const auto dense = [&](const Tensor& t) {
    return is_dense_inner(t, w.axes(), p) ? t : t.contiguous(format);
  };
  const Tensor grad = dense(grad_output), index = dense(index_in);
  p.dy = grad.const_data_ptr();
  p.dy_strides = strides_of(grad, w.axes());
  p.index = index.const_data_ptr();
  p.index_strides = strides_of(index, w.axes());
  p.dx = dx.mutable_data_ptr();
  p.dx_strides = strides_of(dx, w.axes());
  merge_plain_axes(p, {&p.dy_strides, &p.index_strides, &p.dx_strides});
  merge_pixels_into_channels(p, {&p.dy_strides, &p.index_strides, &p.dx_strides},
                             {false, false, true});
  if (dx.is_cuda()) {
    launch_cuda(dx, [&]([[maybe_unused]] auto stream) {
      return backward_cuda(p, static_cast<int>(tile), stream);
    });
    return dx;
  }
  const BackwardWay way = backward_way(p, kLanesCpu.get()());
  if (way == BackwardWay::kExpand && !covers_input(p)) dx.zero_();
  const auto run = kBackwardCpu[static_cast<int>(way)].get();
  const int64_t tasks = backward_tasks(p, way), bytes = backward_bytes(p, way);
  const int64_t per_task = (p.in_elements() + p.out_elements()) / tasks;
  parallel_tasks(tasks, per_task,
                 [&](int64_t begin, int64_t end) { run(p, thread_scratch(bytes), begin, end); });
  return dx;
}

// ---- Meta ----

using SymList = c10::SymIntArrayRef;

Tensor pool_meta(const Tensor& input, SymList kernel, SymList stride, SymList padding,
                 SymList dilation, bool ceil_mode, int64_t) {
  const Windows<c10::SymInt> w{kernel, stride, padding, dilation};
  return at::empty_symint(check_forward("depth_max_pool", input, w, ceil_mode), input.options(),
                          format_of(input, w.axes()));
}

Pair tracked_meta(const char* op, const Tensor& input, const Windows<c10::SymInt>& w,
                  bool ceil_mode, at::ScalarType index_type) {
  const auto out = check_forward(op, input, w, ceil_mode);
  const auto format = format_of(input, w.axes());
  return {at::empty_symint(out, input.options(), format),
          at::empty_symint(out, input.options().dtype(index_type), format)};
}

Pair pool_argmax_meta(const Tensor& input, SymList kernel, SymList stride, SymList padding,
                      SymList dilation, bool ceil_mode, int64_t) {
  const char* op = "depth_max_pool";
  const Windows<c10::SymInt> w{kernel, stride, padding, dilation};
  check_windows(op, w);
  return tracked_meta(op, input, w, ceil_mode, argmax_type(op, w));
}

Pair pool_with_indices_meta(const Tensor& input, SymList kernel, SymList stride, SymList padding,
                            SymList dilation, bool ceil_mode, int64_t) {
  return tracked_meta("depth_max_pool_with_indices", input, {kernel, stride, padding, dilation},
                      ceil_mode, at::kLong);
}

Tensor backward_meta(const Tensor& grad, const Tensor& index, SymList input_size,
                     bool channels_last, SymList kernel, SymList stride, SymList padding,
                     SymList dilation, int64_t) {
  check_backward(grad, index, input_size, {kernel, stride, padding, dilation});
  return at::empty_symint(input_size, grad.options(),
                          backward_format(static_cast<int64_t>(input_size.size()), channels_last));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fastconv, m) {
  const std::string windows =
      "SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, ";
  const std::string input = "(Tensor input, " + windows + "bool ceil_mode=False, int tile=-1)";
  const auto define = [&](const std::string& schema) {
    m.def(schema.c_str(), {at::Tag::pt2_compliant_tag});
  };
  define("depth_max_pool" + input + " -> Tensor");
  define("depth_max_pool_with_indices" + input + " -> (Tensor, Tensor)");
  define("_depth_max_pool_argmax" + input + " -> (Tensor, Tensor)");
  define(
      "_depth_max_pool_backward(Tensor grad_output, Tensor index, SymInt[] input_size, "
      "bool channels_last, " +
      windows + "int tile=-1) -> Tensor");
}
#define FASTCONV_REGISTER(m, suffix)                                          \
  m.impl("depth_max_pool", TORCH_FN(pool##suffix));                           \
  m.impl("depth_max_pool_with_indices", TORCH_FN(pool_with_indices##suffix)); \
  m.impl("_depth_max_pool_argmax", TORCH_FN(pool_argmax##suffix));            \
  m.impl("_depth_max_pool_backward", TORCH_FN(backward##suffix))

TORCH_LIBRARY_IMPL(fastconv, CPU, m) { FASTCONV_REGISTER(m, ); }
TORCH_LIBRARY_IMPL(fastconv, CUDA, m) { FASTCONV_REGISTER(m, ); }
TORCH_LIBRARY_IMPL(fastconv, Meta, m) { FASTCONV_REGISTER(m, _meta); }
#undef FASTCONV_REGISTER

}  // namespace fastconv::depth_max_pool
