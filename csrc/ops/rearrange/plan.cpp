// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "ops/rearrange/plan.h"

#include "ops/rearrange/plan_groups.h"

namespace fastconv::rearrange {
namespace {

// A longer axis is split, so that a single row still keeps all threads busy.
constexpr int64_t kPieceBytes = 64 * 1024;

Group single(const Copy& copy, int axis) {
  Group group;
  group.members[group.count++] = axis;
  group.size = copy.axis[axis].size;
  return group;
}

// The axis as the other tensor (`stride`) sees it.
void set_lines(const Copy& copy, const Group& group, Stride stride, Lines& lines) {
  lines.size = group.size;
  lines.stride = copy.axis[group.members[0]].*stride;
  lines.tabled = group.size <= kMaxTable;
  if (!lines.tabled) return;
  lines.table[0] = 0;
  int64_t filled = 1;
  for (int m = 0; m < group.count; ++m) {
    const Axis& axis = copy.axis[group.members[m]];
    for (int64_t i = filled; i < filled * axis.size; ++i) {
      lines.table[i] = lines.table[i % filled] + i / filled * (axis.*stride);
    }
    filled *= axis.size;
  }
}

void set_tasks(const Copy& copy, const Group& rows, const Group& columns, Plan& plan) {
  bool inner[kMaxAxes] = {};
  for (int m = 0; m < rows.count; ++m) inner[rows.members[m]] = true;
  for (int m = 0; m < columns.count; ++m) inner[columns.members[m]] = true;
  // One input row into several output rows: the input goes by once, in order.
  plan.input_order = plan.kernel == Kernel::kDeinterleave || plan.kernel == Kernel::kUnweave ||
                     (plan.kernel == Kernel::kTile && columns.size < rows.size);
  plan.outer = 0;
  int64_t positions = 1;
  for (int i = 0; i < copy.rank; ++i) {
    if (inner[i]) continue;
    int at = plan.outer++;
    if (plan.input_order) {
      for (; at > 0 && plan.axis[at - 1].in < copy.axis[i].in; --at)
        plan.axis[at] = plan.axis[at - 1];
    }
    plan.axis[at] = copy.axis[i];
    positions *= copy.axis[i].size;
  }
  const int64_t bytes = plan.run * rows.size * columns.size;
  plan.consecutive = true;
  int64_t next = bytes;
  for (int i = plan.outer - 1; i >= 0; --i) {
    plan.consecutive = plan.consecutive && plan.axis[i].out == next;
    next *= plan.axis[i].size;
  }
  plan.split_rows = plan.kernel == Kernel::kDeinterleave || plan.kernel == Kernel::kUnweave ||
                    (plan.kernel == Kernel::kScalar && rows.size > columns.size);
  const int64_t length = plan.run * (plan.split_rows ? rows.size : columns.size);
  plan.pieces = max_of(1, min_of(bytes / kPieceBytes, length / (4 * kVector)));
  plan.tasks = positions * plan.pieces;
  plan.task_bytes = bytes / plan.pieces;
}

void set_mask(int64_t few, Plan& plan) {
  const int64_t line = few * plan.element;
  int64_t group = plan.element;
  while (group < line) group *= 2;
  for (int64_t i = 0; i < kVector; ++i) {
    const int64_t packed = i / line * group + i % line;
    const int64_t spread = i % group < line ? i / group * line + i % group : kVector;
    const int64_t source = plan.kernel == Kernel::kInterleave ? packed : spread;
    plan.mask[i] = static_cast<uint8_t>(source < kVector ? source : 0x80);
  }
}

// Tables of permutations are made per task, and the ends of rows are moved with masks, which both
// have to be worth it.
constexpr int64_t kWorthTables = 16 * 1024, kWorthRow = 256;  // bytes

// The run as elements and an axis of them, for a permutation moves no runs.
Copy without_run(const Copy& copy, int64_t run) {
  Copy fine = copy;
  const int64_t unit = min_of(run & -run, 8);
  if (run > unit && copy.rank < kMaxAxes) {
    fine.element = unit;
    fine.axis[fine.rank++] = {run / unit, unit, unit};
  }
  return fine;
}

bool worth_tables(const Copy& copy, int64_t run) {
  int64_t bytes = run;
  for (int i = 0; i < copy.rank; ++i) bytes *= copy.axis[i].size;
  return bytes >= kWorthTables;
}

bool make_permutation(const Copy& copy, int64_t run, Plan& plan) {
  const Copy fine = without_run(copy, run);
  Permutation found;
  if (fine.element > 8 || !find_permutation(fine, found)) return false;
  if (found.length * min_of(found.in.size, found.out.size) * fine.element < kWorthRow) return false;
  plan.kernel = Kernel::kPermute;
  plan.element = plan.run = fine.element;
  set_permutation(fine, found, plan);
  Group inner = found.in;
  for (int m = 0; m < found.rows.count; ++m) inner.members[inner.count++] = found.rows.members[m];
  inner.size *= found.rows.size;
  set_tasks(fine, inner, single(fine, found.axis), plan);
  return true;
}

// Two passes that both transpose take less than a permutation does.
bool is_two_transpositions(const Copy& copy) {
  TwoPass passes;
  return make_two_pass(copy, passes) && passes.first[0].kernel != Kernel::kRuns &&
         passes.second[0].kernel != Kernel::kRuns;
}

// Whether the plan's kernel would spend its time on short rows.
bool has_short_rows(const Plan& plan, const Group& rows, const Group& columns) {
  const auto short_of = [&](const Group& few, const Group& many) {
    return (few.size & (few.size - 1)) != 0 && many.size * plan.element < 2 * kVector;
  };
  switch (plan.kernel) {
    case Kernel::kRuns:
      return plan.run < 2 * kVector;
    case Kernel::kInterleave:
      return short_of(rows, columns);
    case Kernel::kDeinterleave:
      return short_of(columns, rows);
    default:
      return plan.kernel == Kernel::kScalar;
  }
}

}  // namespace

Plan make_plan(Copy copy, bool whole) {
  const Copy given = copy;
  Plan plan;
  plan.in = static_cast<const char*>(copy.in);
  plan.out = static_cast<char*>(copy.out);
  coalesce(copy);
  plan.in_end = plan.in + copy.element;
  for (int i = 0; i < copy.rank; ++i) plan.in_end += (copy.axis[i].size - 1) * copy.axis[i].in;
  const int64_t run = widen_element(copy);
  plan.element = copy.element;
  plan.run = run;
  Group rows, columns;
  // The output of a second pass may have nothing contiguous but the element.
  if (run > copy.element || copy.rank == 0 || copy.axis[copy.rank - 1].out != copy.element) {
    plan.kernel = Kernel::kRuns;
    if (whole && has_short_rows(plan, rows, columns) && worth_tables(copy, run) &&
        make_permutation(copy, run, plan)) {
      return plan;
    }
    set_tasks(copy, rows, columns, plan);
    return plan;
  }

  const int64_t element = copy.element, lanes = kVector / element;
  const int i = copy.rank - 1;
  const int j = contiguous_input_axis(copy);
  rows = single(copy, i);
  plan.kernel = Kernel::kScalar;
  if (j >= 0 && lanes > 1) {
    const Group many_rows = dense_group(copy, i, &Axis::out, j);
    const Group many_columns = dense_group(copy, j, &Axis::in, i);
    columns = single(copy, j);
    if (is_few(many_rows.size, element) && columns.size >= lanes &&
        copy.axis[j].out == many_rows.size * element) {
      plan.kernel = Kernel::kInterleave;
      rows = many_rows;
      set_mask(rows.size, plan);
    } else if (is_few(many_columns.size, element) && rows.size >= lanes &&
               copy.axis[i].in == many_columns.size * element) {
      plan.kernel = Kernel::kDeinterleave;
      columns = many_columns;
      set_mask(columns.size, plan);
    } else if (is_column(many_rows.size, element) && columns.size >= lanes &&
               copy.axis[j].out == many_rows.size * element) {
      plan.kernel = Kernel::kWeave;
      rows = many_rows;
    } else if (is_column(many_columns.size, element) && rows.size >= lanes &&
               copy.axis[i].in == many_columns.size * element) {
      plan.kernel = Kernel::kUnweave;
      columns = many_columns;
    } else if (many_rows.size >= lanes && many_columns.size >= lanes) {
      plan.kernel = Kernel::kTile;
      if (rows.size < 4 * lanes) rows = many_rows;
      bool shared = false;
      for (int m = 1; m < many_columns.count; ++m) {
        for (int r = 1; r < rows.count; ++r) shared |= many_columns.members[m] == rows.members[r];
      }
      if (columns.size < 4 * lanes && !shared) columns = many_columns;
      if (columns.size < lanes) plan.kernel = Kernel::kScalar;
    }
  }
  if (plan.kernel == Kernel::kScalar) {
    rows = single(copy, i);
    int nearest = j;
    for (int a = i - 1; a >= 0 && j < 0; --a) {
      if (nearest < 0 || copy.axis[a].in < copy.axis[nearest].in) nearest = a;
    }
    columns = nearest < 0 ? Group{} : single(copy, nearest);
  }
  if (whole && has_short_rows(plan, rows, columns) && worth_tables(copy, run) &&
      !(plan.kernel == Kernel::kScalar && is_two_transpositions(given)) &&
      make_permutation(copy, run, plan)) {
    return plan;
  }
  set_lines(copy, rows, &Axis::in, plan.rows);
  if (columns.count > 0) {
    set_lines(copy, columns, &Axis::out, plan.columns);
    plan.column_in = copy.axis[columns.members[0]].in;
  } else {
    plan.columns.size = 1;
    plan.columns.stride = plan.column_in = 0;
    plan.columns.tabled = false;
  }
  set_tasks(copy, rows, columns, plan);
  return plan;
}

}  // namespace fastconv::rearrange
