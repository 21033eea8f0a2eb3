// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/csrc/python_headers.h>

namespace fastconv::depthwise_conv {

extern PyMethodDef kPythonMethods[];

}  // namespace fastconv::depthwise_conv
