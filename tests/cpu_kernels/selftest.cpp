// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// A kernel that copies, with bugs to plant: the harness must find each of them.  Sanitizers do not
// look into it, as they do not look into masked vector instructions.
#include "harness.h"

using namespace fastconv;
using harness::Buffer;
using harness::Bug;
using harness::Layout;
using harness::Random;
using harness::Run;
using harness::Totals;

namespace {

__attribute__((no_sanitize_address)) void copy(const volatile float* x, volatile float* y,
                                               const volatile float* scratch, int64_t n,
                                               int64_t step, Bug bug) {
  for (int64_t i = 0; i < n; ++i) y[i * step] = x[i];
  if (bug == Bug::kReadBehind) static_cast<void>(x[n]);
  if (bug == Bug::kReadBefore) static_cast<void>(x[-1]);
  if (bug == Bug::kWriteBefore) y[-1] = 0;
  if (bug == Bug::kWriteBetween && n > 1) y[1] = 0;
  if (bug == Bug::kUseScratch) y[0] = scratch[0] > 0 ? 1.0f : 2.0f;
}

int steps(int n, Bug bug) {
  volatile int most = bug == Bug::kOverflow ? 2147483647 : 0;
  return n + most;
}

struct Room {
  struct Case {
    int64_t n;
  };
  static void run(const Case& c, Run& run, uint64_t seed, bool check, Totals& totals) {
    const Layout x_layout{{c.n}, {1}}, y_layout{{c.n}, {2}};
    const Buffer& x = harness::numbers(run, Dtype::kFloat32, x_layout, seed);
    Buffer& y = run.output(y_layout, 4);
    run.in_pieces(steps(1, run.bug), 64, [&](int64_t, int64_t, void* scratch) {
      copy(static_cast<const float*>(x.data()), static_cast<float*>(y.data()),
           static_cast<const float*>(scratch), c.n, 2, run.bug);
    });
    if (check) totals.add("copies");
  }
  static std::vector<Case> table() { return {{1}, {7}, {1024}, {1025}}; }
  static Case draw(Random& random) { return {random.in(1, 3000)}; }
  static std::string text(const Case& c) { return std::to_string(c.n) + " numbers"; }
};

}  // namespace

int main(int argc, char** argv) { return harness::run_main<Room>(argc, argv); }
