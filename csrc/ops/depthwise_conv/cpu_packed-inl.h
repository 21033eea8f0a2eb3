// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Channels-last filters of many taps: a strip of one vector of channels is copied into scratch, and
// widened to fp32 on the way; the channels-last tiles run on that.  In the tensor the vector's
// pixels, multiples of 1 KiB apart, share few sets of L1.  A copy costs two cycles, and 7x7 taps
// take 24.
#pragma once

#include "ops/depthwise_conv/cpu_blocked-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

// One vector of channels of `size` pixels, packed and back.
template <class T>
void pack_vector(Accum<T>* packed, const T* x, const Strides5& s, const int64_t (&size)[kSpatial]) {
  constexpr int kV = kLanes<Accum<T>>;
  constexpr int64_t kAhead = 12;  // pixels: the hardware does not see them coming
  for (int64_t row = 0; row < size[0] * size[1]; ++row) {
    const T* p = x + row / size[1] * s.sp[0] + row % size[1] * s.sp[1];
    for (int64_t j = 0; j < size[2]; ++j, packed += kV, p += s.sp[2]) {
      __builtin_prefetch(p + kAhead * s.sp[2]);
      store(packed, load(p));
    }
  }
}
template <class T>
void unpack_vector(T* y, const Strides5& s, const Accum<T>* packed,
                   const int64_t (&size)[kSpatial]) {
  constexpr int kV = kLanes<Accum<T>>;
  for (int64_t row = 0; row < size[0] * size[1]; ++row) {
    T* p = y + row / size[1] * s.sp[0] + row % size[1] * s.sp[1];
    for (int64_t j = 0; j < size[2]; ++j, packed += kV, p += s.sp[2]) store(p, load(packed));
  }
}

// Whether sums are of the tensor's own type: tiles then write into the tensor.
template <class T>
constexpr bool kWritesThrough = sizeof(T) == sizeof(Accum<T>);

template <class T>
struct PackedScratch {
  using A = Accum<T>;
  A* x;  // [pixel][lane]
  A* y;  // the same, of results that are narrower
  ChannelScratch<A> s;

  int64_t carve(const Correlation& p, char* base) {
    constexpr int64_t kV = kLanes<A>;
    const BlockSizes size = block_sizes<A>(p);
    x = reinterpret_cast<A*>(base);
    y = x + size.in_pixels * kV;
    A* end = y + (kWritesThrough<T> ? 0 : size.out_pixels * kV);
    return reinterpret_cast<char*>(end) - base + s.carve(p, reinterpret_cast<char*>(end));
  }
};

// A task's vector of channels from `channel` on, with the filters that `s` holds.
template <class T>
void packed_vector(const Correlation& p, const Correlation::Task& task, const Window& w,
                   int64_t channel, PackedScratch<T>& s) {
  using A = Accum<T>;
  constexpr int kV = kLanes<A>;
  const T* source = static_cast<const T*>(p.x) + task.n * p.x_strides.n + channel;
  T* target = static_cast<T*>(p.y) + task.n * p.y_strides.n + channel;
  pack_vector<T>(s.x, source + pixel_offset(p.x_strides, w.first), p.x_strides, w.size);
  Correlation q = block_problem<T>(p, kV);
  q.x_strides = block_strides(w.size, kV);
  Correlation::Task local = task;
  local.c0 = 0;
  local.c1 = kV;
  const A* x =
      s.x - pixel_offset(q.x_strides, w.first);  // the kernels count from the image's origin
  if constexpr (kWritesThrough<T>) {
    q.activation = p.activation;
    channels_task<A>(q, s.s, local, x, target);
  } else {
    const int64_t out[] = {task.z1 - task.z0, task.y1 - task.y0, task.x1 - task.x0};
    const int64_t first_out[] = {task.z0, task.y0, task.x0};
    q.y_strides = block_strides(out, kV);
    channels_task<A>(q, s.s, local, x, s.y - pixel_offset(q.y_strides, first_out));
    if (p.activation != q.activation) {
      finish_all<A, T>(p.activation, {s.y, s.y, nullptr, 1, 0, out[0] * out[1] * out[2], kV, kV});
    }
    unpack_vector<T>(target + pixel_offset(p.y_strides, first_out), p.y_strides, s.y, out);
  }
}

template <class T>
void packed_tasks(const Correlation& p, int64_t begin, int64_t end, void* scratch) {
  constexpr int kV = kLanes<Accum<T>>;
  PackedScratch<T> s;
  s.carve(p, static_cast<char*>(scratch));
  const ChannelScratch<Accum<T>> filters = s.s;
  int64_t block = -1;
  TaskGrid(p).each(begin, end, [&](const Correlation::Task& task) {
    const int64_t channels = task.c1 - task.c0;
    if (task.block != block) {
      s.s.finite = pack_weights<T>(p, task.c0, channels, filters);
      block = task.block;
    }
    const Window w = read_window(p.axis, {task.z0, task.y0, task.x0}, {task.z1, task.y1, task.x1});
    for (int64_t v = 0; v * kV < channels; ++v) {
      s.s.weight = filters.weight + v * p.taps * kV;
      s.s.bias = filters.bias + v * kV;
      packed_vector(p, task, w, task.c0 + vector_start(p, v, kV, channels), s);
    }
  });
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
