// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/rearrange/plan.h"

#if defined(__x86_64__)
#define FASTCONV_ISA avx2
#include "common/isa_region.h"
#include "ops/rearrange/vec16-inl.h"
#include "ops/rearrange/cpu-inl.h"
#include "common/isa_region_end.h"
#endif
