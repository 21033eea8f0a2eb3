// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// How the CPU kernel shares out its work: a task is `kChannels` channels of one sequence.
#pragma once

#include "common/isa.h"
#include "ops/causal_conv1d_update/causal_conv1d_update.h"

namespace fastconv::causal_conv1d_update {

constexpr int64_t kChannels = 64;

constexpr int64_t tasks_of(const Params& p) { return p.batch * ceil_div(p.channels, kChannels); }

FASTCONV_DECLARE_ISA(void, run, const Params& p, int64_t begin, int64_t end)

}  // namespace fastconv::causal_conv1d_update
