// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernels of one ISA level: included once per level, between isa_region.h and its end.
#include "ops/depthwise_conv/cpu_channels-inl.h"
#include "ops/depthwise_conv/cpu_channels_driver-inl.h"
#include "ops/depthwise_conv/cpu_channels_weight-inl.h"
#include "ops/depthwise_conv/cpu_rows-inl.h"
#include "ops/depthwise_conv/cpu_rows_driver-inl.h"
#include "ops/depthwise_conv/cpu_rows_weight-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// Calls f(T{}) for the dtype's storage type.
template <class F>
auto with_dtype(Dtype dtype, const F& f) {
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

int64_t channels_scratch(const Correlation& p) {
  return with_dtype(p.dtype, [&](auto t) { return ChannelScratch<decltype(t)>::bytes(p); });
}
void channels_run(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  with_dtype(p.dtype, [&](auto t) { channels_tasks<decltype(t)>(p, begin, end, scratch); });
}
int64_t rows_scratch(const Correlation& p) {
  return with_dtype(p.dtype, [&](auto t) {
    using T = decltype(t);
    return RowsScratch<T>().carve(p, rows_layout<Accum<T>>(p), nullptr);
  });
}
void rows_run(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  with_dtype(p.dtype, [&](auto t) { rows_tasks<decltype(t)>(p, begin, end, scratch); });
}
int64_t channels_weight_scratch(const WeightPlan& p) {
  return with_dtype(p.dtype, [&](auto t) { return channels_weight_scratch_of<decltype(t)>(p); });
}
void channels_weight_run(const WeightPlan& p, int64_t begin, int64_t end, void* scratch) {
  with_dtype(p.dtype, [&](auto t) { channels_weight_tasks<decltype(t)>(p, begin, end, scratch); });
}
int64_t rows_weight_scratch(const WeightPlan& p) {
  return with_dtype(p.dtype, [&](auto t) { return RowsWeightTask<decltype(t)>::scratch_bytes(p); });
}
void rows_weight_run(const WeightPlan& p, int64_t begin, int64_t end, void* scratch) {
  with_dtype(p.dtype, [&](auto t) { rows_weight_tasks<decltype(t)>(p, begin, end, scratch); });
}
void reduce_weight(const WeightPlan& p, int64_t begin, int64_t end) {
  with_dtype(p.dtype, [&](auto t) { reduce_weight_of<decltype(t)>(p, begin, end); });
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
