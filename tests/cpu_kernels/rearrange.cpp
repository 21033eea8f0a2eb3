// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Every CPU kernel of the rearrangements against a loop over elements, in memory of exactly the
// right size.
#include "harness.h"
#include "ops/rearrange/plan.h"

using namespace fastconv;
using namespace fastconv::rearrange;
using harness::Buffer;
using harness::Layout;
using harness::Random;
using harness::Run;
using harness::Totals;

namespace {

constexpr auto kRun = FASTCONV_ISA_TABLE(run);
constexpr const char* kKernels[] = {"runs",    "interleave", "deinterleave", "weave",
                                    "unweave", "tile",       "scalar",       "permute"};

// A permutation of axes: the output is dense, the input any view.
struct Case {
  int64_t element;  // bytes
  std::vector<int64_t> size;
  std::vector<int> order;  // of the input's axes, outermost first
  bool gaps, expanded;
};

struct Room {
  using Case = ::Case;

  static void run(const Case& c, Run& run, uint64_t seed, bool check, Totals& totals) {
    Random random(seed);
    const int rank = static_cast<int>(c.size.size());
    std::vector<int> identity;
    for (int a = 0; a < rank; ++a) identity.push_back(a);
    // The order is the case's own: none of it is shuffled again.
    Layout in = harness::dense(c.size, c.order);
    if (c.gaps || c.expanded) {
      int64_t step = c.gaps && random.one_in(10) ? 2 : 1;
      for (int i = rank - 1; i >= 0; --i) {
        const int axis = c.order[i];
        in.stride[axis] = c.expanded && random.one_in(8) ? 0 : step;
        step *= c.size[axis];
        if (c.gaps && random.one_in(6)) step += random.in(1, 3);
      }
    }
    const Layout out = harness::dense(c.size, identity);
    Buffer& x = run.input(in.span() * c.element, c.element);
    Random bytes(seed + 1);
    in.each([&](int64_t offset, const std::vector<int64_t>&) {
      const uint64_t two[2] = {bytes.bits(), bytes.bits()};
      const int64_t left = x.size() - offset * c.element;
      if (left > 0) {
        const int64_t n = fastconv::min_of(left, c.element);
        std::memcpy(x.bytes() + offset * c.element, two, static_cast<size_t>(n));
      }
    });
    Buffer& y = run.output(out, c.element);
    Copy copy;
    copy.in = x.data();
    copy.out = y.data();
    copy.element = c.element;
    copy.rank = rank;
    for (int a = 0; a < rank; ++a) {
      copy.axis[a] = {c.size[a], in.stride[a] * c.element, out.stride[a] * c.element};
    }
    const Plan plan = make_plan(copy);
    TwoPass passes;
    const bool two = plan.kernel == Kernel::kScalar && make_two_pass(copy, passes);
    if (two) {
      run.in_pieces(passes.tasks, passes.scratch_bytes, [&](int64_t begin, int64_t end, void* s) {
        run_two_pass(passes, kRun.get(), static_cast<char*>(s), begin, end);
      });
      if (check) {
        for (const Plan& pass : {passes.first[0], passes.second[0]}) {
          totals.add(std::string("two:") + kKernels[static_cast<int>(pass.kernel)]);
        }
      }
    } else {
      run.in_pieces(plan.tasks, 0,
                    [&](int64_t begin, int64_t end, void*) { kRun.get()(plan, begin, end); });
      if (check) totals.add(kKernels[static_cast<int>(plan.kernel)]);
    }
    run.done();
    if (!check) return;
    totals.add("bytes:" + std::to_string(c.element));
    std::vector<int64_t> from;
    in.each([&](int64_t offset, const std::vector<int64_t>&) { from.push_back(offset); });
    size_t i = 0;
    out.each([&](int64_t offset, const std::vector<int64_t>&) {
      const char* want = x.bytes() + from[i++] * c.element;
      if (std::memcmp(y.bytes() + offset * c.element, want, static_cast<size_t>(c.element)) != 0) {
        harness::fail("element %lld is not what it should be", static_cast<long long>(offset));
      }
    });
  }

  static Case draw(Random& random) {
    static constexpr int64_t kSizes[] = {1, 2, 2, 3, 4, 4, 5, 7, 8, 9, 16, 17, 31, 64, 100};
    Case c;
    c.element = int64_t{1} << random.in(0, 4);
    const int rank = static_cast<int>(random.in(1, 7));
    int64_t elements = 1;
    for (int a = 0; a < rank; ++a) {
      int64_t n = random.pick(kSizes);
      if (elements * n > 12000) n = random.in(1, 2);
      elements *= n;
      c.size.push_back(n);
      c.order.push_back(a);
    }
    random.shuffle(c.order);
    c.gaps = random.one_in(3);
    c.expanded = random.one_in(6);
    return c;
  }

  // Rows long enough to be split, chunks of a two-pass copy, and runs of every small length.
  static std::vector<Case> table() {
    std::vector<Case> cases;
    for (int64_t element = 1; element <= 16; element *= 2) {
      for (const int64_t few : {2, 3, 4, 5, 8, 9, 15, 21, 63}) {
        cases.push_back({element, {3, 1031, few}, {0, 2, 1}, false, false});  // interleave
        cases.push_back({element, {3, few, 1031}, {0, 2, 1}, false, false});  // deinterleave
        cases.push_back({element, {7, few, 5, 9, 3}, {0, 3, 1, 4, 2}, false, false});
      }
      cases.push_back({element, {2, 130, 67}, {0, 2, 1}, false, false});       // tiles
      cases.push_back({element, {200003 / element}, {0}, false, false});       // pieces of a run
      cases.push_back({element, {2, 70001 / element}, {1, 0}, false, false});  // of rows
      cases.push_back({element, {5, 2, 40, 3, 50, 2}, {0, 2, 4, 1, 3, 5}, false, false});
      cases.push_back({element, {3, 4, 3, 900}, {2, 0, 3, 1}, false, false});
      for (const int64_t pixels : {101, 997}) {  // a few elements per pixel, in both directions
        const int64_t rows = 17000 / (12 * pixels * element) + 1;
        cases.push_back({element, {rows, pixels, 3, 2, 2}, {0, 3, 1, 4, 2}, false, false});
        cases.push_back({element, {rows, 2, pixels, 2, 3}, {0, 2, 4, 1, 3}, false, false});
        cases.push_back({element, {rows, 3, pixels, 3}, {0, 2, 3, 1}, false, false});
        cases.push_back({element, {rows, pixels, 2, 6}, {0, 2, 1, 3}, false, false});
      }
      for (int64_t run = 1; run <= 33; run += 2) {
        cases.push_back({element, {3, 5, run}, {1, 0, 2}, false, false});
      }
    }
    // Copies in two passes, one of them by tiles.
    cases.push_back({2, {5, 33, 4, 2}, {1, 3, 2, 0}, false, false});
    cases.push_back({2, {40, 40, 3, 4}, {3, 1, 2, 0}, false, false});
    cases.push_back({4, {3, 17, 17, 3}, {1, 3, 2, 0}, false, false});
    return cases;
  }

  static std::string text(const Case& c) {
    std::string s = std::to_string(c.element) + " bytes, size";
    for (const int64_t n : c.size) s += " " + std::to_string(n);
    s += ", input order";
    for (const int a : c.order) s += " " + std::to_string(a);
    return s + (c.gaps ? " gaps" : "") + (c.expanded ? " expanded" : "");
  }
};

}  // namespace

int main(int argc, char** argv) { return harness::run_main<Room>(argc, argv); }
