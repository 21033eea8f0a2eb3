// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Short ways from Python to the rearrangements.
#include "ops/rearrange/python_torch.h"

#include "ops/rearrange/autograd_torch.h"
#include "python_call_torch.h"

namespace fastconv::rearrange {
namespace {

using python::as_method;
using python::is_plain;

// (input, block, order), or (input, block) for pixel_shuffle and its inverse: two axes, 'crd'.
template <bool kToDepth>
PyObject* block_method(PyObject* /*module*/, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Numbers block;
  std::string_view order = "crd";
  if ((count != 2 && count != 3) || !is_plain(args[0])) Py_RETURN_NONE;
  const at::Tensor& input = THPVariable_Unpack(args[0]);
  int64_t spatial = 2;
  if (count == 3) {
    const auto text = python::to_text(args[2]);
    if (!text) Py_RETURN_NONE;
    order = *text;
    spatial = std::min<int64_t>(std::max<int64_t>(input.dim() - 2, 1), 3);
  }
  if (!python::append_ints(args[1], spatial, block)) Py_RETURN_NONE;
  if (count == 2 && block.size() != 2) Py_RETURN_NONE;
  at::Tensor output;
  {
    const pybind11::gil_scoped_release no_gil;
    output = call_block<kToDepth>(input, block, order, /*tile=*/-1);
  }
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

PyObject* shuffle_method(PyObject* /*module*/, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  int64_t groups = 0;
  if (count != 2 || !is_plain(args[0]) || !python::to_int(args[1], groups)) Py_RETURN_NONE;
  const at::Tensor& input = THPVariable_Unpack(args[0]);
  at::Tensor output;
  {
    const pybind11::gil_scoped_release no_gil;
    output = call_shuffle(input, groups, /*tile=*/-1);
  }
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

}  // namespace

PyMethodDef kPythonMethods[] = {
    {"space_to_depth", as_method(block_method<true>), METH_FASTCALL, nullptr},
    {"depth_to_space", as_method(block_method<false>), METH_FASTCALL, nullptr},
    {"channel_shuffle", as_method(shuffle_method), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fastconv::rearrange
