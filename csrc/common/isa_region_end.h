// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Closes what isa_region.h opened.  GCC's pragma ends with the file; Clang's must be popped.
#if defined(__clang__) && FASTCONV_LEVEL > 0
#pragma clang attribute pop
#endif
