// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Short ways from Python to operators.  `torch.ops` matches every argument with a schema and boxes
// it, which takes one to three microseconds: more than everything else that a call on a small
// tensor costs.  A short way takes plain calls only, of exact tensors, ints and strings, and gives
// None for anything else; the caller then asks torch.ops, which knows what to do or to raise.
#pragma once

#include <torch/csrc/python_headers.h>

#include <ATen/PythonTorchFunctionTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/utils/pybind.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace fastconv::python {

// Neither a mode nor torch.jit.trace has a say in the call.  Everything below Python, such as
// torch.func, autocast and fake tensors' modes, is the dispatcher's business.
inline bool calls_are_plain() {
  return !at::impl::torch_function_mode_enabled() && !torch::jit::tracer::isTracing();
}
// Nor does a subclass.
inline bool is_plain(PyObject* object) {
  return THPVariable_CheckExact(object) && calls_are_plain();
}

// An int that a SymInt can hold.
inline bool to_int(PyObject* object, int64_t& value) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0 && c10::SymInt::check_range(value);
}

// The elements of a list or tuple.
struct Sequence {
  PyObject* object;
  bool is_list;
  Py_ssize_t size;

  static std::optional<Sequence> of(PyObject* object) {
    if (PyList_CheckExact(object)) return Sequence{object, true, PyList_GET_SIZE(object)};
    if (PyTuple_CheckExact(object)) return Sequence{object, false, PyTuple_GET_SIZE(object)};
    return std::nullopt;
  }
  PyObject* operator[](Py_ssize_t i) const {
    return is_list ? PyList_GET_ITEM(object, i) : PyTuple_GET_ITEM(object, i);
  }
};

// Appends one number `count` times, or those of a list or tuple.  False for anything else.
template <class Numbers>
bool append_ints(PyObject* object, int64_t count, Numbers& numbers) {
  int64_t value = 0;
  if (to_int(object, value)) {
    for (int64_t i = 0; i < count; ++i) numbers.push_back(value);
    return true;
  }
  const auto sequence = Sequence::of(object);
  if (!sequence) return false;
  for (Py_ssize_t i = 0; i < sequence->size; ++i) {
    if (!to_int((*sequence)[i], value)) return false;
    numbers.push_back(value);
  }
  return true;
}

// The text of a string, which lives as long as that; nothing for another object.
inline std::optional<std::string_view> to_text(PyObject* object) {
  if (!PyUnicode_CheckExact(object)) return std::nullopt;
  Py_ssize_t length = 0;
  const char* const text = PyUnicode_AsUTF8AndSize(object, &length);
  if (text == nullptr) {  // no UTF-8 says that
    PyErr_Clear();
    return std::nullopt;
  }
  return std::string_view(text, static_cast<size_t>(length));
}

template <class Method>
constexpr PyCFunction as_method(Method* method) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(method));
}

}  // namespace fastconv::python
