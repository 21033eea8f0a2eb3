// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "common/isa.h"

#include <cstdlib>
#include <cstring>

namespace fastconv {
namespace {

constexpr const char* kNames[] = {
#define FASTCONV_ISA_NAME(name) #name,
    FASTCONV_FOREACH_ISA(FASTCONV_ISA_NAME)
#undef FASTCONV_ISA_NAME
};

Isa best_isa() {
  int best = 0;
  for (int i = 0; i < kIsaCount; ++i) {
    if (isa_supported(static_cast<Isa>(i))) best = i;
  }
  return static_cast<Isa>(best);
}

// An unknown or unsupported name falls back to the best level; the import warns about it.
Isa initial_isa() {
  const char* wanted = std::getenv("FASTCONV_ISA");
  if (wanted != nullptr) {
    for (int i = 0; i < kIsaCount; ++i) {
      if (std::strcmp(wanted, kNames[i]) == 0 && isa_supported(static_cast<Isa>(i))) {
        return static_cast<Isa>(i);
      }
    }
  }
  return best_isa();
}

Isa& current() {
  static Isa isa = initial_isa();
  return isa;
}

}  // namespace

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

bool isa_supported(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::avx512_bf16:
      return __builtin_cpu_supports("avx512bf16") && isa_supported(Isa::avx512);
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             isa_supported(Isa::avx2);
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    default:
      return true;
  }
#else
  return isa == Isa::baseline;
#endif
}

Isa active_isa() { return current(); }
void set_active_isa(Isa isa) { current() = isa; }

}  // namespace fastconv
