// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The gradient of the weight for large filters, on the tensor cores: 16-bit types.
//
// For filter column s, the products of 16 rows of dy with rows of `in`, summed over columns,
//
//   G[a, b] = sum_x dy[y + a, x] * in[y - pad + r0 + b, x + s - pad]
//
// hold on their diagonals what the filter rows need: dw[r0 + i, s] = sum_a G[a, a + i].  G is kept
// in registers for all tiles and images of a block, six groups of eight rows for 33 filter rows,
// and its diagonals are added up once.  A group of rows of `in` meets up to three tiles of dy rows.
//
// Columns x + s begin at odd elements for odd s.  A warp takes two neighbouring filter columns, the
// first of them even: the words of the one are halves of the words of the other.
#pragma once

#include "common/gpu.h"
#include "ops/depthwise_conv/large_weight_common.cuh"

namespace fastconv::depthwise_conv {

constexpr int kBandSumGroups = 6, kDyTiles = 4;

// The products of a tile: `dy` and `in` point to what the lane reads of row 0 and column 0.
// [first, first + rows) of the rows of `in` exist.
template <class T>
__device__ __forceinline__ void multiply_tiles(const T* dy, int dy_pitch, int dy_tiles, int width,
                                               const T* in, int pitch, const T* zeros, int first,
                                               int rows, int groups,
                                               float (&sums)[2][kBandSumGroups][4]) {
  const int group = threadIdx.x % 32 / 4;
#pragma unroll 1
  for (int x = 0; x < width; x += 16, dy += 16, in += 16, zeros += 16) {
    uint32_t a[kDyTiles][4] = {};
#pragma unroll
    for (int j = 0; j < kDyTiles; ++j) {
      if (j >= dy_tiles) continue;
      const T* row = dy + 16 * j * dy_pitch;
      a[j][0] = load_pair(row);
      a[j][1] = load_pair(row + 8 * dy_pitch);
      a[j][2] = load_pair(row + 8);
      a[j][3] = load_pair(row + 8 * dy_pitch + 8);
    }
#pragma unroll
    for (int r = 0; r < kBandSumGroups + 2 * (kDyTiles - 1); ++r) {
      if (8 * r + 7 < first || 8 * r >= first + rows) continue;
      const int row = 8 * r + group - first;
      const bool exists = static_cast<unsigned>(row) < static_cast<unsigned>(rows);
      const T* columns = exists ? in + 8 * r * pitch : zeros;
      const uint32_t w0 = load_pair(columns), w1 = load_pair(columns + 2);
      const uint32_t w4 = load_pair(columns + 8), w5 = load_pair(columns + 10);
      const uint32_t even[2] = {w0, w4};
      const uint32_t odd[2] = {w0 >> 16 | w1 << 16, w4 >> 16 | w5 << 16};
#pragma unroll
      for (int j = 0; j < kDyTiles; ++j) {
        const int n = r - 2 * j;
        if (n < 0 || n >= kBandSumGroups) continue;
        if (j >= dy_tiles || n >= groups) continue;
        gpu::mma_m16n8k16<T>(sums[0][n], a[j], even);
        gpu::mma_m16n8k16<T>(sums[1][n], a[j], odd);
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kBandWarps * 32, 1)
    large_weight_bands_kernel(const LargeWeight g) {
  FASTCONV_DYNAMIC_SMEM(unsigned char, smem);
  const LargeShape& s = g.shape.block;
  T* x_tile = reinterpret_cast<T*>(smem);
  T* zeros = x_tile + s.channels * s.plane;
  T* dy_tile = reinterpret_cast<T*>(smem + g.shape.x_bytes);
  int rest = static_cast<int>(blockIdx.x);
  const int task_blocks = static_cast<int>(g.shape.task_blocks);
  const int channel_blocks = static_cast<int>(s.channel_blocks);
  const int task_block = rest % task_blocks;
  rest /= task_blocks;
  const int first_channel = rest % channel_blocks * s.channels, split = rest / channel_blocks;
  const int shift = s.lead - g.x.pad;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
  const int in_block = warp / s.channels, channel = warp - in_block * s.channels;
  const int task = task_block * s.across + in_block;
  const int row_block = task / g.shape.pairs;
  const int first_row = row_block * kBandTaps;
  // The first of the two filter columns, counted from `shift` columns left of the filter.
  const int column = (shift / 2 + task - row_block * g.shape.pairs) * 2;
  const int taps = min(g.y.kernel - first_row, kBandTaps);
  const bool works = taps > 0 && first_channel + channel < g.channels;
  const bool sums_bias = g.with_bias && task == 0;

  float sums[2][kBandSumGroups][4] = {};
  float bias = 0;
#pragma unroll 1
  for (int item = split; item < g.items; item += g.splits) {
    const LargePlace at = weight_place(g, item, first_channel);
    const Rows rows = rows_read(g.y, at.y, s.height);
    const Rows dy_rows = {at.y, min(at.y + s.height, g.y.out)};
    copy_planes(g.x_copy, s, at, at.x - s.lead, rows, x_tile);
    copy_planes(g.dy, s, at, at.x, dy_rows, dy_tile);
    // Tiles of 16 rows of dy end with zeros, and so do rows that the copies leave out.
    for (int i = threadIdx.x; i < s.pitch; i += s.threads()) zeros[i] = gpu::narrow<T>(0);
    const int tail = s.height - dy_rows.count();
    for (int i = threadIdx.x; i < s.channels * tail * g.dy.pitch; i += s.threads()) {
      const int plane = i / (tail * g.dy.pitch);
      dy_tile[plane * g.dy.plane + dy_rows.count() * g.dy.pitch + i - plane * tail * g.dy.pitch] =
          gpu::narrow<T>(0);
    }
    gpu::cp_async_wait<0>();
    __syncthreads();
    if (works) {
      const int width = min(g.x.out - at.x, s.width);
      const T* dy = dy_tile + channel * g.dy.plane;
      const int in_y = at.y + first_row - g.y.pad;  // the row of `in` that is the first of G's
      multiply_tiles(
          dy + group * g.dy.pitch + 2 * pair, g.dy.pitch, (dy_rows.count() + 15) / 16, width,
          x_tile + channel * s.plane + (in_y - rows.first + group) * s.pitch + column + 2 * pair,
          s.pitch, zeros + column + 2 * pair, rows.first - in_y, max(rows.count(), 0),
          (taps + 15 + 7) / 8, sums);
      if (sums_bias) {
        for (int y = 0; y < dy_rows.count(); ++y) {
          for (int x = lane; x < width; x += 32) bias += gpu::widen(dy[y * g.dy.pitch + x]);
        }
      }
    }
    __syncthreads();
  }

  // Each warp has 16 rows of shared memory to itself.
  float* matrix = reinterpret_cast<float*>(smem) + warp * 16 * kBandSumPitch;
  if (!works) return;
  const int all_taps = g.y.kernel * g.x.kernel;
  float* partial = static_cast<float*>(g.partial) +
                   static_cast<int64_t>(split) * (all_taps + 1) * g.channels + first_channel +
                   channel;
#pragma unroll
  for (int second = 0; second < 2; ++second) {
#pragma unroll
    for (int n = 0; n < kBandSumGroups; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        matrix[(group + e / 2 * 8) * kBandSumPitch + 8 * n + 2 * pair + e % 2] = sums[second][n][e];
      }
    }
    __syncwarp();
    const int filter_column = column + second - shift;
    for (int i = lane; i < taps; i += 32) {
      if (filter_column < 0 || filter_column >= g.x.kernel) break;
      float sum = 0;
      for (int a = 0; a < 16; ++a) sum += matrix[a * kBandSumPitch + a + i];
      const int r = first_row + i;
      if (sum - sum != 0) {
        sum = plain_tap<T>(g, split, first_channel + channel, 0, 0, r, filter_column);
      }
      partial[static_cast<int64_t>(r * g.x.kernel + filter_column) * g.channels] = sum;
    }
    __syncwarp();
  }
  if (sums_bias) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) bias += __shfl_xor_sync(~0u, bias, lanes);
    if (lane == 0) partial[static_cast<int64_t>(all_taps) * g.channels] = bias;
  }
}

template <class T>
cudaError_t launch_large_weight_bands(const LargeWeight& g, cudaStream_t stream) {
  return launch_weight<T>(large_weight_bands_kernel<T>, g, stream);
}

}  // namespace fastconv::depthwise_conv
