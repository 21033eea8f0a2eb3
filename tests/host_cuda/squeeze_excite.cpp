// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// A C function over the launcher of squeeze and excitation.
#include "common/gpu.h"
#include "ops/squeeze_excite/squeeze_excite_cuda.h"
#include "ops/squeeze_excite/tiles.h"

using namespace fastconv;
using namespace fastconv::squeeze_excite;

namespace {

Params params(int pass, int dtype, int channels_last, const int64_t* sizes) {
  Params p{};
  p.pass = static_cast<Pass>(pass);
  p.dtype = static_cast<Dtype>(dtype);
  p.channels_last = channels_last != 0;
  p.batch = sizes[0];
  p.channels = sizes[1];
  p.pixels = sizes[2];
  cut_for_cuda(p);
  return p;
}
Strides strides(const int64_t* s) { return {s[0], s[1], s[2]}; }

}  // namespace

extern "C" {

// Bytes of the workspace; sizes and strides are (n, c, p).
int64_t partial_bytes(int pass, int dtype, int channels_last, const int64_t* sizes) {
  return params(pass, dtype, channels_last, sizes).partial_bytes();
}

int run(int pass, int dtype, int channels_last, const int64_t* sizes, const void* x,
        const int64_t* x_strides, const void* dy, const int64_t* dy_strides,
        const void* per_channel, void* y, const int64_t* y_strides, void* sums, void* partial) {
  host_cuda::calling("run_cuda", -1);
  Params p = params(pass, dtype, channels_last, sizes);
  p.x = x;
  p.x_strides = strides(x_strides);
  p.dy = dy;
  p.dy_strides = strides(dy_strides);
  p.per_channel = per_channel;
  p.y = y;
  p.y_strides = strides(y_strides);
  p.sums = sums;
  p.partial = partial;
  return run_cuda(p, nullptr);
}

}  // extern "C"
