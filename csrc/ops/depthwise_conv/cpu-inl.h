// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernels of one ISA level: included once per level, between isa_region.h and its end.
#include "ops/depthwise_conv/cpu_blocked-inl.h"
#include "ops/depthwise_conv/cpu_channels_driver-inl.h"
#include "ops/depthwise_conv/cpu_channels_weight-inl.h"
#include "ops/depthwise_conv/cpu_direct_driver-inl.h"
#include "ops/depthwise_conv/cpu_flat-inl.h"
#include "ops/depthwise_conv/cpu_packed-inl.h"
#include "ops/depthwise_conv/cpu_pairs-inl.h"
#include "ops/depthwise_conv/cpu_rolling_driver-inl.h"
#include "ops/depthwise_conv/cpu_rolling_weight-inl.h"
#include "ops/depthwise_conv/cpu_rows_driver-inl.h"
#include "ops/depthwise_conv/cpu_rows_weight-inl.h"
#include "ops/depthwise_conv/cpu_scale-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// bf16 instructions serve bf16; the level below does the rest.
#if FASTCONV_LEVEL >= 3
#define FASTCONV_ONLY_BF16(dtype, below) \
  if ((dtype) != Dtype::kBFloat16) return avx512::below
#else
#define FASTCONV_ONLY_BF16(dtype, below) static_cast<void>(0)
#endif

// Calls f(T{}) for the dtype's storage type.
template <class F>
auto with_dtype(Dtype dtype, const F& f) {
#if FASTCONV_LEVEL >= 3
  return f(bf16{});
#endif
  switch (dtype) {
    case Dtype::kFloat64:
      return f(double{});
    case Dtype::kFloat16:
      return f(f16{});
    case Dtype::kBFloat16:
      return f(bf16{});
    default:
      return f(float{});
  }
}

int64_t correlation_scratch(const Correlation& p) {
  FASTCONV_ONLY_BF16(p.dtype, correlation_scratch(p));
#if FASTCONV_LEVEL >= 3
  if (p.pairs) return PairScratch().carve(p, nullptr);
#endif
  return with_dtype(p.dtype, [&](auto t) -> int64_t {
    using T = decltype(t);
    if (p.engine == Engine::kChannels) return ChannelScratch<T>::bytes(p);
    if (p.engine == Engine::kFlat) return FlatScratch<T>().carve(p, nullptr);
    if (p.engine == Engine::kPacked) return PackedScratch<T>().carve(p, nullptr);
    if (p.engine == Engine::kScale) return 0;
    if (p.engine == Engine::kBlocked) return blocked_scratch_of<T>(p);
#if FASTCONV_LEVEL >= 1
    if (p.engine == Engine::kDirect) return DirectScratch<T>().carve(p, nullptr);
    if (p.engine == Engine::kRolling) return RollingScratch<T>().carve(p, nullptr);
#endif
    return RowsScratch<T>().carve(p, rows_layout<Accum<T>>(p), nullptr);
  });
}
void correlation_run(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  FASTCONV_ONLY_BF16(p.dtype, correlation_run(p, begin, end, scratch));
#if FASTCONV_LEVEL >= 3
  if (p.pairs) return pair_tasks(p, begin, end, scratch);
#endif
  with_dtype(p.dtype, [&](auto t) {
    using T = decltype(t);
    if (p.engine == Engine::kChannels) return channels_tasks<T>(p, begin, end, scratch);
    if (p.engine == Engine::kFlat) return flat_tasks<T>(p, begin, end, scratch);
    if (p.engine == Engine::kPacked) return packed_tasks<T>(p, begin, end, scratch);
    if (p.engine == Engine::kScale) return scale_tasks<T>(p, begin, end);
    if (p.engine == Engine::kBlocked) return blocked_tasks<T>(p, begin, end, scratch);
#if FASTCONV_LEVEL >= 1
    if (p.engine == Engine::kDirect) return direct_tasks<T>(p, begin, end, scratch);
    if constexpr (kRolls<T>) {
      if (p.engine == Engine::kRolling) return rolling_tasks<T>(p, begin, end, scratch);
    }
#endif
    rows_tasks<T>(p, begin, end, scratch);
  });
}
int64_t weight_scratch(const WeightPlan& p) {
  FASTCONV_ONLY_BF16(p.dtype, weight_scratch(p));
  return with_dtype(p.dtype, [&](auto t) -> int64_t {
    using T = decltype(t);
    if (p.engine == Engine::kChannels) return channels_weight_scratch_of<T>(p);
    if (p.engine == Engine::kBlocked) return blocked_weight_scratch_of<T>(p);
    if (kRolls<T> && p.engine == Engine::kRolling) return p.columns() * kVectorBytes;
    return RowsWeightTask<T>::scratch_bytes(p);
  });
}
void weight_run(const WeightPlan& p, int64_t begin, int64_t end, void* scratch) {
  FASTCONV_ONLY_BF16(p.dtype, weight_run(p, begin, end, scratch));
  with_dtype(p.dtype, [&](auto t) {
    using T = decltype(t);
    if (p.engine == Engine::kChannels) return channels_weight_tasks<T>(p, begin, end, scratch);
    if (p.engine == Engine::kBlocked) return blocked_weight_tasks<T>(p, begin, end, scratch);
#if FASTCONV_LEVEL >= 1
    if constexpr (kRolls<T>) {
      if (p.engine == Engine::kRolling) return rolling_weight_tasks<T>(p, begin, end, scratch);
    }
#endif
    rows_weight_tasks<T>(p, begin, end, scratch);
  });
}
void pointwise_run(const Pointwise& p, int64_t begin, int64_t end) {
  FASTCONV_ONLY_BF16(p.dtype, pointwise_run(p, begin, end));
  with_dtype(p.dtype, [&](auto t) { pointwise<decltype(t)>(p, begin, end); });
}
void reduce_weight(const WeightPlan& p, int64_t begin, int64_t end) {
#if FASTCONV_LEVEL >= 3
  // Gradients of weights may be subnormal, which this level's instruction takes for zeros.
  avx512::reduce_weight(p, begin, end);
#else
  with_dtype(p.dtype, [&](auto t) { reduce_weight_of<decltype(t)>(p, begin, end); });
#endif
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
