// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Depth max pooling, backward by scattering: every window adds its gradient to its winner.  See
// Slabs for why that is safe and reproducible.
#pragma once

#include "ops/depth_max_pool/cpu_gather-inl.h"

namespace fastconv::depth_max_pool::FASTCONV_ISA {

template <class T>
struct ScatterRun {
  using A = Accum<T>;
  static constexpr int kL = kLanes<A>;
  static constexpr int kPiece = 64;  // gradients widened at a time

  const Backward& p;
  Axis inner;
  Slabs slabs;
  Codes codes;
  int64_t* places;  // of each tap: its distance in dx from the start of the window
  void* sums;
  bool disjoint;
  int64_t pixels, channels;

  ScatterRun(const Backward& p_in, void* scratch)
      : p(p_in),
        inner(p_in.axis[p_in.inner]),
        slabs(slabs_of(p_in)),
        codes(codes_of(p_in)),
        places(static_cast<int64_t*>(scratch)),
        sums(scratch),
        disjoint(is_disjoint(p_in)),
        pixels(p_in.axis[1].in * p_in.axis[2].in * p_in.axis[3].in),
        channels(p_in.axis[0].in) {
    if (p.index_type == IndexType::kInt64) return;
    const Axis* a = p.axis;
    const int64_t* s = p.dx_strides.axis;
    int64_t* next = places;
    for (int64_t k0 = 0; k0 < a[0].kernel; ++k0) {
      for (int64_t k1 = 0; k1 < a[1].kernel; ++k1) {
        for (int64_t k2 = 0; k2 < a[2].kernel; ++k2) {
          for (int64_t k3 = 0; k3 < a[3].kernel; ++k3) {
            *next++ = k0 * a[0].dilation * s[0] + k1 * a[1].dilation * s[1] +
                      k2 * a[2].dilation * s[2] + k3 * a[3].dilation * s[3];
          }
        }
      }
    }
    sums = places + round_up(p.taps() * 8, 64) / 8;
  }

  // One run of windows: gradients dy[0, count), winners index[0, count).  place(j) is where in the
  // slab window j's gradient goes.  With kCheck it may be outside of [0, size), which is anybody's
  // guess, so element 0 is then rewritten with itself instead of branching.
  template <bool kCheck, class Place>
  FASTCONV_INLINE void add(const T* dy, int64_t count, int64_t size, void* slab,
                           const Place& place) const {
    if (disjoint) {
      T* dx = static_cast<T*>(slab);
      for (int64_t j = 0; j < count; ++j) {
        const int64_t at = place(j);
        if constexpr (kCheck) {
          const bool ours = static_cast<uint64_t>(at) < static_cast<uint64_t>(size);
          const int64_t to = ours ? at : 0;
          const T* from = ours ? dy + j : dx;
          dx[to] = *from;
        } else {
          dx[at] = dy[j];
        }
      }
      return;
    }
    A* sum = static_cast<A*>(slab);
    for (int64_t begin = 0; begin < count; begin += kPiece) {
      A grads[kPiece];
      const int64_t n = min_of(kPiece, count - begin);
      const A* grad = widened(dy + begin, n, grads);
      for (int64_t j = 0; j < n; ++j) {
        const int64_t at = place(begin + j);
        if constexpr (kCheck) {
          const bool ours = static_cast<uint64_t>(at) < static_cast<uint64_t>(size);
          sum[ours ? at : 0] += ours ? grad[j] : A{0};
        } else {
          sum[at] += grad[j];
        }
      }
    }
  }
  FASTCONV_INLINE const A* widened(const T* dy, int64_t n, A* buffer) const {
    if constexpr (sizeof(T) == sizeof(A)) {
      return dy;
    } else {
      int64_t j = 0;
      for (; j + kL <= n; j += kL) store(buffer + j, load(dy + j));
      if (j < n) store(buffer + j, load_n(dy + j, static_cast<int>(n - j)));
      return buffer;
    }
  }

  // The windows of one run; `start` is the place of the first one's tap 0 relative to the slab.
  template <bool kCheck>
  FASTCONV_INLINE void add_run(const T* dy, int64_t index_at, int64_t count, int64_t start,
                               int64_t slab_at, int64_t size, void* slab) const {
    const int64_t step = inner.stride * p.dx_strides.axis[p.inner];
    if (p.index_type == IndexType::kUint8) {
      const auto* index = static_cast<const uint8_t*>(p.index) + index_at;
      add<kCheck>(dy, count, size, slab,
                  [&](int64_t j) { return start + j * step + places[index[j]]; });
    } else if (p.index_type == IndexType::kInt32) {
      const auto* index = static_cast<const int32_t*>(p.index) + index_at;
      add<kCheck>(dy, count, size, slab,
                  [&](int64_t j) { return start + j * step + places[index[j]]; });
    } else if (p.inner == 0) {
      const auto* index = static_cast<const int64_t*>(p.index) + index_at;
      add<kCheck>(dy, count, size, slab, [&](int64_t j) {
        return index[j] % pixels * channels + index[j] / pixels - slab_at;
      });
    } else {
      const auto* index = static_cast<const int64_t*>(p.index) + index_at;
      add<kCheck>(dy, count, size, slab, [&](int64_t j) { return index[j] - slab_at; });
    }
  }

  // All windows that reach into coordinates [c0, c1) of the slab's axis, of image n.
  FASTCONV_INLINE void slab(int64_t n, int64_t c0, int64_t c1) const {
    const int64_t slab_at = c0 * slabs.plane, size = (c1 - c0) * slabs.plane;
    T* dx = static_cast<T*>(p.dx) + n * p.dx_strides.n + slab_at;
    const bool in_place = disjoint || sizeof(T) == sizeof(A);
    void* target = in_place ? static_cast<void*>(dx) : sums;
    std::memset(target, 0, static_cast<size_t>(size) * (in_place ? sizeof(T) : sizeof(A)));

    int64_t first[kAxes], last[kAxes];
    for (int a = 0; a < kAxes; ++a) {
      first[a] = 0;
      last[a] = p.axis[a].out - 1;
    }
    const Axis& cut = p.axis[slabs.axis];
    const int64_t reach = (cut.kernel - 1) * cut.dilation;
    if (c0 + cut.pad > reach) {
      first[slabs.axis] = (c0 + cut.pad - reach + cut.stride - 1) / cut.stride;
    }
    last[slabs.axis] = min_of(cut.out - 1, (c1 - 1 + cut.pad) / cut.stride);

    const int a0 = p.inner == 0 ? 1 : 0, a1 = a0 + 1, a2 = a0 + 2, ai = p.inner;
    const int64_t begin = first[ai], count = last[ai] - begin + 1;
    const int64_t start0 = begin * inner.stride * p.dx_strides.axis[ai] - slab_at;
    int64_t pads = 0;
    for (int a = 0; a < kAxes; ++a) pads += p.axis[a].pad * p.dx_strides.axis[a];
    const auto at = [&](const Strides& s, int a, int64_t o) { return o * s.axis[a]; };
    const auto moved = [&](int a, int64_t o) {
      return o * p.axis[a].stride * p.dx_strides.axis[a];
    };
    const T* dy = static_cast<const T*>(p.dy) + n * p.dy_strides.n + at(p.dy_strides, ai, begin);
    const int64_t index = n * p.index_strides.n + at(p.index_strides, ai, begin);
    for (int64_t o0 = first[a0]; o0 <= last[a0]; ++o0) {
      for (int64_t o1 = first[a1]; o1 <= last[a1]; ++o1) {
        const int64_t dy_at = at(p.dy_strides, a0, o0) + at(p.dy_strides, a1, o1);
        const int64_t index_at = index + at(p.index_strides, a0, o0) + at(p.index_strides, a1, o1);
        const int64_t start = start0 - pads + moved(a0, o0) + moved(a1, o1);
        for (int64_t o2 = first[a2]; o2 <= last[a2]; ++o2) {
          const int64_t o_cut = slabs.axis == a0 ? o0 : slabs.axis == a1 ? o1 : o2;
          const int64_t from = o_cut * cut.stride - cut.pad;
          // Taps before or behind the whole input never win, so only a real neighbour matters.
          const bool whole =
              slabs.axis != ai && (c0 == 0 || from >= c0) && (c1 == cut.in || from + reach < c1);
          const T* dy_run = dy + dy_at + at(p.dy_strides, a2, o2);
          const int64_t index_run = index_at + at(p.index_strides, a2, o2);
          const int64_t start_run = start + moved(a2, o2);
          if (whole || slabs.count == 1) {
            add_run<false>(dy_run, index_run, count, start_run, slab_at, size, target);
          } else {
            add_run<true>(dy_run, index_run, count, start_run, slab_at, size, target);
          }
        }
      }
    }
    if (in_place) return;
    const auto* sum = static_cast<const A*>(sums);
    int64_t i = 0;
    for (; i + kL <= size; i += kL) store(dx + i, load(sum + i));
    if (i < size)
      store_n(dx + i, load_n(sum + i, static_cast<int>(size - i)), static_cast<int>(size - i));
  }

  FASTCONV_INLINE void tasks(int64_t begin, int64_t end) const {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t c0 = task % slabs.count * slabs.length;
      slab(task / slabs.count, c0, min_of(p.axis[slabs.axis].in, c0 + slabs.length));
    }
  }
};

int lanes() { return kLanes<float>; }

void scatter(const Backward& p, void* scratch, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case Dtype::kFloat32:
      return ScatterRun<float>(p, scratch).tasks(begin, end);
    case Dtype::kFloat64:
      return ScatterRun<double>(p, scratch).tasks(begin, end);
    case Dtype::kFloat16:
      return ScatterRun<f16>(p, scratch).tasks(begin, end);
    case Dtype::kBFloat16:
      return ScatterRun<bf16>(p, scratch).tasks(begin, end);
  }
}

}  // namespace fastconv::depth_max_pool::FASTCONV_ISA
