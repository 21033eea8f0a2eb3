// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What torch.cpp and autograd_torch.cpp share: the windows' arguments, the one function that checks
// them, and the winners as flat positions in terms of native ops.
#pragma once

#include <ATen/ATen.h>

#include <limits>
#include <tuple>

#include "ops/depth_max_pool/depth_max_pool.h"
#include "torch_utils.h"

namespace fastconv::depth_max_pool {

// Int is int64_t in the kernels and c10::SymInt where shapes may be symbolic.
template <class Int>
using List = c10::ArrayRef<Int>;

template <class Int>
c10::ArrayRef<Int> sizes_of(const at::Tensor& t) {
  if constexpr (std::is_same_v<Int, int64_t>) {
    return t.sizes();
  } else {
    return t.sym_sizes();
  }
}

// The arguments (C, *spatial) of every op, one value per window axis.
template <class Int>
struct Windows {
  List<Int> kernel, stride, padding, dilation;

  int64_t axes() const { return static_cast<int64_t>(kernel.size()); }
  Int taps() const {
    Int count = 1;
    for (const Int& k : kernel) count = count * k;
    return count;
  }
};

template <class Int>
void check_windows(const char* op, const Windows<Int>& w) {
  const int64_t axes = w.axes();
  TORCH_CHECK(axes >= 1 && axes <= kAxes, op, ": expected kernel_size to have 1 to ", kAxes,
              " values (channels, *spatial), but got ", axes);
  const auto check = [&](const char* name, const List<Int>& values, int64_t least) {
    TORCH_CHECK(static_cast<int64_t>(values.size()) == axes, op, ": expected ", name, " to have ",
                axes, " values like kernel_size, but got ", values.size());
    for (const Int& v : values) {
      TORCH_CHECK(v >= least, op, ": ", name,
                  least > 0 ? " should be greater than zero" : " must be non-negative",
                  ", but got ", values);
      TORCH_CHECK(v <= std::numeric_limits<int32_t>::max(), op, ": ", name,
                  " should fit in 32 bits, but got ", values);
    }
  };
  check("kernel_size", w.kernel, 1);
  check("stride", w.stride, 1);
  check("padding", w.padding, 0);
  check("dilation", w.dilation, 1);
  for (int64_t a = 0; a < axes; ++a) {
    const Int extent = (w.kernel[a] - 1) * w.dilation[a] + 1;
    TORCH_CHECK(w.padding[a] * 2 <= extent, op,
                ": pad should be at most half of effective kernel size, but got pad=", w.padding[a],
                ", kernel_size=", w.kernel[a], " and dilation=", w.dilation[a]);
  }
}

inline bool is_batched(int64_t dim, int64_t axes) { return dim == axes + 1; }

// The one place that checks an input.  Returns the size of the output.
template <class Int>
c10::SmallVector<Int, 5> check_forward(const char* op, const at::Tensor& input,
                                       const Windows<Int>& w, bool ceil_mode) {
  TORCH_CHECK(is_arithmetic_dtype(input.scalar_type()), op,
              ": expected input to be float32, float64, float16 or bfloat16, but got ",
              input.scalar_type());
  check_windows(op, w);
  const int64_t axes = w.axes(), dim = input.dim();
  TORCH_CHECK(dim == axes || dim == axes + 1, op, ": expected a ", axes + 1, "-D (batched) or ",
              axes, "-D input for kernel_size ", w.kernel, ", but got ", dim, "-D of size ",
              sizes_of<Int>(input));
  const auto sizes = sizes_of<Int>(input);
  const int64_t first = dim - axes;
  c10::SmallVector<Int, 5> out(sizes.begin(), sizes.begin() + first);
  for (int64_t a = 0; a < axes; ++a) {
    const Int& in = sizes[first + a];
    TORCH_CHECK(in > 0, op, ": expected input's non-batch dimensions to have positive length, ",
                "but got an input of size ", sizes);
    const Int extent = (w.kernel[a] - 1) * w.dilation[a] + 1;
    Int room = in + w.padding[a] * 2 - extent;
    if (ceil_mode) room = room + w.stride[a] - 1;
    TORCH_CHECK(room >= 0, op, ": expected windows no larger than the padded input, but got size ",
                sizes, " with kernel_size=", w.kernel, ", padding=", w.padding,
                ", dilation=", w.dilation, ". Output size is too small");
    Int count = room / w.stride[a] + 1;
    // As torch does: a last window that would start in the padding after the input is dropped.
    if (ceil_mode && (count - 1) * w.stride[a] >= in + w.padding[a]) count = count - 1;
    out.push_back(count);
  }
  return out;
}

// Batched 4-D and 5-D tensors keep their memory format; the rest is contiguous, as torch's pools.
inline at::MemoryFormat format_of(const at::Tensor& t, int64_t axes) {
  if (!is_batched(t.dim(), axes) || t.dim() < 4) return at::MemoryFormat::Contiguous;
  return t.suggest_memory_format();
}
inline at::MemoryFormat channels_last_of(int64_t dim) {
  return dim == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
}

// Winners as positions in the flattened (C, *spatial): what the int64 indices hold.
inline at::Tensor flat_positions(const at::Tensor& index, c10::SymIntArrayRef input_size,
                                 const Windows<c10::SymInt>& w) {
  if (index.scalar_type() == at::kLong) return index;
  const int64_t axes = w.axes();
  const int64_t first = index.dim() - axes;
  at::Tensor tap = index.to(at::kLong), flat = at::zeros_like(tap);
  c10::SymInt stride = 1;
  for (int64_t a = axes - 1; a >= 0; --a) {
    c10::SymDimVector shape(axes, 1);
    shape[a] = index.sym_size(first + a);
    const at::Tensor start =
        (at::arange(c10::Scalar(shape[a]), tap.options()) * c10::Scalar(w.stride[a]) -
         c10::Scalar(w.padding[a]))
            .view_symint(shape);
    const at::Tensor k = tap.remainder(c10::Scalar(w.kernel[a]));
    tap = at::div(tap, c10::Scalar(w.kernel[a]), "floor");
    flat = flat + (start + k * c10::Scalar(w.dilation[a])) * c10::Scalar(stride);
    stride = stride * input_size[first + a];
  }
  return flat;
}

}  // namespace fastconv::depth_max_pool
