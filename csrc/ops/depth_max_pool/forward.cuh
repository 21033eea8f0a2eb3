// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling forward.  One thread makes kVector neighbouring outputs of the inner axis (16
// bytes), or one where nothing better fits, so a warp's accesses are contiguous in both layouts.
#pragma once

#include <type_traits>

#include "ops/depth_max_pool/geometry.cuh"

namespace fastconv::depth_max_pool {

// No winner is stored.
struct NoIndex {};

template <class T, class Index>
struct ForwardArgs {
  const T* x;
  T* y;
  void* index;
  TensorStrides<Index> x_strides, y_strides;
  Geometry<Index> g;
  Index tasks, groups;
};

template <class A>
__device__ __forceinline__ bool beats(A value, A best) {
  return value > best || value != value;
}

// kStep: 0 for any windows on the inner axis, one output per thread; else windows of kStep
// elements, kStep apart and aligned: loads are whole 16-byte vectors.
template <class T, class I, class Index, int kStep>
__global__ void __launch_bounds__(256, 1) forward_kernel(const ForwardArgs<T, Index> a) {
  using A = gpu::Accum<T>;
  constexpr bool kTrack = !std::is_same_v<I, NoIndex>;
  constexpr int kVector = kStep == 0 ? 1 : 16 / static_cast<int>(sizeof(T));
  constexpr int kLoads = kStep == 0 ? 1 : kStep;
  const Geometry<Index>& g = a.g;
  const Index task = this_task<Index>();
  if (task >= a.tasks) return;
  Place<Index> place = place_of(task, g.out, a.groups);
  place.at[kInner] *= kVector;

  Index lo[kAxes], hi[kAxes], x_at = place.n * a.x_strides.n, y_at = place.n * a.y_strides.n;
  Index first_code = 0, base = 0;
#pragma unroll
  for (int i = 0; i < kAxes; ++i) {
    const Index start = place.at[i] * g.stride[i] - g.pad[i];
    lo[i] = start >= 0 ? 0 : (-start + g.dilation[i] - 1) / g.dilation[i];
    hi[i] = start + (g.kernel[i] - 1) * g.dilation[i] < g.in[i]
                ? g.kernel[i]
                : (g.in[i] - start + g.dilation[i] - 1) / g.dilation[i];
    x_at += start * a.x_strides.axis[i];
    y_at += place.at[i] * a.y_strides.axis[i];
    first_code += lo[i] * g.code[i];
    base += start * g.flat[i];
  }

  A best[kVector];
  Index code[kVector];
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    best[j] = -static_cast<A>(INFINITY);
    code[j] = first_code;
  }
  // The inner axis comes before the outer ones or after them: one of these two loops runs it.
  const Index early = g.inner_first ? (kStep == 0 ? hi[kInner] : kStep) : 1;
  for (Index e = g.inner_first && kStep == 0 ? lo[kInner] : 0; e < early; ++e) {
    for (Index k0 = lo[0]; k0 < hi[0]; ++k0) {
      for (Index k1 = lo[1]; k1 < hi[1]; ++k1) {
        for (Index k2 = lo[2]; k2 < hi[2]; ++k2) {
          const T* row = a.x + (x_at + k0 * g.dilation[0] * a.x_strides.axis[0] +
                                k1 * g.dilation[1] * a.x_strides.axis[1] +
                                k2 * g.dilation[2] * a.x_strides.axis[2]);
          const Index row_code = k0 * g.code[0] + k1 * g.code[1] + k2 * g.code[2];
          if constexpr (kStep == 0) {
            const Index k_end = g.inner_first ? e + 1 : hi[kInner];
            for (Index k = g.inner_first ? e : lo[kInner]; k < k_end; ++k) {
              const A value = gpu::widen(row[k * g.dilation[kInner] * a.x_strides.axis[kInner]]);
              if (beats(value, best[0])) {
                best[0] = value;
                if constexpr (kTrack) code[0] = row_code + k * g.code[kInner];
              }
            }
          } else {
            T values[kLoads * kVector];
#pragma unroll
            for (int l = 0; l < kLoads; ++l) {
              const gpu::Pack<T, kVector> pack = gpu::load_pack<T, kVector>(row + l * kVector);
#pragma unroll
              for (int j = 0; j < kVector; ++j) values[l * kVector + j] = pack.v[j];
            }
#pragma unroll
            for (int k = 0; k < kStep; ++k) {
              if (g.inner_first && k != e) continue;
#pragma unroll
              for (int j = 0; j < kVector; ++j) {
                const A value = gpu::widen(values[j * kStep + k]);
                if (beats(value, best[j])) {
                  best[j] = value;
                  if constexpr (kTrack) code[j] = row_code + k * g.code[kInner];
                }
              }
            }
          }
        }
      }
    }
  }

  gpu::Pack<T, kVector> out;
#pragma unroll
  for (int j = 0; j < kVector; ++j) out.v[j] = gpu::narrow<T>(best[j]);
  gpu::store_pack<T, kVector>(a.y + y_at, out);
  if constexpr (kTrack) {
    gpu::Pack<I, kVector> winners;
#pragma unroll
    for (int j = 0; j < kVector; ++j) winners.v[j] = static_cast<I>(base + code[j]);
    gpu::store_pack<I, kVector>(static_cast<I*>(a.index) + y_at, winners);
  }
}

template <class T, class I, class Index, int kStep>
cudaError_t launch_forward(const Forward& p, int threads, cudaStream_t stream) {
  constexpr int kVector = kStep == 0 ? 1 : 16 / static_cast<int>(sizeof(T));
  const int64_t groups = p.axis[p.inner].out / kVector;
  const int64_t tasks = p.out_elements() / kVector;
  const ForwardArgs<T, Index> args{static_cast<const T*>(p.x),
                                   static_cast<T*>(p.y),
                                   p.index,
                                   device_strides<Index>(p, p.x_strides),
                                   device_strides<Index>(p, p.y_strides),
                                   device_geometry<Index>(p),
                                   static_cast<Index>(tasks),
                                   static_cast<Index>(groups)};
  return FASTCONV_LAUNCH((forward_kernel<T, I, Index, kStep>), grid_of(tasks, threads),
                         dim3(threads), 0, stream, args);
}

template <class T, class Index>
cudaError_t forward_typed(const Forward& p, int tile, cudaStream_t stream) {
  const bool vectorised = can_vectorise(p, address_of(p.x), address_of(p.y), address_of(p.index));
  const Tile chosen = tile_of(tile, p.out_elements(), vector_of(p.dtype), vectorised);
  const InnerKind kind = chosen.vectorised ? inner_kind(p.axis[p.inner]) : InnerKind::kAny;
  const auto with_index = [&](auto index) {
    using I = decltype(index);
    switch (kind) {
      case InnerKind::kSingle:
        return launch_forward<T, I, Index, 1>(p, chosen.threads, stream);
      case InnerKind::kTwo:
        return launch_forward<T, I, Index, 2>(p, chosen.threads, stream);
      case InnerKind::kFour:
        return launch_forward<T, I, Index, 4>(p, chosen.threads, stream);
      default:
        return launch_forward<T, I, Index, 0>(p, chosen.threads, stream);
    }
  };
  switch (p.index_type) {
    case IndexType::kNone:
      return with_index(NoIndex{});
    case IndexType::kUint8:
      return with_index(uint8_t{});
    case IndexType::kInt32:
      return launch_forward<T, int32_t, Index, 0>(p, chosen.threads, stream);
    default:
      return launch_forward<T, int64_t, Index, 0>(p, chosen.threads, stream);
  }
}

}  // namespace fastconv::depth_max_pool
