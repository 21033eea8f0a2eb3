// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/csrc/python_headers.h>

namespace fastconv::depth_max_pool {

extern PyMethodDef kPythonMethods[];

}  // namespace fastconv::depth_max_pool
