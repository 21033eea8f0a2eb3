// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/cpu.h"

#define FASTCONV_ISA avx512_bf16
#define FASTCONV_ISA_BODY "ops/depthwise_conv/cpu-inl.h"
#include "common/isa_compile.h"
