// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Compiles FASTCONV_ISA_BODY, a header of torch-free kernels, for the level FASTCONV_ISA; nothing
// where the processor family does not have that level.  What the body needs from outside the level
// is included before this file.
#pragma once

#define FASTCONV_LEVEL_baseline 0
#define FASTCONV_LEVEL_avx2 1
#define FASTCONV_LEVEL_avx512 2
#define FASTCONV_LEVEL_avx512_bf16 3
#define FASTCONV_CAT_(a, b) a##b
#define FASTCONV_CAT(a, b) FASTCONV_CAT_(a, b)
#define FASTCONV_LEVEL FASTCONV_CAT(FASTCONV_LEVEL_, FASTCONV_ISA)

#if defined(__x86_64__) || FASTCONV_LEVEL == 0
#include "common/isa_region.h"
//
#include FASTCONV_ISA_BODY
//
#include "common/isa_region_end.h"
#endif
