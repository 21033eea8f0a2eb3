// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Short ways from Python to depthwise convolution and its transpose.
#include "ops/depthwise_conv/python_torch.h"

#include <algorithm>
#include <array>

#include "activations_torch.h"
#include "ops/depthwise_conv/calls_torch.h"
#include "ops/depthwise_conv/depthwise_conv.h"
#include "python_call_torch.h"

namespace fastconv::depthwise_conv {
namespace {

using PerAxis = c10::SmallVector<int64_t, kSpatial>;
using Pads = c10::SmallVector<int64_t, 2 * kSpatial>;  // (begin, end) of each axis

// Numbers below it can be added and multiplied without a thought; with others there is an error.
constexpr int64_t kUsual = int64_t{1} << 31;
bool all_usual(c10::ArrayRef<int64_t> numbers) {
  return std::all_of(numbers.begin(), numbers.end(),
                     [](int64_t n) { return 0 <= n && n < kUsual; });
}

// One number, or one for each of the `nd` axes.
bool to_axes(PyObject* object, int64_t nd, PerAxis& axes) {
  if (!python::append_ints(object, nd, axes)) return false;
  if (axes.size() == 1) axes.resize(nd, axes[0]);
  return static_cast<int64_t>(axes.size()) == nd && all_usual(axes);
}

bool to_named_pads(std::string_view name, const at::Tensor& input, const at::Tensor& weight,
                   const PerAxis& stride, const PerAxis& dilation, Pads& pads) {
  const int64_t nd = static_cast<int64_t>(stride.size());
  for (int64_t i = 0; i < nd; ++i) {
    const int64_t kernel = weight.size(i + 2), total = dilation[i] * (kernel - 1);
    const int64_t size = input.size(i - nd);
    if (kernel < 1 || kernel >= kUsual || stride[i] < 1 || size < 1) return false;
    if (name == "valid") {
      pads.append({0, 0});
    } else if (name == "causal" && nd == 1) {
      pads.append({total, 0});
    } else if (name == "same") {
      // TensorFlow's rule, which at stride 1 is torch's: _arguments.py.
      const int64_t needed = max_of(total - (size - 1) % stride[i], 0);
      pads.append({needed / 2, needed - needed / 2});
    } else {
      return false;
    }
  }
  return true;
}

bool to_pads(PyObject* object, const at::Tensor& input, const at::Tensor& weight,
             const PerAxis& stride, const PerAxis& dilation, Pads& pads) {
  const int64_t nd = static_cast<int64_t>(stride.size());
  if (const auto name = python::to_text(object)) {
    return to_named_pads(*name, input, weight, stride, dilation, pads);
  }
  const auto sequence = python::Sequence::of(object);
  if (sequence && sequence->size == nd && python::Sequence::of((*sequence)[0])) {
    for (int64_t i = 0; i < nd; ++i) {
      const auto pair = python::Sequence::of((*sequence)[i]);
      if (!pair || pair->size != 2 || !python::append_ints((*sequence)[i], 0, pads)) return false;
    }
    return true;
  }
  PerAxis both;
  if (!to_axes(object, nd, both)) return false;
  for (const int64_t pad : both) pads.append({pad, pad});
  return true;
}

// What both begin with: (dimensions, input, weight, bias, ...).
struct Operands {
  int64_t nd = 0;
  at::Tensor input, weight;
  OptionalTensor bias;

  bool take(PyObject* const* args) {
    if (!python::to_int(args[0], nd) || nd < 1 || nd > kSpatial || !python::calls_are_plain() ||
        !THPVariable_CheckExact(args[1]) || !THPVariable_CheckExact(args[2]) ||
        !(args[3] == Py_None || THPVariable_CheckExact(args[3]))) {
      return false;
    }
    input = THPVariable_Unpack(args[1]);
    weight = THPVariable_Unpack(args[2]);
    if (args[3] != Py_None) bias = THPVariable_Unpack(args[3]);
    return weight.dim() == nd + 2 && input.dim() >= nd;
  }
};

// (..., stride, padding, dilation, activation)
PyObject* conv_method(PyObject* /*module*/, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Operands o;
  PerAxis stride, dilation;
  Pads pads;
  if (count != 8 || !o.take(args) || !to_axes(args[4], o.nd, stride) ||
      !to_axes(args[6], o.nd, dilation) ||
      !to_pads(args[5], o.input, o.weight, stride, dilation, pads)) {
    Py_RETURN_NONE;
  }
  const auto activation = python::to_text(args[7]);
  const bool known = activation && activation_named(*activation) != Activation::kNone;
  if (!known && args[7] != Py_None) Py_RETURN_NONE;
  at::Tensor output;
  {
    const pybind11::gil_scoped_release no_gil;
    const auto s = c10::fromIntArrayRefSlow(stride), p = c10::fromIntArrayRefSlow(pads),
               d = c10::fromIntArrayRefSlow(dilation);
    output = known ? call_conv_act(o.input, o.weight, o.bias, s, p, d, *activation, /*tile=*/-1)
                   : call_conv(o.input, o.weight, o.bias, s, p, d, /*tile=*/-1);
  }
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

// (..., stride, padding, output_padding, dilation)
PyObject* transpose_method(PyObject* /*module*/, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Operands o;
  PerAxis lists[4];
  if (count != 8 || !o.take(args)) Py_RETURN_NONE;
  for (int i = 0; i < 4; ++i) {
    if (!to_axes(args[4 + i], o.nd, lists[i])) Py_RETURN_NONE;
  }
  at::Tensor output;
  {
    const pybind11::gil_scoped_release no_gil;
    const auto [s, p, more, d] = std::array{
        c10::fromIntArrayRefSlow(lists[0]), c10::fromIntArrayRefSlow(lists[1]),
        c10::fromIntArrayRefSlow(lists[2]), c10::fromIntArrayRefSlow(lists[3])};
    output = call_conv_transpose(o.input, o.weight, o.bias, s, p, more, d, /*tile=*/-1);
  }
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

}  // namespace

PyMethodDef kPythonMethods[] = {
    {"depthwise_conv", python::as_method(conv_method), METH_FASTCALL, nullptr},
    {"depthwise_conv_transpose", python::as_method(transpose_method), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fastconv::depthwise_conv
