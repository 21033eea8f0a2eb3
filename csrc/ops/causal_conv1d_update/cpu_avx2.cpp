// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/causal_conv1d_update/causal_conv1d_update_cpu.h"

#define FASTCONV_ISA avx2
#define FASTCONV_ISA_BODY "ops/causal_conv1d_update/cpu-inl.h"
#include "common/isa_compile.h"
