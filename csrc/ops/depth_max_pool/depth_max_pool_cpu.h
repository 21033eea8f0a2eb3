// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernels of depth max pooling.  A task is a piece of one inner run of y (dx in backward);
// tasks are independent, and torch.cpp spreads them over threads.
#pragma once

#include "common/isa.h"
#include "ops/depth_max_pool/depth_max_pool.h"

namespace fastconv::depth_max_pool {

// Elements of a run in one task: a multiple of every vector block of the kernels, forward (outputs)
// and backward (inputs, counted in strides).
constexpr int64_t kRunPiece = 4096;

constexpr int64_t forward_pieces(const Forward& p) {
  return ceil_div(p.axis[p.inner].out, kRunPiece);
}
constexpr int64_t backward_pieces(const Backward& p) {
  return ceil_div(ceil_div(p.axis[p.inner].in, p.axis[p.inner].stride), kRunPiece);
}
constexpr int64_t forward_tasks(const Forward& p) {
  return p.out_elements() / p.axis[p.inner].out * forward_pieces(p);
}
constexpr int64_t backward_tasks(const Backward& p) {
  return p.in_elements() / p.axis[p.inner].in * backward_pieces(p);
}

// What a thread needs beside the tensors: a list of the taps, or windows, of the outer axes.
constexpr int64_t scratch_bytes(const Problem& p) {
  return p.taps() / p.axis[p.inner].kernel * 4 * static_cast<int64_t>(sizeof(int64_t));
}

FASTCONV_DECLARE_ISA(void, forward, const Forward& p, void* scratch, int64_t begin, int64_t end)
FASTCONV_DECLARE_ISA(void, backward, const Backward& p, void* scratch, int64_t begin, int64_t end)

}  // namespace fastconv::depth_max_pool
