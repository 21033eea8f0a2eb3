// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Opens the target region of one ISA level; included last, by the per-level files only.
//
// Target pragmas rather than per-file compiler flags: everything included *before* this line keeps
// baseline code, so no inline function of a shared header can be emitted with AVX-512 instructions
// and picked by the linker for the whole library (pytorch#37577 is that bug).
#pragma once

#if !defined(FASTCONV_ISA)
#error "define FASTCONV_ISA to a level of common/isa.h first"
#endif

#include <cstdint>
#include <cstring>

#include "common/isa.h"
#include "common/types.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__clang__)
#if FASTCONV_LEVEL == 1
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#elif FASTCONV_LEVEL == 2
#pragma clang attribute push(                                                    \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), \
    apply_to = function)
#elif FASTCONV_LEVEL == 3
#pragma clang attribute push(                                                               \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), \
    apply_to = function)
#endif
#else
#if FASTCONV_LEVEL == 1
#pragma GCC target("avx2,fma,f16c")
#elif FASTCONV_LEVEL == 2
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#elif FASTCONV_LEVEL == 3
#pragma GCC target( \
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")
#endif
#endif

// GCC 12 warns about its own _mm512_undefined_*() (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
