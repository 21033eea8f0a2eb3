// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depth_max_pool/depth_max_pool_cpu.h"

#define FASTCONV_ISA avx2
#define FASTCONV_ISA_BODY "ops/depth_max_pool/cpu-inl.h"
#include "common/isa_compile.h"
