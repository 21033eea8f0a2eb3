// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depthwise_conv/cpu.h"

#define FASTCONV_ISA avx512
#include "common/isa_region.h"
#include "common/isa_region_end.h"
#include "common/simd-inl.h"
#include "ops/depthwise_conv/cpu-inl.h"
