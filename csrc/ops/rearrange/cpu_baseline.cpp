// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/rearrange/plan.h"

#define FASTCONV_ISA baseline
// clang-format off: the order matters
#include "common/isa_region.h"
#include "ops/rearrange/cpu-inl.h"
#include "common/isa_region_end.h"
// clang-format on
