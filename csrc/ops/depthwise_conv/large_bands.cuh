// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Forward and the gradient of the input for large filters, on the tensor cores: 16-bit types.
//
// A warp multiplies band matrices of filter rows with windows of `in` (large_tiles.h).  With u in
// units of 8 columns, a lane's registers of A hold pairs of one padded filter row,
//
//   pair(u) = P[8u + 2t - g + 16], P[... + 1]     lane 4g + t;  P[16 + shift + s] = filter[r, s]
//
// and zeros around: A's registers for its columns [16k, 16k + 16) are pair(2k), pair(2k - 1),
// pair(2k + 1), pair(2k).  A pair begins at an odd element where g is odd: those lanes read a copy
// of the row that is shifted by one.
//
// The pairs of a filter row, loaded once, meet kBandGroups windows of eight rows; a register of B
// (columns 16m + 2t and 16m + 2t + 1 of row g) serves kBandTiles matrices.  For a filter row of 31
// taps that is 24 products on 39 words from shared memory.
//
// The zeros of A would make NaN of infinities that a result does not meet.  Such results, and those
// that are infinite, are computed anew from shared memory.
#pragma once

#include "common/activation.cuh"
#include "common/gpu.h"
#include "ops/depthwise_conv/large_launch.cuh"

namespace fastconv::depthwise_conv {

// The filters as padded rows, [row][copy], and a row of zeros behind the planes.
template <class T>
__device__ __forceinline__ void copy_bands(const LargeGather& g, const LargePlace& at, int shift,
                                           T* filters, T* zeros) {
  const LargeShape& s = g.shape;
  const T zero = gpu::narrow<T>(0);
  for (int i = threadIdx.x; i < s.channels * s.filter_plane; i += s.threads()) filters[i] = zero;
  for (int i = threadIdx.x; i < s.pitch; i += s.threads()) zeros[i] = zero;
  __syncthreads();
  for_each_tap<T>(g, at, [&](int channel, int r, int column, T tap) {
    T* row = filters + channel * s.filter_plane + 2 * r * s.filter_pitch + 16 + shift + column;
    row[0] = tap;
    row[s.filter_pitch - 1] = tap;
  });
}

// What a warp works on.
template <class T>
struct Bands {
  const T* in;       // row 0 and column 0 of the plane that the warp's first result meets
  const T* zeros;    // a row of them
  const T* filters;  // of the channel
  int pitch, filter_pitch, filter_rows, steps;
  int row_begin, row_end;  // the rows of `in` that exist, counted from `in`
  int groups;              // of eight rows that hold results
  uint32_t zero;           // 0, which the compiler does not know
};

// Products for every filter row, kSteps * 16 columns of A at a time: kSteps divides b.steps.
template <int kSteps, int kTiles, class T>
__device__ __forceinline__ void multiply_bands(const Bands<T>& b,
                                               float (&sums)[kBandGroups][kBandTiles][4]) {
  const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
  // pair(u) is at element 8u of this.
  const T* pairs = b.filters + 2 * pair - group + 16 + (group % 2) * (b.filter_pitch - 1);
  const int rows = max(b.row_end - b.row_begin, 0);
  const int begin = max(b.row_begin - 8 * b.groups + 1, 0), end = min(b.filter_rows, b.row_end);
#pragma unroll 1
  for (int step = 0; step < b.steps; step += kSteps) {
    const T* filter = pairs + 2 * begin * b.filter_pitch + 16 * step;
    const T* mine = b.in + (begin + group) * b.pitch + 16 * step + 2 * pair;
    const T* zeros = b.zeros + 16 * step + 2 * pair;
    int first = begin - b.row_begin;  // the first of eight rows, counted from those that exist
#pragma unroll 1
    for (int r = begin; r < end; ++r, ++first, filter += 2 * b.filter_pitch, mine += b.pitch) {
      // A pair that is needed twice is two values to the compiler, which would else copy it to its
      // place before every product.
      uint32_t matrix[kSteps][4];
      uint32_t next = load_pair(filter - 8);
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        matrix[k][0] = load_pair(filter + 16 * k);
        matrix[k][1] = next;
        matrix[k][2] = load_pair(filter + 16 * k + 8);
        matrix[k][3] = matrix[k][0] ^ b.zero;
        next = matrix[k][2] ^ b.zero;
      }
      auto multiply = [&](int j, float(&to)[kBandTiles][4]) {
        const bool exists =
            static_cast<unsigned>(first + 8 * j + group) < static_cast<unsigned>(rows);
        const T* columns = exists ? mine + 8 * j * b.pitch : zeros;
        uint32_t x[kSteps + kTiles - 1][2];
#pragma unroll
        for (int m = 0; m < kSteps + kTiles - 1; ++m) {
          x[m][0] = load_pair(columns + 16 * m);
          x[m][1] = load_pair(columns + 16 * m + 8);
        }
#pragma unroll
        for (int k = 0; k < kSteps; ++k) {
#pragma unroll
          for (int i = 0; i < kTiles; ++i) gpu::mma_m16n8k16<T>(to[i], matrix[k], x[k + i]);
        }
      };
      // Without a branch between them, the loads of one group pass the products of another.
      if (b.groups == kBandGroups && first > -8 && first + 8 * (kBandGroups - 1) < rows) {
#pragma unroll
        for (int j = 0; j < kBandGroups; ++j) multiply(j, sums[j]);
      } else {
#pragma unroll
        for (int j = 0; j < kBandGroups; ++j) {
          if (j < b.groups && first + 8 * j > -8 && first + 8 * j < rows) multiply(j, sums[j]);
        }
      }
    }
  }
}

// One result in plain order, of the elements that it meets.
template <class T>
__device__ __forceinline__ float plain_result(const Bands<T>& b, int y, int x, int shift,
                                              int filter_width) {
  float sum = 0;
  for (int r = 0; r < b.filter_rows; ++r) {
    if (y + r < b.row_begin || y + r >= b.row_end) continue;
    const T* in = b.in + (y + r) * b.pitch + x + shift;
    const T* filter = b.filters + 2 * r * b.filter_pitch + 16 + shift;
    for (int s = 0; s < filter_width; ++s) sum += gpu::widen(filter[s]) * gpu::widen(in[s]);
  }
  return sum;
}

// Writes the block's results, [plane][row][column] in shared memory, 16 bytes at a time if it can.
template <class T>
__device__ __forceinline__ void store_results(const LargeGather& g, const LargePlace& at,
                                              const T* results) {
  constexpr int kPack = kPackBytes / static_cast<int>(sizeof(T));
  const LargeShape& s = g.shape;
  const int pitch = s.width + kPack;
  const int height = min(s.height, g.y.out - at.y), width = min(s.width, g.x.out - at.x);
  const bool by_channel = g.store_channels > 0;
  const int unit = by_channel ? g.store_channels : g.packed_stores ? kPack : 1;
  const int units = by_channel ? s.channels / unit * s.width : s.width / unit;
  const int rows = (by_channel ? s.images : s.planes()) * s.height;
  // Threads share out the units of a row, or several rows where these are short.
  for (int i = threadIdx.x; i < rows * units; i += s.threads()) {
    const int row = g.store_units.divide(i), place = i - row * units;
    const int first_plane = row / s.height, y = row - first_plane * s.height;
    int plane = first_plane, x = place * unit;
    if (by_channel) {
      const int in_pixel = s.channels / unit;
      x = g.store_packs.divide(place);
      plane = first_plane * s.channels + (place - x * in_pixel) * unit;
    }
    const int image = plane / s.channels, channel = plane - image * s.channels;
    if (y >= height || x >= width || channel >= at.channels || image >= at.images) continue;
    T* out = static_cast<T*>(g.out) + (at.image + image) * g.out_n +
             (at.channel + channel) * g.out_c + (at.y + y) * g.out_y + (at.x + x) * g.out_x;
    const T* from = results + (plane * s.height + y) * pitch + x;
    if (unit == 1) {
      *out = *from;
      continue;
    }
    Pack<T, kPack> pack;
    if (by_channel) {
#pragma unroll
      for (int c = 0; c < kPack; ++c) pack.v[c] = from[c * s.height * pitch];
    } else {
      pack = gpu::load_pack<T, kPack>(from);
    }
    gpu::store_pack<T, kPack>(out, pack);
  }
}

template <class T, int kSteps>
__global__ void __launch_bounds__(kLargeThreads, 2) large_bands_kernel(const LargeGather g) {
  FASTCONV_DYNAMIC_SMEM(unsigned char, smem);
  const LargeShape& s = g.shape;
  T* filters = reinterpret_cast<T*>(smem);
  T* tile = reinterpret_cast<T*>(smem + s.filter_bytes);
  T* zeros = tile + s.planes() * s.plane;
  const LargePlace at = large_place(s, g.channels, g.batch);
  const Rows rows = rows_read(g.y, at.y, s.height);
  const int shift = s.lead - g.x.pad;
  copy_planes(g.in, s, at, at.x - s.lead, rows, tile);
  copy_bands(g, at, shift, filters, zeros);
  gpu::cp_async_wait<0>();
  __syncthreads();

  const int warp = threadIdx.x / 32, planes = s.planes();
  const int strip = warp / planes, plane = warp - strip * planes;
  const int strip_y = strip / s.across, strip_x = strip - strip_y * s.across;
  const int image = plane / s.channels, channel = plane - image * s.channels;
  const int y = strip_y * kBandRows, x = strip_x * kBandWidth;  // in the tile
  const int height = min(g.y.out - at.y - y, kBandRows),
            width = min(g.x.out - at.x - x, kBandWidth);
  const bool works = image < at.images && channel < at.channels && height > 0 && width > 0;
  constexpr int kSums = kBandTiles * kBandGroups * 4;
  static_assert(kSums <= 32);
  float sums[kBandGroups][kBandTiles][4] = {};
  if (works) {
    // Row 0 of the warp is row at.y + y - pad of the plane, of which rows.first is the tile's
    // first.
    const int first = at.y + y - g.y.pad;
    const Bands<T> bands = {tile + plane * s.plane + (first - rows.first) * s.pitch + x,
                            zeros,
                            filters + channel * s.filter_plane,
                            s.pitch,
                            s.filter_pitch,
                            g.y.kernel,
                            s.steps,
                            rows.first - first,
                            rows.end - first,
                            (height + 7) / 8,
                            static_cast<uint32_t>(s.lanes - 32)};
    static_assert(kBandTiles == 2);
    if (width > 16) {
      multiply_bands<kSteps, 2>(bands, sums);
    } else {
      multiply_bands<kSteps, 1>(bands, sums);
    }
    const int lane = threadIdx.x % 32;
    uint32_t odd = 0;  // bit (j * kBandTiles + i) * 4 + e: not finite
#pragma unroll
    for (int n = 0; n < kSums; ++n) {
      const float sum = sums[n / 4 / kBandTiles][n / 4 % kBandTiles][n % 4];
      if (sum - sum != 0) odd |= 1u << n;
    }
#pragma unroll 1
    for (int n = 0; n < kSums && odd != 0; ++n) {
      const int e = n % 4, i = n / 4 % kBandTiles, j = n / 4 / kBandTiles;
      const int in_y = 8 * j + lane % 4 * 2 + e % 2, in_x = 16 * i + lane / 4 + e / 2 * 8;
      if ((odd >> n & 1) == 0 || in_y >= height || in_x >= width) continue;
      const float sum = plain_result(bands, in_y, in_x, shift, g.x.kernel);
#pragma unroll
      for (int other = 0; other < kSums; ++other) {
        if (other == n) sums[other / 4 / kBandTiles][other / 4 % kBandTiles][other % 4] = sum;
      }
    }
  }
  __syncthreads();  // the results take the planes' place
  if (works) {
    float bias = 0;
    if (g.bias != nullptr) bias = gpu::widen(static_cast<const T*>(g.bias)[at.channel + channel]);
    float(&flat)[kSums] = reinterpret_cast<float(&)[kSums]>(sums);
#pragma unroll
    for (int i = 0; i < kSums; ++i) flat[i] += bias;
    activate(g.activation, flat);
    const int lane = threadIdx.x % 32, pitch = s.width + kPackBytes / static_cast<int>(sizeof(T));
    T* results = tile + (plane * s.height + y + lane % 4 * 2) * pitch + x + lane / 4;
#pragma unroll
    for (int i = 0; i < kBandTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kBandGroups; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          results[(8 * j + e % 2) * pitch + 16 * i + e / 2 * 8] = gpu::narrow<T>(sums[j][i][e]);
        }
      }
    }
  }
  __syncthreads();
  store_results(g, at, tile);
}

template <class T>
cudaError_t launch_large_bands(const LargeGather& g, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(g.shape.grid()));
  const dim3 block(static_cast<unsigned>(g.shape.threads()));
  const auto smem = static_cast<size_t>(g.shape.smem);
  return g.shape.steps % 3 == 0
             ? FASTCONV_LAUNCH((large_bands_kernel<T, 3>), grid, block, smem, stream, g)
             : FASTCONV_LAUNCH((large_bands_kernel<T, 2>), grid, block, smem, stream, g);
}

}  // namespace fastconv::depthwise_conv
