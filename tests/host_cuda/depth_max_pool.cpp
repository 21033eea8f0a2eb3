// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// C functions over the launchers of depth max pooling.
#include "ops/depth_max_pool/backward.cuh"
#include "ops/depth_max_pool/depth_max_pool_cuda.h"
#include "ops/depth_max_pool/forward.cuh"

using namespace fastconv;
using namespace fastconv::depth_max_pool;

namespace {

// Axes are (in, out, kernel, stride, dilation, pad) four times; strides are (n, C, D, H, W).
void set(Problem& p, int dtype, int index_type, int inner, int64_t batch, const int64_t* axes) {
  p.dtype = static_cast<Dtype>(dtype);
  p.index_type = static_cast<IndexType>(index_type);
  p.inner = inner;
  p.batch = batch;
  for (int a = 0; a < kAxes; ++a, axes += 6) {
    p.axis[a] = {axes[0], axes[1], axes[2], axes[3], axes[4], axes[5]};
  }
}
Strides strides(const int64_t* s) { return {s[0], {s[1], s[2], s[3], s[4]}}; }

// The 64-bit instantiation of a small problem.
template <class Run>
cudaError_t wide(Dtype dtype, const Run& run) {
  switch (dtype) {
    case Dtype::kFloat64:
      return run(double{});
    case Dtype::kFloat16:
      return run(gpu::half{});
    case Dtype::kBFloat16:
      return run(gpu::bfloat16{});
    default:
      return run(float{});
  }
}

}  // namespace

extern "C" {

int forward(int dtype, int index_type, int inner, int64_t batch, const int64_t* axes, const void* x,
            const int64_t* x_strides, void* y, void* index, const int64_t* y_strides, int tile,
            bool wide_index) {
  host_cuda::calling("forward_cuda", tile);
  Forward p{};
  set(p, dtype, index_type, inner, batch, axes);
  p.x = x;
  p.x_strides = strides(x_strides);
  p.y = y;
  p.index = index;
  p.y_strides = strides(y_strides);
  merge_plain_axes(p, {&p.x_strides, &p.y_strides});
  merge_pixels_into_channels(p, {&p.x_strides, &p.y_strides}, {true, false});
  if (!wide_index) return forward_cuda(p, tile, nullptr);
  return wide(p.dtype,
              [&](auto t) { return forward_typed<decltype(t), int64_t>(p, tile, nullptr); });
}

int backward(int dtype, int index_type, int inner, int64_t batch, const int64_t* axes,
             const void* dy, const int64_t* dy_strides, const void* index,
             const int64_t* index_strides, void* dx, const int64_t* dx_strides, int tile,
             bool wide_index) {
  host_cuda::calling("backward_cuda", tile);
  Backward p{};
  set(p, dtype, index_type, inner, batch, axes);
  p.dy = dy;
  p.dy_strides = strides(dy_strides);
  p.index = index;
  p.index_strides = strides(index_strides);
  p.dx = dx;
  p.dx_strides = strides(dx_strides);
  merge_plain_axes(p, {&p.dy_strides, &p.index_strides, &p.dx_strides});
  merge_pixels_into_channels(p, {&p.dy_strides, &p.index_strides, &p.dx_strides},
                             {false, false, true});
  if (!wide_index) return backward_cuda(p, tile, nullptr);
  return wide(p.dtype,
              [&](auto t) { return backward_typed<decltype(t), int64_t>(p, tile, nullptr); });
}

int tile_count() { return kTileCount; }

}  // extern "C"
