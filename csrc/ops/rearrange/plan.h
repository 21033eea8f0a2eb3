// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// How the CPU does a rearrangement: which kernel, over which two axes, split into which tasks.
// Pure host code; it depends on the problem alone.
#pragma once

#include "common/isa.h"
#include "ops/rearrange/rearrange.h"

namespace fastconv::rearrange {

// Every kernel can do with 16-byte vectors, of `lanes` elements each; some use wider ones.
constexpr int64_t kVector = 16;

// Rows that kInterleave makes one of, and kDeinterleave of one: any number that is less than the
// lanes of a vector, and some powers of two.
constexpr int64_t max_few(int64_t element) { return max_of(8, kVector / element); }
constexpr bool is_few(int64_t n, int64_t element) {
  return n < kVector / element || (n <= max_few(element) && (n & (n - 1)) == 0);
}

// Rows that kWeave makes one of, and kUnweave of one: a column fills the widest vector at most, and
// kTile would do some of it twice.
constexpr bool is_column(int64_t n, int64_t element) {
  return n * element > kVector && n * element % kVector != 0 && n * element <= 4 * kVector;
}

enum class Kernel : uint8_t {
  kRuns,          // contiguous in both tensors
  kInterleave,    // few input rows become one output row
  kDeinterleave,  // one input row becomes few output rows
  kWeave,         // as kInterleave: more rows, of up to 64 bytes a column
  kUnweave,       // as kDeinterleave
  kTile,          // transposes squares of lanes x lanes
  kScalar,        // anything else
  kPermute,       // a permutation of a few elements, again and again along an axis
};

// One of the two axes that a kernel handles.  Several axes that are dense in one tensor form one
// such axis; the other tensor then needs a table of offsets instead of a stride.  Whatever is short
// has one.
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
  // kPermute: step t of `length` moves step_in bytes at t * step_in of each row, all in all
  // elements 0, 1, ..., to step_out bytes at t * step_out of each column, whose element k was
  // from[k].
  int64_t length, step_in, step_out;
  uint8_t from[kMaxTable];
  // Where few rows are not a power of two: how a vector of whole groups of that many elements, each
  // with an unused end, is packed (kInterleave) or how that is undone (kDeinterleave).
  uint8_t mask[kVector];
  bool split_rows;
  int64_t pieces;  // of the long axis: the rows where split_rows, else the columns or the run
  int64_t tasks;   // outer positions * pieces
  int64_t task_bytes;
  const char* in;
  const char* in_end;  // of all that the input's axes span: kernels may read ahead up to here
  char* out;
  bool input_order;  // the outer axes are in the order of the input, else of the output
  bool consecutive;  // each position starts in the output where the one before ended
  int outer;
  Axis axis[kMaxAxes];  // outermost first

  void rebase(const char* new_in, char* new_out) {
    in_end += new_in - in;
    in = new_in;
    out = new_out;
  }
};

// Without kPermute, whose tables take longer than a chunk does, where not `whole`.
Plan make_plan(Copy copy, bool whole = true);

// Where no kernel transposes the two contiguous axes directly, because both are short, two do by
// way of a scratch buffer: its rows are what is contiguous in one tensor, and as long as a chunk.
struct TwoPass {
  Plan first[2], second[2];  // of a whole chunk, of the last one
  int64_t scratch_bytes;
  Axis split;  // its pieces of `step` are chunks
  int64_t step, steps;
  int outer;
  Axis axis[kMaxAxes];
  int64_t tasks, task_bytes;
  const char* in;
  char* out;
};

// False where that would not help either.
bool make_two_pass(Copy copy, TwoPass& plan);
void run_two_pass(const TwoPass& plan, void (*run)(const Plan&, int64_t, int64_t), char* scratch,
                  int64_t begin, int64_t end);

FASTCONV_DECLARE_ISA(void, run, const Plan& plan, int64_t begin, int64_t end)

}  // namespace fastconv::rearrange
