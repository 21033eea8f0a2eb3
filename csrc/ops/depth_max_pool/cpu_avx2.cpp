// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/depth_max_pool/depth_max_pool_cpu.h"

// clang-format off: the order of these matters
#define FASTCONV_ISA avx2
#include "common/isa_region.h"
#include "common/simd-inl.h"
#include "ops/depth_max_pool/cpu_simd-inl.h"
#include "ops/depth_max_pool/cpu_loader-inl.h"
#include "ops/depth_max_pool/cpu_taps-inl.h"
#include "ops/depth_max_pool/cpu_forward-inl.h"
#include "ops/depth_max_pool/cpu_expand-inl.h"
#include "ops/depth_max_pool/cpu_gather-inl.h"
#include "ops/depth_max_pool/cpu_scatter-inl.h"
#include "common/isa_region_end.h"
