// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the rooms' torch.cpp files share: the one common header that sees ATen.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/variable.h>

#include <vector>

#if defined(FASTCONV_WITH_CUDA)
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#elif !defined(FASTCONV_NO_CUDA_REASON)
#define FASTCONV_NO_CUDA_REASON "this build is for the CPU"
#endif

#include "common/types.h"

namespace fastconv {

inline Dtype to_dtype(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return Dtype::kFloat64;
    case at::kHalf:
      return Dtype::kFloat16;
    case at::kBFloat16:
      return Dtype::kBFloat16;
    default:
      return Dtype::kFloat32;
  }
}

inline bool is_arithmetic_dtype(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16;
}

// True where an opaque autograd node cannot serve: inside a torch.func transform, or with a
// forward-mode tangent.  The op is then built from native ops, which torch knows how to transform.
inline bool needs_decomposition(at::ArrayRef<at::Tensor> tensors) {
  // Set for as long as any transform is on functorch's stack (its own header needs a library that
  // torch does not ship).
  if (c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode)) {
    return true;
  }
  for (const at::Tensor& t : tensors) {
    if (t.defined() && t._fw_grad(/*level=*/0).defined()) return true;
  }
  return false;
}

// Whether autograd must record a call on these tensors.
inline bool needs_graph(at::ArrayRef<at::Tensor> tensors) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& t : tensors) {
    if (t.defined() && t.requires_grad()) return true;
  }
  return false;
}

// Threads over [0, tasks): `run(begin, end)` may be called from several threads at once.  `work`
// is the cost of one task in elementary steps (about a nanosecond each); with less than a grain to
// do nothing is woken up.  (5x5 on 1x576x7x7 takes 33 us on one thread of a Zen 4, 20 on two.)
template <class Run>
void parallel_tasks(int64_t tasks, int64_t work, const Run& run) {
  constexpr int64_t kGrain = 16384;
  at::parallel_for(0, tasks, max_of(1, kGrain / max_of(1, work)), run);
}

// Per-thread scratch that grows and is kept: kernels usually need a few hundred KiB.
inline void* thread_scratch(int64_t bytes) {
  thread_local std::vector<char> buffer;
  constexpr int64_t kAlign = 64;
  if (static_cast<int64_t>(buffer.size()) < bytes + kAlign) buffer.resize(bytes + kAlign);
  return reinterpret_cast<void*>(round_up(reinterpret_cast<intptr_t>(buffer.data()), kAlign));
}

// Runs `launch(stream)` on the device and current stream of `t`, and raises its error.
template <class Launch>
void launch_cuda(const at::Tensor& t, [[maybe_unused]] const Launch& launch) {
#if defined(FASTCONV_WITH_CUDA)
  const c10::cuda::CUDAGuard guard(t.device());
  C10_CUDA_CHECK(launch(c10::cuda::getCurrentCUDAStream().stream()));
#else
  TORCH_CHECK(false,
              "fastconv was built without CUDA kernels: " FASTCONV_NO_CUDA_REASON
              ". Reinstall it with an nvcc that matches torch's CUDA (python -m fastconv "
              "says what is missing), or move the tensor (",
              t.device(), ") to the CPU.");
#endif
}

}  // namespace fastconv
