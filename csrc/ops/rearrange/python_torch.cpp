// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The rearrangements as functions of the Python module.  `torch.ops` matches every argument with a
// schema and boxes it, which takes one to two microseconds: more than everything else that a call
// on a small tensor costs.  These take plain calls only, of exact tensors and ints, and give None
// for anything else; the caller then asks torch.ops, which knows what to do or to raise.
#include "ops/rearrange/python_torch.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/utils/pybind.h>

#include "ops/rearrange/autograd_torch.h"

namespace fastconv::rearrange {
namespace {

// Neither a subclass nor a mode nor torch.jit.trace has a say in the call.  Everything below
// Python, such as torch.func, autocast and fake tensors' modes, is the dispatcher's business.
bool is_plain(PyObject* object) {
  return THPVariable_CheckExact(object) && !at::impl::torch_function_mode_enabled() &&
         !torch::jit::tracer::isTracing();
}

bool to_int(PyObject* object, int64_t& value) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0;
}

// One number for each of the `spatial` axes, a list or tuple of numbers, or neither.
bool to_block(PyObject* object, int64_t spatial, Numbers& block) {
  int64_t value = 0;
  if (to_int(object, value)) {
    block.assign(spatial, value);
    return true;
  }
  const bool is_list = PyList_CheckExact(object);
  if (!is_list && !PyTuple_CheckExact(object)) return false;
  const Py_ssize_t count = is_list ? PyList_GET_SIZE(object) : PyTuple_GET_SIZE(object);
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!to_int(is_list ? PyList_GET_ITEM(object, i) : PyTuple_GET_ITEM(object, i), value)) {
      return false;
    }
    block.push_back(value);
  }
  return true;
}

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
    if (!PyUnicode_CheckExact(args[2])) Py_RETURN_NONE;
    Py_ssize_t length = 0;
    const char* const text = PyUnicode_AsUTF8AndSize(args[2], &length);
    if (text == nullptr) return nullptr;
    order = {text, static_cast<size_t>(length)};
    spatial = std::min<int64_t>(std::max<int64_t>(input.dim() - 2, 1), 3);
  }
  if (!to_block(args[1], spatial, block)) Py_RETURN_NONE;
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
  if (count != 2 || !is_plain(args[0]) || !to_int(args[1], groups)) Py_RETURN_NONE;
  const at::Tensor& input = THPVariable_Unpack(args[0]);
  at::Tensor output;
  {
    const pybind11::gil_scoped_release no_gil;
    output = call_shuffle(input, groups, /*tile=*/-1);
  }
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

template <class Method>
constexpr PyCFunction as_method(Method* method) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(method));
}

}  // namespace

PyMethodDef kPythonMethods[] = {
    {"space_to_depth", as_method(block_method<true>), METH_FASTCALL, nullptr},
    {"depth_to_space", as_method(block_method<false>), METH_FASTCALL, nullptr},
    {"channel_shuffle", as_method(shuffle_method), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fastconv::rearrange
