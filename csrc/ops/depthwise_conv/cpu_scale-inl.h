// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Contiguous filters of a single tap, at stride 1 or 2 along the rows: each channel times its
// weight, a load, a multiply-add and a store.  A plane without gaps is one row.
#pragma once

#include "common/lanes-inl.h"
#include "common/transpose-inl.h"
#include "ops/depthwise_conv/cpu_epilogue-inl.h"

namespace fastconv::depthwise_conv::FASTCONV_ISA {

using namespace ::fastconv::FASTCONV_ISA;

// The channel of a plane: y = x * weight + bias.
template <class T>
struct Scale {
  Vec<Accum<T>> weight, bias;
  Activation activation;  // of sums in registers
};

// N vectors of outputs.  At stride 2 each takes the even ones of two vectors.
template <int Step, int N, class T>
FASTCONV_INLINE void scale_vectors(const Scale<T>& s, const T* x, T* y) {
  using V = Vec<Accum<T>>;
  constexpr int kV = kLanes<Accum<T>>;
  V sums[1][N];
  for_each<N>(FASTCONV_EACH(i) {
    const T* p = x + i.value * Step * kV;
    V v = load(p), odd;
    if constexpr (Step == 2) split_pairs(v, load(p + kV), v, odd);
    sums[0][i.value] = fma(v, s.weight, s.bias);
  });
  finish_sums<T, Tile::kRoomy>(s.activation, sums);
  for_each<N>(FASTCONV_EACH(i) { store(y + i.value * kV, sums[0][i.value]); });
}

// `count` outputs, no more than a vector, and nothing beyond what they read.
template <int Step, class T>
FASTCONV_INLINE void scale_rest(const Scale<T>& s, const T* x, T* y, int count) {
  using V = Vec<Accum<T>>;
  constexpr int kV = kLanes<Accum<T>>;
  V v, odd;
  if constexpr (Step == 2) {
    const int inputs = 2 * count - 1;  // what follows the last one may be outside the tensor
    v = load_n(x, static_cast<int>(min_of(inputs, kV)));
    split_pairs(v, inputs > kV ? load_n(x + kV, inputs - kV) : V{}, v, odd);
  } else {
    v = load_n(x, count);
  }
  V sums[1][1] = {{fma(v, s.weight, s.bias)}};
  finish_sums<T, Tile::kRoomy>(s.activation, sums);
  store_n(y, sums[0][0], count);
}

template <int Step, class T>
void scale_row(const Scale<T>& s, const T* x, T* y, int64_t count) {
  constexpr int64_t kV = kLanes<Accum<T>>, kGroup = 4;
  // The last vector's odd one may be outside the tensor.
  const int64_t whole = (Step == 2 ? count - 1 : count) / kV * kV;
  int64_t i = 0;
  for (; i + kGroup * kV <= whole; i += kGroup * kV) {
    scale_vectors<Step, kGroup>(s, x + i * Step, y + i);
  }
  for (; i < whole; i += kV) scale_vectors<Step, 1>(s, x + i * Step, y + i);
  for (; i < count; i += kV) {
    scale_rest<Step>(s, x + i * Step, y + i, static_cast<int>(min_of(kV, count - i)));
  }
}

template <class T>
void scale_task(const Correlation& p, const Correlation::Task& task) {
  using A = Accum<T>;
  const auto& [depth, height, width] = p.axis;
  const int64_t rows = task.y1 - task.y0, columns = task.x1 - task.x0;
  for (int64_t channel = task.c0; channel < task.c1; ++channel) {
    Scale<T> s;
    s.weight = set1<A>(to_float(static_cast<const T*>(p.weight)[channel]));
    s.bias = set1<A>(p.bias == nullptr ? A{0} : to_float(static_cast<const T*>(p.bias)[channel]));
    s.activation = brief<T, Tile::kRoomy>(p.activation);
    for (int64_t z = task.z0; z < task.z1; ++z) {
      const T* x = static_cast<const T*>(p.x) + task.n * p.x_strides.n +
                   channel / p.fan_out * p.x_strides.c + z * depth.step * p.x_strides.sp[0] +
                   task.y0 * height.step * p.x_strides.sp[1] + task.x0 * width.step;
      T* const y = static_cast<T*>(p.y) + task.n * p.y_strides.n + channel * p.y_strides.c +
                   z * p.y_strides.sp[0] + task.y0 * p.y_strides.sp[1] + task.x0;
      for (int64_t row = 0; row < rows; ++row, x += height.step * p.x_strides.sp[1]) {
        T* const out = y + row * p.y_strides.sp[1];
        (width.step == 1 ? scale_row<1, T> : scale_row<2, T>)(s, x, out, columns);
      }
      finish_rows<Tile::kRoomy>(p, y, 1, 0, rows, p.y_strides.sp[1], columns);
    }
  }
}

template <class T>
void scale_tasks(const Correlation& p, int64_t begin, int64_t end) {
  TaskGrid(p).each(begin, end, [&](const Correlation::Task& task) { scale_task<T>(p, task); });
}

}  // namespace fastconv::depthwise_conv::FASTCONV_ISA
