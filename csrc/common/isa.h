// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The instruction-set levels of the CPU kernels and the choice among them.
//
// Each room compiles its `cpu-inl.h` once per level, through one tiny file per level
// (`cpu_baseline.cpp`, `cpu_avx2.cpp`, ...) that defines FASTCONV_ISA and includes
// `common/isa_region.h`.  The level is chosen once, at import, and read through `active_isa()`.
#pragma once

#include <cstdint>

namespace fastconv {

// X-macros over the levels, weakest first: X(name, ...).  The common levels have code in every
// room; the last ones only where they gain something, and elsewhere the level below serves.
#if defined(__x86_64__)
#define FASTCONV_FOREACH_COMMON_ISA(X, ...) \
  X(baseline __VA_OPT__(, ) __VA_ARGS__)    \
  X(avx2 __VA_OPT__(, ) __VA_ARGS__)        \
  X(avx512 __VA_OPT__(, ) __VA_ARGS__)
#define FASTCONV_FOREACH_ISA(X, ...)                        \
  FASTCONV_FOREACH_COMMON_ISA(X __VA_OPT__(, ) __VA_ARGS__) \
  X(avx512_bf16 __VA_OPT__(, ) __VA_ARGS__)
#else
#define FASTCONV_FOREACH_COMMON_ISA(X, ...) X(baseline __VA_OPT__(, ) __VA_ARGS__)
#define FASTCONV_FOREACH_ISA FASTCONV_FOREACH_COMMON_ISA
#endif

enum class Isa : uint8_t {
#define FASTCONV_ISA_ENUM(name) name,
  FASTCONV_FOREACH_ISA(FASTCONV_ISA_ENUM)
#undef FASTCONV_ISA_ENUM
      kCount
};

// Whether vectors have 32 registers, masks and shifts across all lanes, for what is written for
// them.
constexpr bool is_wide(Isa isa) {
#if defined(__x86_64__)
  return isa >= Isa::avx512;
#else
  static_cast<void>(isa);
  return false;
#endif
}

// Whether one instruction multiplies pairs of bf16 numbers.
constexpr bool multiplies_pairs(Isa isa) {
#if defined(__x86_64__)
  return isa >= Isa::avx512_bf16;
#else
  static_cast<void>(isa);
  return false;
#endif
}

constexpr int kIsaCount = static_cast<int>(Isa::kCount);

const char* isa_name(Isa isa);
bool isa_supported(Isa isa);   // by the CPU that runs this
Isa active_isa();              // the best supported level, or the one FASTCONV_ISA names
void set_active_isa(Isa isa);  // for tests; not thread-safe against running kernels

// A function pointer per level; the initialiser comes from FASTCONV_ISA_TABLE.  Levels without
// code of their own have none.
template <class Fn>
struct IsaTable {
  Fn entry[kIsaCount];
  Fn get() const {
    int level = static_cast<int>(active_isa());
    while (entry[level] == nullptr) --level;
    return entry[level];
  }
};

// Declares a function in the namespace of each common level, or of every level:
// FASTCONV_DECLARE_ISA(void, run, const Params&).
#define FASTCONV_DECLARE_ISA(ret, name, ...) \
  FASTCONV_FOREACH_COMMON_ISA(FASTCONV_DECLARE_ISA_ONE, ret, name, __VA_ARGS__)
#define FASTCONV_DECLARE_EVERY_ISA(ret, name, ...) \
  FASTCONV_FOREACH_ISA(FASTCONV_DECLARE_ISA_ONE, ret, name, __VA_ARGS__)
#define FASTCONV_DECLARE_ISA_ONE(isa, ret, name, ...) \
  namespace isa {                                     \
  ret name(__VA_ARGS__);                              \
  }

// The table of such a function: `constexpr auto kRun = FASTCONV_ISA_TABLE(run);  kRun.get()(p)`.
#define FASTCONV_ISA_TABLE(name)                            \
  ::fastconv::IsaTable<decltype(&baseline::name)> {         \
    {                                                       \
      FASTCONV_FOREACH_COMMON_ISA(FASTCONV_ISA_ENTRY, name) \
    }                                                       \
  }
#define FASTCONV_EVERY_ISA_TABLE(name)               \
  ::fastconv::IsaTable<decltype(&baseline::name)> {  \
    {                                                \
      FASTCONV_FOREACH_ISA(FASTCONV_ISA_ENTRY, name) \
    }                                                \
  }
#define FASTCONV_ISA_ENTRY(isa, name) &isa::name,

}  // namespace fastconv
