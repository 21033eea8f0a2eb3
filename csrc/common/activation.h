// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What may be applied to the result of a convolution:
//   relu       max(z, 0)
//   relu6      min(max(z, 0), 6)
//   hardswish  z * relu6(z + 3) / 6
//   silu       z / (1 + e^-z)
//   gelu       z * P(N <= z), N a standard normal variable
#pragma once

#include <cstdint>

namespace fastconv {

enum class Activation : uint8_t { kNone, kRelu, kRelu6, kHardswish, kSilu, kGelu };

}  // namespace fastconv
