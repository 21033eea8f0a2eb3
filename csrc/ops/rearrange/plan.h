// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// How the CPU does a rearrangement: which kernel, over which two axes, split into which tasks.
// Pure host code; it depends on the problem alone.
#pragma once

#include "common/isa.h"
#include "ops/rearrange/rearrange.h"

namespace fastconv::rearrange {

// Every kernel moves 16-byte vectors, of `lanes` elements each.
constexpr int64_t kVector = 16;

enum class Kernel : uint8_t {
  kRuns,          // contiguous in both tensors
  kInterleave,    // few input rows become one output row
  kDeinterleave,  // one input row becomes few output rows
  kTile,          // transposes squares of lanes x lanes
  kScalar,        // anything else
};

// One of the two axes that a kernel handles.  Several axes that are dense in one tensor form one
// such axis; the other tensor then needs a table of offsets instead of a stride.
constexpr int64_t kMaxTable = 64;
struct Lines {
  int64_t size, stride;
  bool tabled;
  int64_t table[kMaxTable];

  constexpr int64_t offset(int64_t i) const { return tabled ? table[i] : i * stride; }
};

// element (i, j), i < rows.size and j < columns.size, of each outer position:
//   in  + rows.offset(i) + j * column_in      (column_in == element unless kScalar)
//   out + i * element    + columns.offset(j)
struct Plan {
  Kernel kernel;
  int64_t element, run;
  int64_t column_in;
  Lines rows, columns;
  // Where few rows are not a power of two: how a vector of whole groups of that many elements, each
  // with an unused end, is packed (kInterleave) or how that is undone (kDeinterleave).
  uint8_t mask[kVector];
  bool split_rows;
  int64_t pieces;  // of the long axis: the rows where split_rows, else the columns or the run
  int64_t tasks;   // outer positions * pieces
  int64_t task_bytes;
  const char* in;
  char* out;
  int outer;
  Axis axis[kMaxAxes];  // outermost first
};

Plan make_plan(Copy copy);

FASTCONV_DECLARE_ISA(void, run, const Plan& plan, int64_t begin, int64_t end)

}  // namespace fastconv::rearrange
