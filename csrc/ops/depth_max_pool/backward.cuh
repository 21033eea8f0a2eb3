// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling backward.  A thread owns inputs, and gathers from the windows that cover them
// in a fixed order: nothing is added atomically.
#pragma once

#include "ops/depth_max_pool/geometry.cuh"

namespace fastconv::depth_max_pool {

template <class T, class Index>
struct BackwardArgs {
  const T* dy;
  const void* index;
  T* dx;
  TensorStrides<Index> dy_strides, index_strides, dx_strides;
  Geometry<Index> g;
  Index tasks, groups;
};

// The tap of window o that reads input i, or -1.
template <class Index>
__device__ __forceinline__ Index tap_of(const Geometry<Index>& g, int axis, Index i, Index o) {
  const Index distance = i + g.pad[axis] - o * g.stride[axis];
  if (g.dilation[axis] == 1) return distance;
  const Index tap = distance / g.dilation[axis];
  return tap * g.dilation[axis] == distance ? tap : -1;
}

// kStep: 0 for any windows on the inner axis, one input per thread; else windows of kStep elements
// that tile it: a thread takes a 16-byte vector of windows and writes kStep vectors of dx.
template <class T, class I, class Index, int kStep>
__global__ void __launch_bounds__(256, 1) backward_kernel(const BackwardArgs<T, Index> a) {
  using A = gpu::Accum<T>;
  constexpr int kVector = kStep == 0 ? 1 : 16 / static_cast<int>(sizeof(T));
  constexpr int kStores = kStep == 0 ? 1 : kStep;
  const Geometry<Index>& g = a.g;
  const Index task = this_task<Index>();
  if (task >= a.tasks) return;
  Place<Index> place = place_of(task, g.in, a.groups);
  place.at[kInner] *= kVector;  // kStep > 0: the first window, not the first input

  Index first[kAxes], last[kAxes];
#pragma unroll
  for (int i = 0; i < kAxes; ++i) {
    if (kStep > 0 && i == kInner) continue;
    const Index reach = (g.kernel[i] - 1) * g.dilation[i], from = place.at[i] + g.pad[i];
    const Index end = from / g.stride[i];
    first[i] = from <= reach ? 0 : (from - reach + g.stride[i] - 1) / g.stride[i];
    last[i] = end < g.out[i] ? end : g.out[i] - 1;
  }

  A sum[kStores * kVector] = {};
  const I* index = static_cast<const I*>(a.index);
  for (Index o0 = first[0]; o0 <= last[0]; ++o0) {
    const Index k0 = tap_of(g, 0, place.at[0], o0);
    if (k0 < 0) continue;
    for (Index o1 = first[1]; o1 <= last[1]; ++o1) {
      const Index k1 = tap_of(g, 1, place.at[1], o1);
      if (k1 < 0) continue;
      for (Index o2 = first[2]; o2 <= last[2]; ++o2) {
        const Index k2 = tap_of(g, 2, place.at[2], o2);
        if (k2 < 0) continue;
        const T* dy = a.dy + (place.n * a.dy_strides.n + o0 * a.dy_strides.axis[0] +
                              o1 * a.dy_strides.axis[1] + o2 * a.dy_strides.axis[2]);
        const I* winner = index + (place.n * a.index_strides.n + o0 * a.index_strides.axis[0] +
                                   o1 * a.index_strides.axis[1] + o2 * a.index_strides.axis[2]);
        const Index code = k0 * g.code[0] + k1 * g.code[1] + k2 * g.code[2] +
                           (o0 * g.stride[0] - g.pad[0]) * g.flat[0] +
                           (o1 * g.stride[1] - g.pad[1]) * g.flat[1] +
                           (o2 * g.stride[2] - g.pad[2]) * g.flat[2];
        if constexpr (kStep == 0) {
          for (Index o = first[kInner]; o <= last[kInner]; ++o) {
            const Index k = tap_of(g, kInner, place.at[kInner], o);
            const Index wanted =
                code + k * g.code[kInner] + (o * g.stride[kInner] - g.pad[kInner]) * g.flat[kInner];
            if (k >= 0 && static_cast<Index>(winner[o]) == wanted) sum[0] += gpu::widen(dy[o]);
          }
        } else {
          const Index o = place.at[kInner];
          const auto grads = gpu::load_pack<T, kVector>(dy + o);
          const auto winners = gpu::load_pack<I, kVector>(winner + o);
#pragma unroll
          for (int j = 0; j < kVector; ++j) {
#pragma unroll
            for (int k = 0; k < kStep; ++k) {
              const bool hit = static_cast<Index>(winners.v[j]) == code + k * g.code[kInner];
              sum[j * kStep + k] += hit ? gpu::widen(grads.v[j]) : A{0};
            }
          }
        }
      }
    }
  }

  Index dx_at = place.n * a.dx_strides.n + place.at[kInner] * kStores;
#pragma unroll
  for (int i = 0; i < kInner; ++i) dx_at += place.at[i] * a.dx_strides.axis[i];
#pragma unroll
  for (int s = 0; s < kStores; ++s) {
    gpu::Pack<T, kVector> out;
#pragma unroll
    for (int j = 0; j < kVector; ++j) out.v[j] = gpu::narrow<T>(sum[s * kVector + j]);
    gpu::store_pack<T, kVector>(a.dx + dx_at + s * kVector, out);
  }
}

template <class T, class I, class Index, int kStep>
cudaError_t launch_backward(const Backward& p, int threads, cudaStream_t stream) {
  constexpr int kVector = kStep == 0 ? 1 : 16 / static_cast<int>(sizeof(T));
  constexpr int kPerThread = kVector * (kStep == 0 ? 1 : kStep);
  const int64_t groups = p.axis[p.inner].in / kPerThread;
  const int64_t tasks = p.in_elements() / kPerThread;
  const BackwardArgs<T, Index> args{static_cast<const T*>(p.dy),
                                    p.index,
                                    static_cast<T*>(p.dx),
                                    device_strides<Index>(p, p.dy_strides),
                                    device_strides<Index>(p, p.index_strides),
                                    device_strides<Index>(p, p.dx_strides),
                                    device_geometry<Index>(p),
                                    static_cast<Index>(tasks),
                                    static_cast<Index>(groups)};
  return FASTCONV_LAUNCH((backward_kernel<T, I, Index, kStep>), grid_of(tasks, threads),
                         dim3(threads), 0, stream, args);
}

template <class T, class Index>
cudaError_t backward_typed(const Backward& p, int tile, cudaStream_t stream) {
  const bool vectorised = can_vectorise(p, address_of(p.dx), address_of(p.dy), address_of(p.index));
  const Tile chosen = tile_of(tile, p.in_elements(), vector_of(p.dtype), vectorised);
  if (p.index_type == IndexType::kInt32) {
    return launch_backward<T, int32_t, Index, 0>(p, chosen.threads, stream);
  }
  if (p.index_type == IndexType::kInt64) {
    return launch_backward<T, int64_t, Index, 0>(p, chosen.threads, stream);
  }
  switch (chosen.vectorised ? inner_kind(p.axis[p.inner]) : InnerKind::kAny) {
    case InnerKind::kSingle:
      return launch_backward<T, uint8_t, Index, 1>(p, chosen.threads, stream);
    case InnerKind::kTwo:
      return launch_backward<T, uint8_t, Index, 2>(p, chosen.threads, stream);
    case InnerKind::kFour:
      return launch_backward<T, uint8_t, Index, 4>(p, chosen.threads, stream);
    default:
      return launch_backward<T, uint8_t, Index, 0>(p, chosen.threads, stream);
  }
}

}  // namespace fastconv::depth_max_pool
