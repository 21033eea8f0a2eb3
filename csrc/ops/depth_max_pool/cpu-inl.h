// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernels of one ISA level.
#pragma once

#include "ops/depth_max_pool/cpu_expand-inl.h"
#include "ops/depth_max_pool/cpu_gather-inl.h"
#include "ops/depth_max_pool/cpu_scatter-inl.h"
#include "ops/depth_max_pool/cpu_stages-inl.h"
