// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the rearrangements mean: argument checks, output sizes, the axes of the copy, and the same
// in native ops.  Included by torch.cpp alone.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>
#include <c10/util/safe_numerics.h>

#include <string_view>

#include "ops/rearrange/rearrange.h"

namespace fastconv::rearrange {

// Where the block offsets go among the channels of the deep tensor, slowest first:
// crd: channel, block; dcr: block, channel; focus: block with its axes reversed, channel.
enum class Order : uint8_t { kCrd, kDcr, kFocus };

template <bool kToDepth>
constexpr const char* kName = kToDepth ? "space_to_depth" : "depth_to_space";

template <bool kToDepth>
Order parse_order(std::string_view order) {
  if (order == "dcr") return Order::kDcr;
  if (order == "crd") return Order::kCrd;
  if (order == "focus") return Order::kFocus;
  TORCH_CHECK_VALUE(false, kName<kToDepth>,
                    ": expected order to be 'crd', 'dcr' or 'focus', but "
                    "got '",
                    order, "'");
}

// ---- the same checks for plain and symbolic sizes ----

inline bool holds(bool condition) { return condition; }
inline bool holds(const c10::SymBool& condition) {
  return condition.expect_true(__FILE__, __LINE__);
}
inline bool positive(int64_t x) { return x > 0; }
inline c10::SymBool positive(const c10::SymInt& x) { return x.sym_gt(0); }
inline bool divides(int64_t divisor, int64_t x) { return x % divisor == 0; }
inline c10::SymBool divides(const c10::SymInt& divisor, const c10::SymInt& x) {
  return (x % divisor).sym_eq(0);
}
inline int64_t checked_product(const char* name, int64_t a, int64_t b) {
  int64_t product = 0;
  // A ValueError, as torch's pixel_shuffle raises for it.
  TORCH_CHECK_VALUE(!c10::mul_overflows(a, b, &product), name,
                    ": the output would have a size that does not fit into 64 bits: ", a, " * ", b);
  return product;
}
inline c10::SymInt checked_product(const char* name, const c10::SymInt& a, const c10::SymInt& b) {
  const auto x = a.maybe_as_int(), y = b.maybe_as_int();
  if (x.has_value() && y.has_value()) return checked_product(name, *x, *y);
  return a * b;
}

// The sizes of the output; raises on whatever is wrong with the arguments.
template <bool kToDepth, class Int>
c10::SmallVector<Int, 6> block_sizes(c10::ArrayRef<Int> input, c10::ArrayRef<Int> block) {
  constexpr const char* name = kName<kToDepth>;
  const size_t spatial = block.size();
  TORCH_CHECK(spatial >= 1 && spatial <= kSpatial, name,
              ": expected block_size to have 1 to 3 entries, one per spatial dimension, but got "
              "block_size=",
              block);
  TORCH_CHECK(input.size() > spatial, name, ": expected input to have at least ", spatial + 1,
              " dimensions (channels and ", spatial, " spatial) for block_size=", block,
              ", but got input of size ", input);
  const size_t channel = input.size() - spatial - 1;
  c10::SmallVector<Int, 6> sizes(input.begin(), input.end());
  Int volume = 1;
  for (size_t d = 0; d < spatial; ++d) {
    TORCH_CHECK(holds(positive(block[d])), name,
                ": expected block_size to be positive, but got block_size=", block);
    volume = checked_product(name, volume, block[d]);
    Int& size = sizes[channel + 1 + d];
    if constexpr (kToDepth) {
      TORCH_CHECK(holds(divides(block[d], size)), name, ": expected input.size(", channel + 1 + d,
                  ") to be divisible by its block size ", block[d], ", but got input of size ",
                  input);
      size = size / block[d];
    } else {
      size = checked_product(name, size, block[d]);
    }
  }
  if constexpr (kToDepth) {
    sizes[channel] = checked_product(name, sizes[channel], volume);
  } else {
    TORCH_CHECK(holds(divides(volume, sizes[channel])), name,
                ": expected the number of channels, "
                "input.size(",
                channel, "), to be divisible by the product of block_size=", block,
                ", but got input of size ", input);
    sizes[channel] = sizes[channel] / volume;
  }
  return sizes;
}

template <class Int>
void check_shuffle(c10::ArrayRef<Int> input, const Int& groups) {
  TORCH_CHECK(input.size() > 2,
              "channel_shuffle: expected input to have more than 2 dimensions, "
              "but got input of size ",
              input);
  TORCH_CHECK(holds(positive(groups)), "channel_shuffle: expected groups to be positive, but got ",
              groups);
  TORCH_CHECK(holds(divides(groups, input[1])),
              "channel_shuffle: expected the number of channels "
              "to be divisible by groups, but got ",
              input[1], " channels and ", groups, " groups");
}

// Only (N, C, H, W) and (N, C, D, H, W) have a channels_last format to keep.
inline at::MemoryFormat block_format(const at::Tensor& input, size_t spatial) {
  const bool batched = input.dim() == static_cast<int64_t>(spatial) + 2;
  return batched && spatial >= 2 ? input.suggest_memory_format() : at::MemoryFormat::Contiguous;
}

// ---- the axes of the copy ----

// Appends an axis, merged with the one before where both tensors allow.  False: no room left.
inline bool add_axis(Copy& copy, int64_t size, int64_t in, int64_t out) {
  in *= copy.element;
  out *= copy.element;
  if (copy.rank > 0) {
    Axis& before = copy.axis[copy.rank - 1];
    if (before.in == in * size && before.out == out * size) {
      before = {before.size * size, in, out};
      return true;
    }
  }
  if (copy.rank == kMaxAxes) return false;
  copy.axis[copy.rank++] = {size, in, out};
  return true;
}

template <bool kToDepth>
bool describe_block(const at::Tensor& in, const at::Tensor& out, at::IntArrayRef block, Order order,
                    Copy& copy) {
  const at::Tensor& wide = kToDepth ? in : out;
  const at::Tensor& deep = kToDepth ? out : in;
  const auto add = [&](int64_t size, int64_t wide_stride, int64_t deep_stride) {
    return kToDepth ? add_axis(copy, size, wide_stride, deep_stride)
                    : add_axis(copy, size, deep_stride, wide_stride);
  };
  const int spatial = static_cast<int>(block.size());
  const int channel = static_cast<int>(in.dim()) - spatial - 1;
  const int64_t channels = wide.size(channel), deep_channel = deep.stride(channel);
  copy.rank = 0;
  bool room = true;
  for (int d = 0; d < channel; ++d)
    room = room && add(wide.size(d), wide.stride(d), deep.stride(d));
  int64_t volume = 1;
  for (const int64_t b : block) volume *= b;
  room = room &&
         add(channels, wide.stride(channel), deep_channel * (order == Order::kCrd ? volume : 1));
  int64_t offset = deep_channel * (order == Order::kCrd ? 1 : channels);
  for (int i = 0; i < spatial; ++i) {
    const int d = order == Order::kFocus ? i : spatial - 1 - i;
    const int64_t stride = wide.stride(channel + 1 + d);
    room = room && add(deep.size(channel + 1 + d), stride * block[d], deep.stride(channel + 1 + d));
    room = room && add(block[d], stride, offset);
    offset *= block[d];
  }
  return room;
}

inline bool describe_shuffle(const at::Tensor& in, const at::Tensor& out, int64_t groups,
                             Copy& copy) {
  const int64_t per_group = in.size(1) / groups;
  copy.rank = 0;
  bool room = add_axis(copy, in.size(0), in.stride(0), out.stride(0)) &&
              add_axis(copy, groups, in.stride(1) * per_group, out.stride(1)) &&
              add_axis(copy, per_group, in.stride(1), out.stride(1) * groups);
  for (int64_t d = 2; d < in.dim(); ++d) {
    room = room && add_axis(copy, in.size(d), in.stride(d), out.stride(d));
  }
  return room;
}

// ---- the same in native ops ----

template <bool kToDepth>
at::Tensor native_block(const at::Tensor& input, c10::SymIntArrayRef block, Order order,
                        c10::SymIntArrayRef sizes) {
  const int64_t spatial = static_cast<int64_t>(block.size());
  const int64_t channel = input.dim() - spatial - 1;
  const bool channels_last = block_format(input, block.size()) != at::MemoryFormat::Contiguous;
  // Dimensions of the split view: batch, then for d: space[d], offset[d], and the channels.
  c10::SmallVector<c10::SymInt, 10> split(input.sym_sizes().begin(),
                                          input.sym_sizes().begin() + channel);
  c10::SmallVector<int64_t, 10> space(spatial), offset(spatial), depth;
  int64_t channels = 0;
  const c10::SymInt& wide_channels = kToDepth ? input.sym_size(channel) : sizes[channel];
  const auto push = [&](const c10::SymInt& size) {
    split.push_back(size);
    return static_cast<int64_t>(split.size()) - 1;
  };
  const auto push_depth = [&](const auto& place_channels, const auto& place_offset) {
    if (order == Order::kCrd) place_channels();
    for (int64_t i = 0; i < spatial; ++i) {
      place_offset(order == Order::kFocus ? spatial - 1 - i : i);
    }
    if (order != Order::kCrd) place_channels();
  };
  if constexpr (kToDepth) {
    channels = push(wide_channels);
    for (int64_t d = 0; d < spatial; ++d) {
      space[d] = push(sizes[channel + 1 + d]);
      offset[d] = push(block[d]);
    }
  } else {
    push_depth([&] { channels = push(wide_channels); },
               [&](int64_t d) { offset[d] = push(block[d]); });
    for (int64_t d = 0; d < spatial; ++d) space[d] = push(input.sym_size(channel + 1 + d));
  }
  // The order of the output, whose channels come last in channels_last.
  c10::SmallVector<int64_t, 10> order_of_axes;
  for (int64_t d = 0; d < channel; ++d) order_of_axes.push_back(d);
  const auto place_depth = [&] {
    if constexpr (kToDepth) {
      push_depth([&] { order_of_axes.push_back(channels); },
                 [&](int64_t d) { order_of_axes.push_back(offset[d]); });
    } else {
      order_of_axes.push_back(channels);
    }
  };
  if (!channels_last) place_depth();
  for (int64_t d = 0; d < spatial; ++d) {
    order_of_axes.push_back(space[d]);
    if constexpr (!kToDepth) order_of_axes.push_back(offset[d]);
  }
  if (channels_last) place_depth();
  const at::Tensor moved = input.reshape_symint(split).permute(order_of_axes);
  if (!channels_last) return moved.reshape_symint(sizes);
  c10::SmallVector<c10::SymInt, 6> last(sizes.begin(), sizes.end());
  last.erase(last.begin() + channel);
  last.push_back(sizes[channel]);
  return moved.reshape_symint(last).movedim(-1, channel);
}

inline at::Tensor native_shuffle(const at::Tensor& input, const c10::SymInt& groups) {
  const c10::SymIntArrayRef sizes = input.sym_sizes();
  c10::SmallVector<c10::SymInt, 7> split(sizes.begin(), sizes.end());
  split[1] = sizes[1] / groups;
  split.insert(split.begin() + 1, groups);
  const at::MemoryFormat format = input.suggest_memory_format();
  at::Tensor moved = input.reshape_symint(split).transpose(1, 2);
  if (format == at::MemoryFormat::Contiguous) return moved.reshape_symint(sizes);
  c10::SmallVector<c10::SymInt, 6> last(sizes.begin(), sizes.end());
  last.erase(last.begin() + 1);
  last.push_back(sizes[1]);
  return moved.movedim(c10::IntArrayRef{1, 2}, c10::IntArrayRef{-2, -1})
      .reshape_symint(last)
      .movedim(-1, 1);
}

}  // namespace fastconv::rearrange
