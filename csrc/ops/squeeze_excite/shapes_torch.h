// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Squeeze and excitation: argument checks and layouts, on sizes that may be symbolic.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/SymIntArrayRef.h>

#include "ops/squeeze_excite/squeeze_excite.h"
#include "torch_utils.h"

namespace fastconv::squeeze_excite {

// The operators.
inline constexpr const char* kPool = "global_avg_pool";
inline constexpr const char* kPoolBackward = "_global_avg_pool_backward";
inline constexpr const char* kGate = "sigmoid_gate";
inline constexpr const char* kGateBackward = "_sigmoid_gate_backward";

inline void check_input(const char* name, const at::Tensor& input) {
  TORCH_CHECK_NOT_IMPLEMENTED(is_arithmetic_dtype(input.scalar_type()), "\"", name,
                              "\" not implemented for '", input.scalar_type(),
                              "': expected input of dtype float32, float64, float16 or bfloat16");
  TORCH_CHECK(input.dim() >= 3 && input.dim() <= 5, name,
              ": expected input of size (N, C, *spatial) with 1 to 3 spatial dimensions, but got "
              "input of size ",
              input.sym_sizes());
}

inline void check_same(const char* name, const at::Tensor& input, const at::Tensor& t,
                       const char* argument) {
  TORCH_CHECK(t.scalar_type() == input.scalar_type(), name, ": input (", input.scalar_type(),
              ") and ", argument, " (", t.scalar_type(), ") should have the same dtype");
  TORCH_CHECK(t.device() == input.device(), name,
              ": expected all tensors to be on the same device, but input is on ", input.device(),
              " and ", argument, " is on ", t.device());
}

// (N, C), or (N, C, 1, ...) of the input's rank.
inline void check_gate(const char* name, const at::Tensor& input, const at::Tensor& gate) {
  check_input(name, input);
  check_same(name, input, gate, "gate");
  const auto complain = [&](bool ok) {
    TORCH_CHECK(ok, name, ": expected gate of size (N, C) or (N, C, 1, ...), as input is of size ",
                input.sym_sizes(), ", but got gate of size ", gate.sym_sizes());
  };
  complain(gate.dim() == 2 || gate.dim() == input.dim());
  for (int64_t d = 0; d < gate.dim(); ++d) {
    const c10::SymInt expected = d < 2 ? input.sym_size(d) : c10::SymInt(1);
    complain(gate.sym_size(d).sym_eq(expected).expect_true(__FILE__, __LINE__));
  }
}

// (N, C, 1, ...): what an average over space leaves.
inline c10::SymDimVector pooled_sizes(c10::SymIntArrayRef sizes) {
  c10::SymDimVector out(sizes.size(), 1);
  out[0] = sizes[0];
  out[1] = sizes[1];
  return out;
}

// Whether torch would lay out results in channels-last.  Three-dimensional tensors have no memory
// format of their own: an input whose channels are innermost, (N, L, C) in memory, stays so.
inline bool wants_channels_last(const at::Tensor& t) {
  if (t.dim() == 4) return t.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  if (t.dim() == 5) return t.suggest_memory_format() == at::MemoryFormat::ChannelsLast3d;
  const auto sizes = t.sym_sizes(), strides = t.sym_strides();
  const c10::SymInt sizes2d[] = {sizes[0], sizes[1], 1, sizes[2]};
  const c10::SymInt strides2d[] = {strides[0], strides[1], sizes[2] * strides[2], strides[2]};
  return c10::is_channels_last_strides_2d(c10::SymIntArrayRef(sizes2d),
                                          c10::SymIntArrayRef(strides2d));
}

inline at::Tensor empty_activation(const at::Tensor& like, c10::SymIntArrayRef sizes,
                                   bool channels_last) {
  const int64_t dims = static_cast<int64_t>(sizes.size());
  if (dims == 3 && channels_last) {
    const c10::SymInt length = sizes[2].max(1), channels = sizes[1].max(1);
    return at::empty_strided_symint(sizes, {length * channels, 1, channels}, like.options());
  }
  auto format = at::MemoryFormat::Contiguous;
  if (channels_last) {
    format = dims == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
  }
  return at::empty_symint(sizes, like.options().memory_format(format));
}

// The strides of a tensor whose pixels follow one another in the layout; false for any other.
inline bool strides_in(const at::Tensor& t, bool channels_last, Strides& s) {
  s = {t.stride(0), t.stride(1), 1};
  int64_t next = 1;  // the stride that the next axis must have
  if (channels_last) {
    if (t.size(1) > 1 && s.c != 1) return false;
    s.c = 1;
    next = 0;  // any
  }
  for (int64_t d = t.dim() - 1; d >= 2; --d) {
    if (t.size(d) == 1) continue;
    if (next == 0) {
      next = s.p = t.stride(d);
    } else if (t.stride(d) != next) {
      return false;
    }
    next *= t.size(d);
  }
  // Vectors are loaded across what an expanded axis repeats.
  return !channels_last || s.p != 0 || next == 0;
}

// `t` itself if kernels can read it so, else a copy that they can.
inline at::Tensor in_layout(const at::Tensor& t, bool channels_last, Strides& s) {
  if (strides_in(t, channels_last, s)) return t;
  at::Tensor copy = empty_activation(t, t.sym_sizes(), channels_last);
  copy.copy_(t);
  TORCH_INTERNAL_ASSERT(strides_in(copy, channels_last, s));
  return copy;
}

}  // namespace fastconv::squeeze_excite
