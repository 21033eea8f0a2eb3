// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What plan.cpp and two_pass.cpp share: axes that act as one.
#pragma once

#include "ops/rearrange/plan.h"

namespace fastconv::rearrange {

// Axes of one kernel axis: the first is `copy.axis[members[0]]`, innermost.
struct Group {
  int members[kMaxAxes];
  int count = 0;
  int64_t size = 1;

  bool holds(int axis) const {
    for (int m = 0; m < count; ++m) {
      if (members[m] == axis) return true;
    }
    return false;
  }
};

// Starts at `first` and goes on with the axes that are dense after it in one tensor (`stride`),
// while a table can hold them.
inline Group dense_group(const Copy& copy, int first, Stride stride, int excluded) {
  Group group;
  group.members[group.count++] = first;
  group.size = copy.axis[first].size;
  for (int found = first; found >= 0;) {
    found = -1;
    for (int i = 0; i < copy.rank; ++i) {
      const Axis& axis = copy.axis[i];
      if (i == excluded || axis.*stride != group.size * copy.element) continue;
      if (group.size * axis.size > kMaxTable) continue;
      if (!group.holds(i)) found = i;
    }
    if (found < 0) break;
    group.members[group.count++] = found;
    group.size *= copy.axis[found].size;
  }
  return group;
}

// A short permutation that repeats along one axis: see Kernel::kPermute.
struct Permutation {
  int axis;
  int64_t length;       // of that axis
  Group in, out;        // what is dense below it in either tensor
  Group rows, columns;  // what is only in `out`: rows of the input; only in `in`: of the output
};

bool find_permutation(const Copy& copy, Permutation& best);
void set_permutation(const Copy& copy, const Permutation& permutation, Plan& plan);

// Takes the run off, and makes it the element where it is no wider than a vector.  Returns the run.
inline int64_t widen_element(Copy& copy) {
  const int64_t run = take_run(copy);
  if (run <= kVector && (run & (run - 1)) == 0) copy.element = run;
  return run;
}

}  // namespace fastconv::rearrange
