// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/csrc/python_headers.h>

namespace fastconv::causal_conv1d_update {

extern PyMethodDef kPythonMethods[];

}  // namespace fastconv::causal_conv1d_update
