// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/squeeze_excite/squeeze_excite_cpu.h"

#define FASTCONV_ISA avx2
#define FASTCONV_ISA_BODY "ops/squeeze_excite/cpu-inl.h"
#include "common/isa_compile.h"
