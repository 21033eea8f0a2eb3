// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// A short way from Python to a decoding step.
#include "ops/causal_conv1d_update/python_torch.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/SymInt.h>

#include "python_call_torch.h"

namespace fastconv::causal_conv1d_update {
namespace {

at::Tensor call_step(const at::Tensor& x, at::Tensor& state, const at::Tensor& weight,
                     const std::optional<at::Tensor>& bias,
                     std::optional<std::string_view> activation, c10::SymInt dilation) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::causal_conv1d_update", "")
                             .typed<decltype(call_step)>();
  return op.call(x, state, weight, bias, activation, std::move(dilation));
}

// (x, conv_state, weight, bias, activation, dilation)
PyObject* update_method(PyObject* /*module*/, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  int64_t dilation = 0;
  if (count != 6 || !python::calls_are_plain() || !THPVariable_CheckExact(args[0]) ||
      !THPVariable_CheckExact(args[1]) || !THPVariable_CheckExact(args[2]) ||
      !(args[3] == Py_None || THPVariable_CheckExact(args[3])) ||
      !python::to_int(args[5], dilation)) {
    Py_RETURN_NONE;
  }
  const auto activation = python::to_text(args[4]);
  if (!activation && args[4] != Py_None) Py_RETURN_NONE;
  at::Tensor state = THPVariable_Unpack(args[1]), output;
  std::optional<at::Tensor> bias;
  if (args[3] != Py_None) bias = THPVariable_Unpack(args[3]);
  {
    const pybind11::gil_scoped_release no_gil;
    output = call_step(THPVariable_Unpack(args[0]), state, THPVariable_Unpack(args[2]), bias,
                       activation, dilation);
  }
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

}  // namespace

PyMethodDef kPythonMethods[] = {
    {"causal_conv1d_update", python::as_method(update_method), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fastconv::causal_conv1d_update
