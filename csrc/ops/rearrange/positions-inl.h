// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The walk over the outer axes of a plan.
#pragma once

namespace fastconv::rearrange::FASTCONV_ISA {

// Where the positions of the innermost outer axes start: of several short ones, or of a piece of a
// long one.  Turning over an axis of two or three takes longer than a short kernel does.
struct Near {
  static constexpr int64_t kMost = 64, kLong = 16;
  int64_t in[kMost], out[kMost];
  int64_t size;
  int axes;      // how many of them
  int64_t step;  // of the next one

  explicit Near(const Plan& p) : size(1), axes(0), step(1) {
    in[0] = out[0] = 0;
    while (axes < p.outer && size < kLong) {
      const Axis& axis = p.axis[p.outer - 1 - axes];
      if (size * axis.size > kMost) break;
      add(axis, axis.size);
      ++axes;
    }
    if (size == 1 && axes < p.outer) {
      step = kMost;
      add(p.axis[p.outer - 1 - axes], kMost);
    }
  }

 private:
  void add(const Axis& axis, int64_t count) {
    for (int64_t k = size; k < size * count; ++k) {
      in[k] = in[k - size] + axis.in;
      out[k] = out[k - size] + axis.out;
    }
    size *= count;
  }
};

// Apart, so that the call that matters for short positions is the only one that is inlined.
template <class Kernel>
__attribute__((noinline)) void run_piece(const Kernel& kernel, const Plan& p, const char* in,
                                         char* out, int64_t begin, int64_t end, int64_t left) {
  kernel.run(p, in, out, begin, end, left);
}

// Calls the kernel for the outer positions of the tasks.
template <class Kernel>
void for_each_position(const Plan& p, int64_t length, int64_t task, int64_t tasks_end,
                       const Kernel& kernel) {
  const Near near(p);
  int64_t index[kMaxAxes + 1];
  const char* in = p.in;
  char* out = p.out;
  int64_t rest = task / p.pieces, piece = task % p.pieces;
  int64_t k = 0;
  if (near.step == 1) {
    k = rest % near.size;
    rest /= near.size;
  }
  const int last = p.outer - near.axes - 1;
  for (int a = last; a >= 0; --a) {
    index[a] = rest % p.axis[a].size;
    rest /= p.axis[a].size;
    in += index[a] * p.axis[a].in;
    out += index[a] * p.axis[a].out;
  }
  const Axis one = {1, 0, 0};
  const Axis inner = last >= 0 ? p.axis[last] : one;
  int64_t at = last >= 0 ? index[last] : 0;
  while (task < tasks_end) {
    for (; at < inner.size && task < tasks_end; at += near.step, k = 0) {
      const int64_t count = near.step == 1 ? near.size : min_of(near.size, inner.size - at);
      if (p.pieces == 1) {
        const int64_t k_end = min_of(count, k + tasks_end - task);
        for (; k < k_end; ++k, ++task) {
          kernel.run(p, in + near.in[k], out + near.out[k], 0, length,
                     p.consecutive ? tasks_end - task - 1 : 0);
        }
      } else {
        for (; k < count && task < tasks_end; ++k, piece = 0) {
          for (; piece < p.pieces && task < tasks_end; ++piece, ++task) {
            run_piece(kernel, p, in + near.in[k], out + near.out[k], length * piece / p.pieces,
                      length * (piece + 1) / p.pieces, p.consecutive ? tasks_end - task - 1 : 0);
          }
        }
      }
      in += near.step * inner.in;
      out += near.step * inner.out;
    }
    if (task >= tasks_end) break;
    in -= at * inner.in;
    out -= at * inner.out;
    at = 0;
    for (int a = last - 1; a >= 0; --a) {
      in += p.axis[a].in;
      out += p.axis[a].out;
      if (++index[a] < p.axis[a].size) break;
      in -= index[a] * p.axis[a].in;
      out -= index[a] * p.axis[a].out;
      index[a] = 0;
    }
  }
}

template <class Kernel>
void for_each_position(const Plan& p, int64_t length, int64_t begin, int64_t end) {
  for_each_position(p, length, begin, end, Kernel());
}

}  // namespace fastconv::rearrange::FASTCONV_ISA
