// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What both directions share on the device: the problem in the index type of the kernel, with the
// inner axis last whichever it is.
#pragma once

#include "common/gpu.h"
#include "ops/depth_max_pool/depth_max_pool.h"
#include "ops/depth_max_pool/tiles.h"

namespace fastconv::depth_max_pool {

constexpr int kInner = kAxes - 1;  // position of the inner axis in the arrays below

template <class Index>
struct TensorStrides {
  Index n, axis[kAxes];
};

template <class Index>
struct Geometry {
  Index in[kAxes], out[kAxes], kernel[kAxes], stride[kAxes], dilation[kAxes], pad[kAxes];
  Index code[kAxes], flat[kAxes];
  // Taps are visited in (C, D, H, W) order: with channels last the inner axis comes first.
  bool inner_first;
};

constexpr int axis_at(const Problem& p, int position) {
  return p.inner == 0 ? (position + 1) % kAxes : position;
}

template <class Index>
TensorStrides<Index> device_strides(const Problem& p, const Strides& s) {
  TensorStrides<Index> d{static_cast<Index>(s.n), {}};
  for (int i = 0; i < kAxes; ++i) d.axis[i] = static_cast<Index>(s.axis[axis_at(p, i)]);
  return d;
}

template <class Index>
Geometry<Index> device_geometry(const Problem& p) {
  Geometry<Index> g{};
  const Codes codes = codes_of(p);
  for (int i = 0; i < kAxes; ++i) {
    const int a = axis_at(p, i);
    g.in[i] = static_cast<Index>(p.axis[a].in);
    g.out[i] = static_cast<Index>(p.axis[a].out);
    g.kernel[i] = static_cast<Index>(p.axis[a].kernel);
    g.stride[i] = static_cast<Index>(p.axis[a].stride);
    g.dilation[i] = static_cast<Index>(p.axis[a].dilation);
    g.pad[i] = static_cast<Index>(p.axis[a].pad);
    g.code[i] = static_cast<Index>(codes.code[a]);
    g.flat[i] = static_cast<Index>(codes.flat[a]);
  }
  // The order only matters where the outer axes have taps of their own.
  g.inner_first = p.inner == 0 && g.kernel[0] * g.kernel[1] * g.kernel[2] > 1;
  return g;
}

// A thread's place: image, three outer coordinates, and the group of inner elements.
template <class Index>
struct Place {
  Index n, at[kAxes];
};

// `size` holds the extents of the outer axes and, last, the number of groups of a run.
template <class Index>
__device__ __forceinline__ Place<Index> place_of(Index task, const Index (&size)[kAxes],
                                                 Index groups) {
  Place<Index> p;
  p.at[kInner] = task % groups;
  task /= groups;
#pragma unroll
  for (int i = kInner - 1; i >= 0; --i) {
    p.at[i] = task % size[i];
    task /= size[i];
  }
  p.n = task;
  return p;
}

template <class Index>
__device__ __forceinline__ Index this_task() {
  return static_cast<Index>(blockIdx.x) * static_cast<Index>(blockDim.x) +
         static_cast<Index>(threadIdx.x);
}

// One dimension of blocks reaches every size: 2^31 - 1 of them times 128 threads or more.
inline dim3 grid_of(int64_t tasks, int threads) {
  return dim3(static_cast<unsigned>(ceil_div(tasks, threads)));
}

inline uint64_t address_of(const void* p) { return reinterpret_cast<uint64_t>(p); }

}  // namespace fastconv::depth_max_pool
