// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// A short way from Python to depth max pooling without indices.
#include "ops/depth_max_pool/python_torch.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/SymIntArrayRef.h>

#include <algorithm>

#include "python_call_torch.h"

namespace fastconv::depth_max_pool {
namespace {

using Numbers = c10::SmallVector<int64_t, 4>;

at::Tensor call_plain(const at::Tensor& input, c10::SymIntArrayRef kernel,
                      c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                      c10::SymIntArrayRef dilation, bool ceil_mode, int64_t tile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastconv::depth_max_pool", "")
                             .typed<decltype(call_plain)>();
  return op.call(input, kernel, stride, padding, dilation, ceil_mode, tile);
}

// One number for each of `dims` dimensions.  A number alone is the channels' where windows are over
// channels only, `rest` then the others'; else it is that of all dimensions.
bool to_windows(PyObject* object, int64_t dims, bool channels_only, int64_t rest,
                Numbers& windows) {
  int64_t value = 0;
  if (channels_only && python::to_int(object, value)) {
    windows.push_back(value);
    windows.append(dims - 1, rest);
    return true;
  }
  if (!python::append_ints(object, dims, windows)) return false;
  if (!channels_only && windows.size() == 1) windows.resize(dims, windows[0]);
  return static_cast<int64_t>(windows.size()) == dims;
}

// (input, kernel_size, stride, padding, dilation, ceil_mode)
PyObject* pool_method(PyObject* /*module*/, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 6 || !python::is_plain(args[0]) || !PyBool_Check(args[5])) Py_RETURN_NONE;
  const at::Tensor& input = THPVariable_Unpack(args[0]);
  const auto sequence = python::Sequence::of(args[1]);
  const bool channels_only = !sequence;
  const int64_t dims = sequence ? sequence->size : std::max<int64_t>(input.dim() - 1, 1);
  Numbers kernel, stride, padding, dilation;
  if (dims < 1 || !to_windows(args[1], dims, channels_only, 1, kernel) ||
      !to_windows(args[3], dims, channels_only, 0, padding) ||
      !to_windows(args[4], dims, channels_only, 1, dilation)) {
    Py_RETURN_NONE;
  }
  if (args[2] == Py_None) {
    stride = kernel;
  } else if (!to_windows(args[2], dims, channels_only, 1, stride)) {
    Py_RETURN_NONE;
  }
  at::Tensor output;
  {
    const pybind11::gil_scoped_release no_gil;
    output = call_plain(input, c10::fromIntArrayRefSlow(kernel), c10::fromIntArrayRefSlow(stride),
                        c10::fromIntArrayRefSlow(padding), c10::fromIntArrayRefSlow(dilation),
                        args[5] == Py_True, /*tile=*/-1);
  }
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

}  // namespace

PyMethodDef kPythonMethods[] = {
    {"depth_max_pool", python::as_method(pool_method), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace fastconv::depth_max_pool
