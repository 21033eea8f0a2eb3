// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/rearrange/plan_groups.h"

namespace fastconv::rearrange {
namespace {

// The axes that are dense below `stride` in one tensor, innermost first; empty where there are
// gaps.
Group dense_below(const Copy& copy, Stride along, int64_t stride) {
  Group group;
  while (group.size * copy.element < stride) {
    int found = -1;
    for (int i = 0; i < copy.rank; ++i) {
      if (copy.axis[i].*along == group.size * copy.element) found = i;
    }
    if (found < 0 || group.holds(found)) return {};
    group.members[group.count++] = found;
    group.size *= copy.axis[found].size;
  }
  return group.size * copy.element == stride ? group : Group{};
}

// The axes of `group` that are not in `other`.
Group difference(const Copy& copy, const Group& group, const Group& other) {
  Group rest;
  for (int m = 0; m < group.count; ++m) {
    if (other.holds(group.members[m])) continue;
    rest.members[rest.count++] = group.members[m];
    rest.size *= copy.axis[group.members[m]].size;
  }
  return rest;
}

void set_table(const Copy& copy, const Group& group, Stride along, Lines& lines) {
  lines.size = group.size;
  lines.stride = 0;
  lines.tabled = true;
  for (int64_t i = 0; i < group.size; ++i) {
    int64_t rest = i;
    lines.table[i] = 0;
    for (int m = 0; m < group.count; ++m) {
      const Axis& axis = copy.axis[group.members[m]];
      lines.table[i] += rest % axis.size * (axis.*along);
      rest /= axis.size;
    }
  }
}

}  // namespace

bool find_permutation(const Copy& copy, Permutation& best) {
  best.length = 0;
  for (int t = 0; t < copy.rank; ++t) {
    const Axis& axis = copy.axis[t];
    const Group in = dense_below(copy, &Axis::in, axis.in);
    const Group out = dense_below(copy, &Axis::out, axis.out);
    const bool dense_in = in.count > 0 || axis.in == copy.element;
    const bool dense_out = out.count > 0 || axis.out == copy.element;
    if (!dense_in || !dense_out || in.holds(t) || out.holds(t)) continue;
    const Group columns = difference(copy, in, out);  // the rows of the output
    const Group rows = difference(copy, out, in);     // the rows of the input
    const int64_t elements = in.size * rows.size;
    if (elements > kMaxTable || elements < 2 || axis.size <= best.length) continue;
    best.length = axis.size;
    best.in = in;
    best.out = out;
    best.rows = rows;
    best.columns = columns;
    best.axis = t;
  }
  return best.length > 0;
}

void set_permutation(const Copy& copy, const Permutation& permutation, Plan& plan) {
  const Group &in = permutation.in, &out = permutation.out;
  set_table(copy, permutation.rows, &Axis::in, plan.rows);
  set_table(copy, permutation.columns, &Axis::out, plan.columns);
  plan.length = permutation.length;
  plan.step_in = in.size * copy.element;
  plan.step_out = out.size * copy.element;
  const Group* const to[] = {&out, &permutation.columns};
  const Group* const at[] = {&in, &permutation.rows};
  const int64_t elements = in.size * plan.rows.size;
  for (int64_t k = 0; k < elements; ++k) {
    // Where each axis stands at element k of the output: its columns' rows, one after the other.
    int64_t index[kMaxAxes] = {};
    int64_t rest = k;
    for (const Group* group : to) {
      for (int m = 0; m < group->count; ++m) {
        const int a = group->members[m];
        index[a] = rest % copy.axis[a].size;
        rest /= copy.axis[a].size;
      }
    }
    int64_t from = 0, stride = 1;
    for (const Group* group : at) {
      for (int m = 0; m < group->count; ++m) {
        const int a = group->members[m];
        from += index[a] * stride;
        stride *= copy.axis[a].size;
      }
    }
    plan.from[k] = static_cast<uint8_t>(from);
  }
}

}  // namespace fastconv::rearrange
