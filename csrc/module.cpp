// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The Python module: build facts and the choice of ISA level.  Operators register themselves, in
// their rooms' torch.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "common/isa.h"
#include "ops/causal_conv1d_update/python_torch.h"
#include "ops/depth_max_pool/python_torch.h"
#include "ops/depthwise_conv/python_torch.h"
#include "ops/rearrange/python_torch.h"

namespace {

using fastconv::Isa;

std::vector<std::string> isa_levels() {
  std::vector<std::string> names;
  for (int i = 0; i < fastconv::kIsaCount; ++i) {
    const auto isa = static_cast<Isa>(i);
    if (fastconv::isa_supported(isa)) names.emplace_back(fastconv::isa_name(isa));
  }
  return names;
}

void set_isa(const std::string& name) {
  for (int i = 0; i < fastconv::kIsaCount; ++i) {
    const auto isa = static_cast<Isa>(i);
    if (name == fastconv::isa_name(isa) && fastconv::isa_supported(isa)) {
      fastconv::set_active_isa(isa);
      return;
    }
  }
  throw pybind11::value_error("FASTCONV_ISA: '" + name + "' is not one of this CPU's levels");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "fastconv's compiled operators: torch.ops.fastconv.*";
  m.def("isa_levels", &isa_levels, "ISA levels that this CPU can run, weakest first.");
  m.def(
      "isa", [] { return std::string(fastconv::isa_name(fastconv::active_isa())); },
      "The ISA level in use.");
  m.def("set_isa", &set_isa, pybind11::arg("name"), "Forces an ISA level; for tests.");
  m.def(
      "has_cuda",
      [] {
#if defined(FASTCONV_WITH_CUDA)
        return true;
#else
        return false;
#endif
      },
      "Whether the CUDA kernels were built.");
  // Short ways to operators whose calls take less time than torch.ops spends on arguments.
  PyModule_AddFunctions(m.ptr(), fastconv::causal_conv1d_update::kPythonMethods);
  PyModule_AddFunctions(m.ptr(), fastconv::depth_max_pool::kPythonMethods);
  PyModule_AddFunctions(m.ptr(), fastconv::depthwise_conv::kPythonMethods);
  PyModule_AddFunctions(m.ptr(), fastconv::rearrange::kPythonMethods);
}
