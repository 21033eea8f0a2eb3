// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/rearrange/plan.h"

#if defined(__x86_64__)
#define FASTCONV_ISA avx2
// clang-format off: the order matters
#include "common/isa_region.h"
#include "ops/rearrange/cpu-inl.h"
#include "common/isa_region_end.h"
// clang-format on
#endif
