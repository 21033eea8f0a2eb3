// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/rearrange/plan_groups.h"

namespace fastconv::rearrange {
namespace {

// A chunk, its scratch and its output together stay in the first-level cache or just above it.
constexpr int64_t kChunkBytes = 16 * 1024;

// The scratch layout of a chunk: `front` slowest, then `rest`, both innermost last.
void make_passes(const Copy& copy, const Group& front, const int* rest, int rest_count,
                 int64_t outermost_size, Plan& first, Plan& second) {
  Copy in = copy, out = copy;
  in.rank = out.rank = 0;
  int64_t stride = copy.element;
  const auto add = [&](const Axis& axis, int64_t size) {
    in.axis[in.rank++] = {size, axis.in, stride};
    out.axis[out.rank++] = {size, stride, axis.out};
    stride *= size;
  };
  for (int k = rest_count - 1; k >= 0; --k) {
    const Axis& axis = copy.axis[rest[k]];
    add(axis, k == 0 ? outermost_size : axis.size);
  }
  for (int m = 0; m < front.count; ++m) {
    const Axis& axis = copy.axis[front.members[m]];
    add(axis, axis.size);
  }
  first = make_plan(in, false);
  second = make_plan(out, false);
}

}  // namespace

bool make_two_pass(Copy copy, TwoPass& plan) {
  plan.in = static_cast<const char*>(copy.in);
  plan.out = static_cast<char*>(copy.out);
  coalesce(copy);
  widen_element(copy);
  const int i = copy.rank - 1, j = contiguous_input_axis(copy);
  if (copy.rank < 3 || j < 0 || copy.element == kVector) return false;
  // What goes to the front is contiguous in one tensor; the rest keeps that tensor's order, and
  // the other tensor finds its own contiguous axis as runs.
  const bool front_is_input = copy.axis[i].size >= copy.axis[j].size;
  const Group front =
      front_is_input ? dense_group(copy, j, &Axis::in, i) : dense_group(copy, i, &Axis::out, j);
  int rest[kMaxAxes];
  int count = 0;
  for (int a = 0; a < copy.rank; ++a) {
    if (front.holds(a)) continue;
    int at = count++;
    if (front_is_input) {
      for (; at > 0 && copy.axis[rest[at - 1]].in < copy.axis[a].in; --at) rest[at] = rest[at - 1];
    }
    rest[at] = a;
  }
  // The innermost axes that fill a chunk; the outermost of them is split.
  int64_t bytes = front.size * copy.element;
  int inner = count;
  while (inner > 0 && bytes < kChunkBytes) bytes *= copy.axis[rest[--inner]].size;
  if (inner == count) return false;
  // A chunk without the output's contiguous axis would write single elements.
  bool writes_runs = front.holds(i);
  for (int k = inner; k < count; ++k) writes_runs |= rest[k] == i;
  if (!writes_runs) return false;
  plan.split = copy.axis[rest[inner]];
  const int64_t per_step = bytes / plan.split.size;
  plan.steps = max_of(1, min_of(plan.split.size, bytes / kChunkBytes));
  plan.step = ceil_div(plan.split.size, plan.steps);
  plan.steps = ceil_div(plan.split.size, plan.step);
  const int64_t last = plan.split.size - (plan.steps - 1) * plan.step;
  make_passes(copy, front, rest + inner, count - inner, plan.step, plan.first[0], plan.second[0]);
  make_passes(copy, front, rest + inner, count - inner, last, plan.first[1], plan.second[1]);
  if (plan.first[0].kernel == Kernel::kScalar || plan.second[0].kernel == Kernel::kScalar) {
    return false;
  }
  plan.task_bytes = plan.scratch_bytes = per_step * plan.step;
  plan.outer = 0;
  plan.tasks = plan.steps;
  for (int a = 0; a < inner; ++a) {
    plan.axis[plan.outer++] = copy.axis[rest[a]];
    plan.tasks *= copy.axis[rest[a]].size;
  }
  return true;
}

void run_two_pass(const TwoPass& plan, void (*run)(const Plan&, int64_t, int64_t), char* scratch,
                  int64_t begin, int64_t end) {
  Plan first[2] = {plan.first[0], plan.first[1]}, second[2] = {plan.second[0], plan.second[1]};
  for (int64_t task = begin; task < end; ++task) {
    const int64_t piece = task % plan.steps;
    int64_t rest = task / plan.steps;
    const char* in = plan.in + piece * plan.step * plan.split.in;
    char* out = plan.out + piece * plan.step * plan.split.out;
    for (int a = plan.outer - 1; a >= 0; --a) {
      const int64_t index = rest % plan.axis[a].size;
      rest /= plan.axis[a].size;
      in += index * plan.axis[a].in;
      out += index * plan.axis[a].out;
    }
    const int kind = piece == plan.steps - 1 ? 1 : 0;
    first[kind].rebase(in, scratch);
    run(first[kind], 0, first[kind].tasks);
    second[kind].rebase(scratch, out);
    run(second[kind], 0, second[kind].tasks);
  }
}

}  // namespace fastconv::rearrange
