// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Forward and the gradient of the input for large filters, on the FMA units: every dtype.
#pragma once

#include "common/activation.cuh"
#include "common/gpu.h"
#include "ops/depthwise_conv/large_correlate.cuh"
#include "ops/depthwise_conv/large_launch.cuh"

namespace fastconv::depthwise_conv {

template <class T>
__global__ void __launch_bounds__(kLargeThreads, kLargeBlocks<T>)
    large_gather_kernel(const LargeGather g) {
  using A = Accum<T>;
  FASTCONV_DYNAMIC_SMEM(unsigned char, smem);
  A* filters = reinterpret_cast<A*>(smem);
  T* tile = reinterpret_cast<T*>(smem + g.shape.filter_bytes);
  const LargeShape& s = g.shape;
  const LargePlace at = large_place(s, g.channels, g.batch);
  const Rows rows = rows_read(g.y, at.y, s.height);
  const int lead = s.lead - g.x.pad;  // columns of the tile left of those that the first tap meets
  copy_planes(g.in, s, at, at.x - s.lead, rows, tile);
  // What lies around the filter's rows is never read.
  for_each_tap<T>(g, at, [&](int channel, int r, int column, T tap) {
    filters[channel * s.filter_plane + r * s.filter_pitch + lead % kChunk + column] =
        gpu::widen(tap);
  });
  gpu::cp_async_wait<0>();
  __syncthreads();

  const int thread = threadIdx.x, planes = s.planes();
  const int strip = thread / planes, plane = thread - strip * planes;
  const int strip_y = strip / s.across, strip_x = strip - strip_y * s.across;
  const int image = plane / s.channels, channel = plane - image * s.channels;
  const int n = at.image + image, c = at.channel + channel;
  const int y = at.y + strip_y * kStripRows, x = at.x + strip_x * kStripWidth;
  if (image >= at.images || channel >= at.channels || y >= g.y.out || x >= g.x.out) return;

  // The warp's first and last rows of strips bound the steps of all its lanes.
  const int last_thread = min(thread | 31, s.threads() - 1);
  const int first_y = at.y + (thread & ~31) / planes / s.across * kStripRows;
  const int last_y = at.y + last_thread / planes / s.across * kStripRows;
  const int begin = max(g.y.pad - last_y, 0);
  const int end = min(g.y.kernel + kStripRows - 1, g.y.in + g.y.pad - first_y);

  A sums[kStripRows][kStripWidth];
#pragma unroll
  for (int q = 0; q < kStripRows; ++q) {
#pragma unroll
    for (int p = 0; p < kStripWidth; ++p) sums[q][p] = 0;
  }
  const int shift = lead % kChunk, taps_end = (shift + g.x.kernel) % kChunk;
  const Chunks chunks = {s.filter_pitch / kChunk, 0xfu << shift & 0xf,
                         taps_end == 0 ? 0xfu : (1u << taps_end) - 1};
  correlate(tile + plane * s.plane + (y - g.y.pad - rows.first) * s.pitch + x - at.x + lead - shift,
            s.pitch, filters + channel * s.filter_plane, s.filter_pitch, g.y.kernel, chunks, begin,
            end, g.y.pad - y, g.y.pad - y + g.y.in, sums);

  A bias = 0;
  if (g.bias != nullptr) bias = gpu::widen(static_cast<const T*>(g.bias)[c]);
#pragma unroll
  for (int i = 0; i < kStripRows * kStripWidth; ++i) sums[i / kStripWidth][i % kStripWidth] += bias;
  activate<kStripRows * kStripWidth>(
      g.activation, [&](int i) -> A& { return sums[i / kStripWidth][i % kStripWidth]; });
  T* out = static_cast<T*>(g.out) + n * g.out_n + c * g.out_c + y * g.out_y + x * g.out_x;
  constexpr int kPack = kPackBytes / static_cast<int>(sizeof(T));
#pragma unroll
  for (int q = 0; q < kStripRows; ++q, out += g.out_y) {
    if (y + q >= g.y.out) break;
    if (g.packed_stores && x + kStripWidth <= g.x.out) {
#pragma unroll
      for (int p = 0; p < kStripWidth; p += kPack) {
        Pack<T, kPack> pack;
#pragma unroll
        for (int i = 0; i < kPack; ++i) pack.v[i] = gpu::narrow<T>(sums[q][p + i]);
        gpu::store_pack<T, kPack>(out + p, pack);
      }
    } else {
#pragma unroll
      for (int p = 0; p < kStripWidth; ++p) {
        if (x + p < g.x.out) out[p * g.out_x] = gpu::narrow<T>(sums[q][p]);
      }
    }
  }
}

template <class T>
cudaError_t launch_large_gather(const LargeGather& g, cudaStream_t stream) {
  return FASTCONV_LAUNCH(large_gather_kernel<T>, dim3(static_cast<unsigned>(g.shape.grid())),
                         dim3(static_cast<unsigned>(g.shape.threads())),
                         static_cast<size_t>(g.shape.smem), stream, g);
}

}  // namespace fastconv::depthwise_conv
