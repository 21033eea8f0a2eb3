// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the programs of this folder share: memory of exactly the right size, fresh numbers, and the
// loop over cases and instruction-set levels.  A room brings a Case and runs it; see run_main().
//
// Every case runs three times, and all three must give the same bits:
//   memory          filled with    finds
//   heap blocks     0xff           any access out of bounds, under AddressSanitizer
//   a guard page    0x77           reads and writes past the end that sanitizers do not instrument
//   behind, before  0xff           (masked vector instructions), and before the start
// 0xff is a NaN and an index of -1, 0x77 is large and finite: what depends on memory that nobody
// wrote, or on how tasks were shared out, changes.  With `--fill 0`, for valgrind, there is one run
// in heap blocks that hold nothing.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "common/types.h"

namespace harness {

using fastconv::Dtype;

// ---- numbers ----

class Random {  // SplitMix64
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  int64_t in(int64_t low, int64_t high) {  // both included
    return low + static_cast<int64_t>(bits() % static_cast<uint64_t>(high - low + 1));
  }
  bool one_in(int64_t n) { return in(1, n) == 1; }
  template <class T, size_t N>
  T pick(const T (&from)[N]) {
    return from[in(0, N - 1)];
  }
  template <class T>
  void shuffle(std::vector<T>& v) {
    for (size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[in(0, i - 1)]);
  }

 private:
  uint64_t state_;
};

double read_number(Dtype dtype, const void* p);
// A number of magnitude 1/8 to 4, in full precision.
void write_random(Dtype dtype, void* p, Random& random);
void write_nan(Dtype dtype, void* p);
void write_minus_infinity(Dtype dtype, void* p);

// ---- memory ----

enum class Placement : uint8_t { kHeap, kGuardBehind, kGuardBefore };

// `bytes` bytes, not one more, at a multiple of `align`; left as they are if `fill` is kNothing.
constexpr int kNothing = -1;
class Buffer {
 public:
  Buffer(Placement placement, int fill, int64_t bytes, int64_t align);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }
  char* bytes() const { return static_cast<char*>(data_); }
  int64_t size() const { return size_; }
  // Whether what surrounds the buffer in its pages is as it was.
  bool surroundings_are_whole() const;

 private:
  void* data_;
  int64_t size_;
  char *map_ = nullptr, *usable_ = nullptr;  // with a guard page: all of it, and without that page
  int64_t mapped_ = 0, usable_size_ = 0;
};

// ---- failures ----

// The case that runs; printed when something goes wrong, a signal included.
void set_current(const std::string& what);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- tensors ----

// Strides of a tensor of any rank in elements, and how many elements they span.
struct Layout {
  std::vector<int64_t> size, stride;
  int64_t span() const;
  int64_t count() const;
  // Calls f(offset, index) for every element.
  template <class F>
  void each(const F& f) const {
    std::vector<int64_t> index(size.size());
    for (int64_t left = count(); left > 0; --left) {
      int64_t offset = 0;
      for (size_t a = 0; a < size.size(); ++a) offset += index[a] * stride[a];
      f(offset, index);
      for (size_t a = size.size(); a-- > 0;) {
        if (++index[a] < size[a]) break;
        index[a] = 0;
      }
    }
  }
};
// Dense, the axes of `order` from the outermost to the innermost.
Layout dense(const std::vector<int64_t>& size, const std::vector<int>& order);
// As a view might be: gaps, an expanded axis; axes in `order` but for the last `fixed`, shuffled.
Layout strided(const std::vector<int64_t>& size, std::vector<int> order, int fixed, bool gaps,
               bool expanded, Random& random);

// ---- one run of one case ----

enum class Bug : uint8_t {
  kNone,
  kShortInput,    // an input one element shorter than the kernel was told
  kShortOutput,   // an output, likewise
  kShortScratch,  // half of the scratch
  kLostTask,      // the last task does not run
  kWrongValue,    // a result changes before it is compared
  // Of selftest.cpp's kernel.
  kReadBehind,
  kReadBefore,
  kWriteBefore,
  kWriteBetween,
  kUseScratch,
  kOverflow,
};

class Run {
 public:
  Run(Placement placement, int fill, uint64_t seed, Bug bug)
      : bug(bug), random(seed), placement_(placement), fill_(fill) {}

  // Memory that lasts as long as the run.  Outputs are kept to be compared with other runs.
  Buffer& input(int64_t bytes, int64_t align) {
    Buffer& b = make(bytes - (bug == Bug::kShortInput ? align : 0), align);
    // What lies between the elements of a view belongs to a tensor: kernels may load it.
    if (fill_ == kNothing && b.size() > 0) std::memset(b.data(), 0, static_cast<size_t>(b.size()));
    return b;
  }
  Buffer& output(const Layout& layout, int64_t element) {
    const int64_t elements = layout.span() - (bug == Bug::kShortOutput ? 1 : 0);
    outputs_.push_back({&make(elements * element, element), layout, element});
    return *outputs_.back().buffer;
  }
  // Tensors come from torch at any element; scratch at a multiple of 64 bytes.
  Buffer& workspace(int64_t bytes) { return make(bytes, 64); }

  // Runs [0, tasks) in pieces, in any order, as threads might; each with dirty scratch of its own.
  template <class F>
  void in_pieces(int64_t tasks, int64_t scratch_bytes, const F& f) {
    if (bug == Bug::kLostTask) --tasks;
    if (bug == Bug::kShortScratch) scratch_bytes /= 2;
    std::vector<int64_t> order;
    const int64_t pieces = fastconv::min_of(tasks, random.in(1, 4));
    for (int64_t i = 0; i < pieces; ++i) order.push_back(i);
    random.shuffle(order);
    for (const int64_t i : order) {
      Buffer& scratch = make(scratch_bytes, 64);
      f(tasks * i / pieces, tasks * (i + 1) / pieces, scratch.data());
    }
  }

  // Called between the kernels and the comparison with the reference.
  void done() {
    if (bug == Bug::kWrongValue) *outputs_.front().buffer->bytes() ^= 0x55;
  }
  // The elements of all outputs; fails if the gaps between them were written.
  std::vector<char> output_bytes() const;
  void check_surroundings() const;

  const Bug bug;
  Random random;

 private:
  Buffer& make(int64_t bytes, int64_t align) {
    buffers_.push_back(std::make_unique<Buffer>(placement_, fill_, bytes, align));
    return *buffers_.back();
  }
  Placement placement_;
  int fill_;
  struct Output {
    Buffer* buffer;
    Layout layout;
    int64_t element;
  };
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<Output> outputs_;
};

// An input filled with numbers that depend on (seed, element) alone, whatever the memory.
Buffer& numbers(Run& run, Dtype dtype, const Layout& layout, uint64_t seed);

// |got - want| against the bound of docs/numerics.md for a sum of `terms` terms.
void check_sum(Dtype dtype, const void* got, double want, double magnitude, int64_t terms,
               const char* what);

struct Totals {
  std::vector<std::pair<std::string, int64_t>> counts;
  void add(const std::string& name);
};

struct Options {
  uint64_t seed = 0;
  int64_t cases = 100;
  int64_t only = -1;  // a case to repeat
  bool fill = true;
  Bug bug = Bug::kNone;
  std::vector<fastconv::Isa> levels;
};
Options parse(int argc, char** argv);

// A room has Case, `table()`, `draw(Random&)`, `text(case)` and `run(case, Run&, check, Totals&)`.
// run() lays out memory, calls the kernels, and compares with a loop in double if `check`.
template <class Room>
int run_main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  const auto table = Room::table();
  const int64_t fixed = static_cast<int64_t>(table.size());
  constexpr struct {
    Placement placement;
    int fill;
  } kRuns[] = {
      {Placement::kHeap, 0xff}, {Placement::kGuardBehind, 0x77}, {Placement::kGuardBefore, 0xff}};
  for (const fastconv::Isa level : options.levels) {
    fastconv::set_active_isa(level);
    Totals totals;
    for (int64_t i = 0; i < fixed + options.cases; ++i) {
      if (options.only >= 0 && i != options.only) continue;
      Random random(options.seed * 0x100000001b3u + static_cast<uint64_t>(i));
      const auto one = i < fixed ? table[i] : Room::draw(random);
      const uint64_t data_seed = random.bits();
      std::vector<char> first;
      for (int r = 0; r < (options.fill ? 3 : 1); ++r) {
        set_current(std::string(fastconv::isa_name(level)) + " case " + std::to_string(i) +
                    " memory " + std::to_string(r) + " " + Room::text(one));
        // Same numbers, other memory, other pieces.
        Run run(kRuns[r].placement, options.fill ? kRuns[r].fill : kNothing, data_seed + r,
                options.bug);
        Room::run(one, run, data_seed, r == 0, totals);
        run.check_surroundings();
        std::vector<char> bytes = run.output_bytes();
        if (r == 0) first = bytes;
        if (bytes != first) fail("the bits depend on memory or on the order of tasks");
      }
    }
    std::printf("%s: %lld cases ok;", fastconv::isa_name(level),
                static_cast<long long>(options.only >= 0 ? 1 : fixed + options.cases));
    for (const auto& [name, count] : totals.counts) {
      std::printf(" %s=%lld", name.c_str(), static_cast<long long>(count));
    }
    std::printf("\n");
  }
  return 0;
}

}  // namespace harness
