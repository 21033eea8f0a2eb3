// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/rearrange/plan.h"

#define FASTCONV_ISA avx2
#define FASTCONV_ISA_BODY "ops/rearrange/cpu-inl.h"
#include "common/isa_compile.h"
