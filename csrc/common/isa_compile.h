// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Compiles FASTCONV_ISA_BODY, a header of torch-free kernels, for the level FASTCONV_ISA.  What the
// body needs from outside the level is included before this file.
#include "common/isa_region.h"
//
#include FASTCONV_ISA_BODY
//
#include "common/isa_region_end.h"
