// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CUDA kernels of the rearrangements.  Threads walk the output in order, so writes are
// coalesced; reads are so because runs, rows or boxes are chosen that way (cuda_plan.h).
#pragma once

#include "common/gpu.h"
#include "ops/rearrange/cuda_plan.h"

namespace fastconv::rearrange {

using gpu::load_pack;
using gpu::Pack;
using gpu::store_pack;

template <int kBytes>
struct Unit;
template <>
struct Unit<1> {
  using type = uint8_t;
};
template <>
struct Unit<2> {
  using type = uint16_t;
};
template <>
struct Unit<4> {
  using type = uint32_t;
};
template <>
struct Unit<8> {
  using type = uint2;
};
template <>
struct Unit<16> {
  using type = uint4;
};

template <class Index>
struct Offsets {
  Index in, out;
};

// The byte offsets of position n.
template <class Index>
__device__ __forceinline__ Offsets<Index> locate(const PackParams<Index>& p, Index n) {
  Offsets<Index> at{0, 0};
  for (int i = 0; i < p.rank; ++i) {
    const Index rest = p.size[i].divide(n), index = n - rest * p.size[i].d;
    at.in += index * p.in_stride[i];
    at.out += index * p.out_stride[i];
    n = rest;
  }
  return at;
}

// The first of the positions that a thread handles, and the step from one round to the next.
template <class Index, int kPerThread>
__device__ __forceinline__ Index first_position() {
  return static_cast<Index>(blockIdx.x) * (blockDim.x * kPerThread) + threadIdx.x;
}
template <class Index, int kPerThread>
__device__ __forceinline__ Index round_of_positions() {
  return static_cast<Index>(gridDim.x) * (blockDim.x * kPerThread);
}

template <int kBytes, int kPerThread, class Index>
__global__ void __launch_bounds__(256) copy_runs(const PackParams<Index> p) {
  using T = typename Unit<kBytes>::type;
  const Index step = blockDim.x;
  for (Index n = first_position<Index, kPerThread>(); n < p.count;
       n += round_of_positions<Index, kPerThread>()) {
    Pack<T, 1> unit[kPerThread];
    Index out[kPerThread];
#pragma unroll
    for (int u = 0; u < kPerThread; ++u) {
      if (n + u * step < p.count) {
        const Offsets<Index> at = locate<Index>(p, n + u * step);
        unit[u] = load_pack<T, 1>(reinterpret_cast<const T*>(p.in + at.in));
        out[u] = at.out;
      }
    }
#pragma unroll
    for (int u = 0; u < kPerThread; ++u) {
      if (n + u * step < p.count) store_pack<T, 1>(reinterpret_cast<T*>(p.out + out[u]), unit[u]);
    }
  }
}

// The same for runs of 16 bytes or more that no access of 16 bytes fits, as of planes of 7x7: a
// thread puts 16 bytes of the output together, aligned there, from one run or the ends of two.  A
// place is worked out once or twice for all of them instead of once for each unit.
template <int kBytes, class Index>
__global__ void __launch_bounds__(256) copy_long_runs(const PackParams<Index> p) {
  using T = typename Unit<kBytes>::type;
  constexpr Index kUnits = 16 / kBytes;
  const Index missing = static_cast<Index>(reinterpret_cast<uintptr_t>(p.out) % 16 / kBytes);
  const Index head = min(missing == 0 ? 0 : kUnits - missing, p.count);
  const Index vectors = (p.count - head) / kUnits, tail = head + vectors * kUnits;
  T* const out = reinterpret_cast<T*>(p.out);
  // Units in front of the first whole vector and behind the last, fewer than two vectors.
  if (blockIdx.x == 0 && threadIdx.x < head + (p.count - tail)) {
    const Index n = threadIdx.x < head ? threadIdx.x : tail + (threadIdx.x - head);
    const Index at = locate<Index>(p, n).in;
    store_pack<T, 1>(out + n, load_pack<T, 1>(reinterpret_cast<const T*>(p.in + at)));
  }
  for (Index t = first_position<Index, 1>(); t < vectors; t += round_of_positions<Index, 1>()) {
    const Index n = head + t * kUnits;
    const Index run = p.size[0].divide(n);
    const Index left = p.size[0].d - (n - run * p.size[0].d);  // of this run
    const char* const from = p.in + locate<Index>(p, n).in;
    const char* next = from;
    if (left < kUnits) next = p.in + locate<Index>(p, n + left).in - left * kBytes;
    Pack<T, kUnits> pack;
#pragma unroll
    for (Index i = 0; i < kUnits; ++i) {
      const char* const unit = (i < left ? from : next) + i * kBytes;
      pack.v[i] = load_pack<T, 1>(reinterpret_cast<const T*>(unit)).v[0];
    }
    store_pack<T, kUnits>(out + n, pack);
  }
}

// A pack of kLanes elements of each of kPieces rows: kLanes * kPieces elements side by side in one
// tensor, kPieces pieces of kLanes elements in the other.
template <int kElement, int kPieces, int kLanes, bool kInterleave, int kPerThread, class Index>
__global__ void __launch_bounds__(256) copy_registers(const PackParams<Index> p) {
  using T = typename Unit<kElement>::type;
  constexpr int kAll = kPieces * kLanes;
  const Index step = blockDim.x;
  for (Index n = first_position<Index, kPerThread>(); n < p.count;
       n += round_of_positions<Index, kPerThread>()) {
    Pack<T, kAll> pack[kPerThread];
    Index out[kPerThread];
#pragma unroll
    for (int u = 0; u < kPerThread; ++u) {
      if (n + u * step < p.count) {
        const Offsets<Index> at = locate<Index>(p, n + u * step);
        out[u] = at.out;
        if constexpr (kInterleave) {
#pragma unroll
          for (int k = 0; k < kPieces; ++k) {
            const auto piece =
                load_pack<T, kLanes>(reinterpret_cast<const T*>(p.in + (at.in + p.piece[k])));
#pragma unroll
            for (int i = 0; i < kLanes; ++i) pack[u].v[i * kPieces + k] = piece.v[i];
          }
        } else {
          pack[u] = load_pack<T, kAll>(reinterpret_cast<const T*>(p.in + at.in));
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kPerThread; ++u) {
      if (n + u * step < p.count) {
        if constexpr (kInterleave) {
          store_pack<T, kAll>(reinterpret_cast<T*>(p.out + out[u]), pack[u]);
        } else {
#pragma unroll
          for (int k = 0; k < kPieces; ++k) {
            Pack<T, kLanes> piece;
#pragma unroll
            for (int i = 0; i < kLanes; ++i) piece.v[i] = pack[u].v[i * kPieces + k];
            store_pack<T, kLanes>(reinterpret_cast<T*>(p.out + (out[u] + p.piece[k])), piece);
          }
        }
      }
    }
  }
}

// Shared memory places: one 4-byte bank (one element, if wider) is skipped every 128 bytes, so
// that a column of a box does not fall on one bank.
template <int kElement>
__host__ __device__ __forceinline__ constexpr uint32_t padded(uint32_t place) {
  return place + place / (128 / kElement) * (kElement < 4 ? 4 / kElement : 1);
}

// Element e of a walk through a box, as offsets from the box's first; false beyond the box's
// share (`limit`) of the tensor, which is smaller at the edges.
template <bool kInOrder, class Index>
__device__ __forceinline__ bool walk(const BoxParams<Index>& p, uint32_t e, const Index* limit,
                                     Index& offset, uint32_t& place) {
  offset = 0;
  place = 0;
  bool inside = e < p.box;
  for (int i = 0; i < p.rank; ++i) {
    const Divisor<uint32_t> extent = kInOrder ? p.in_extent[i] : p.out_extent[i];
    const int axis = kInOrder ? p.in_axis[i] : i;
    const uint32_t rest = extent.divide(e), index = e - rest * extent.d;
    offset += index * (kInOrder ? p.in_stride[axis] : p.out_stride[axis]);
    if (kInOrder) place += index * p.in_place[i];
    if (limit != nullptr) inside = inside && index < limit[axis];
    e = rest;
  }
  return inside;
}

template <int kElement, int kPerThread, class Index>
__global__ void __launch_bounds__(512) copy_boxes(const BoxParams<Index> p) {
  using T = typename Unit<kElement>::type;
  FASTCONV_DYNAMIC_SMEM(T, box);
  // `limit` is shared: the first axes' threads write it, everybody reads it at the edges.
  Index* limit = reinterpret_cast<Index*>(reinterpret_cast<unsigned char*>(box) +
                                          (padded<kElement>(p.box) * kElement + 15) / 16 * 16);
  // The walks are the same in every whole box: they are worked out once.
  Index in[kPerThread], out[kPerThread];
  uint32_t place[kPerThread];
  uint32_t whole = 0;
#pragma unroll
  for (int u = 0; u < kPerThread; ++u) {
    const uint32_t e = threadIdx.x + u * blockDim.x;
    uint32_t unused;
    if (walk<true, Index>(p, e, nullptr, in[u], place[u])) whole |= 1u << u;
    walk<false, Index>(p, e, nullptr, out[u], unused);
    place[u] = padded<kElement>(place[u]);
  }
  for (Index n = blockIdx.x; n < p.boxes; n += gridDim.x) {
    Index rest = n, in_base = 0, out_base = 0;
    bool edge = false;
    __syncthreads();  // the box and the limits of the round before have been read
    for (int i = 0; i < p.rank; ++i) {
      const Index next = p.along[i].divide(rest);
      const Index start = (rest - next * p.along[i].d) * p.extent[i];
      in_base += start * p.in_stride[i];
      out_base += start * p.out_stride[i];
      const Index left = p.size[i] - start;
      edge = edge || left < p.extent[i];
      if (threadIdx.x == static_cast<unsigned>(i)) limit[i] = left;
      rest = next;
    }
    uint32_t reads = whole, writes = whole;
    if (edge) {  // the same for the whole block
      __syncthreads();
      reads = writes = 0;
#pragma unroll 1
      for (int u = 0; u < kPerThread; ++u) {
        const uint32_t e = threadIdx.x + u * blockDim.x;
        Index offset;
        uint32_t unused;
        if (walk<true, Index>(p, e, limit, offset, unused)) reads |= 1u << u;
        if (walk<false, Index>(p, e, limit, offset, unused)) writes |= 1u << u;
      }
    }
    Pack<T, 1> element[kPerThread];
#pragma unroll
    for (int u = 0; u < kPerThread; ++u) {
      if (reads >> u & 1) {
        element[u] = load_pack<T, 1>(reinterpret_cast<const T*>(p.in + (in_base + in[u])));
      }
    }
#pragma unroll
    for (int u = 0; u < kPerThread; ++u) {
      if (reads >> u & 1) store_pack<T, 1>(box + place[u], element[u]);
    }
    __syncthreads();
#pragma unroll
    for (int u = 0; u < kPerThread; ++u) {
      if (writes >> u & 1) {
        const uint32_t from = padded<kElement>(threadIdx.x + u * blockDim.x);
        store_pack<T, 1>(reinterpret_cast<T*>(p.out + (out_base + out[u])),
                         load_pack<T, 1>(box + from));
      }
    }
  }
}

}  // namespace fastconv::rearrange
