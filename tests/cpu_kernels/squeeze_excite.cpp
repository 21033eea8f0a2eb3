// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernels of squeeze and excitation against loops in double.
#include "harness.h"
#include "ops/squeeze_excite/squeeze_excite_cpu.h"

using namespace fastconv;
using namespace fastconv::squeeze_excite;
using harness::Buffer;
using harness::Layout;
using harness::Random;
using harness::Run;
using harness::Totals;

namespace {

constexpr auto kRun = FASTCONV_ISA_TABLE(run);
constexpr auto kCombine = FASTCONV_ISA_TABLE(combine);
constexpr const char* kPasses[] = {"mean", "mean_gradient", "gate", "gate_gradient"};
constexpr const char* kDtypes[] = {"float32", "float64", "float16", "bfloat16"};

struct Case {
  Pass pass;
  Dtype dtype;
  bool channels_last, gaps;
  int64_t batch, channels, pixels;
};

// (N, C, P), with room between planes or pixels if there are gaps.
Layout layout_of(const Case& c) {
  const int64_t more = c.gaps ? 3 : 0;
  Layout l;
  l.size = {c.batch, c.channels, c.pixels};
  if (c.channels_last) {
    const int64_t pixel = c.channels + more;
    l.stride = {c.pixels * pixel + more, 1, pixel};
  } else {
    const int64_t plane = c.pixels + more;
    l.stride = {c.channels * plane + more, plane, 1};
  }
  return l;
}

struct Room {
  using Case = ::Case;

  static void run(const Case& c, Run& run, uint64_t seed, bool check, Totals& totals) {
    const int64_t element = element_size(c.dtype);
    const Layout activation = layout_of(c);
    const Layout planes = harness::dense({c.batch, c.channels}, {0, 1});
    Params p{};
    p.pass = c.pass;
    p.dtype = c.dtype;
    p.channels_last = c.channels_last;
    p.batch = c.batch;
    p.channels = c.channels;
    p.pixels = c.pixels;
    const Strides strides{activation.stride[0], activation.stride[1], activation.stride[2]};
    Buffer *x = nullptr, *dy = nullptr, *factor = nullptr, *y = nullptr, *sums = nullptr;
    if (reads_x(c.pass)) x = &harness::numbers(run, c.dtype, activation, seed);
    if (c.pass == Pass::kGateGradient) dy = &harness::numbers(run, c.dtype, activation, seed + 1);
    if (c.pass != Pass::kMean) factor = &harness::numbers(run, c.dtype, planes, seed + 2);
    if (c.pass != Pass::kMean) y = &run.output(activation, element);
    if (has_sums(c.pass)) sums = &run.output(planes, element);
    const auto data = [](Buffer* b) { return b == nullptr ? nullptr : b->data(); };
    p.x = data(x);
    p.dy = data(dy);
    p.per_channel = data(factor);
    p.y = data(y);
    p.sums = data(sums);
    p.x_strides = p.dy_strides = p.y_strides = strides;
    prepare(p);
    if (p.needs_partial()) p.partial = run.workspace(p.partial_bytes()).data();
    run.in_pieces(tasks_of(p), scratch_bytes(p), [&](int64_t begin, int64_t end, void* scratch) {
      kRun.get()(p, scratch, begin, end);
    });
    if (p.needs_partial()) {
      run.in_pieces(p.batch, 0,
                    [&](int64_t begin, int64_t end, void*) { kCombine.get()(p, begin, end); });
    }
    run.done();
    if (!check) return;
    totals.add(std::string(kPasses[static_cast<int>(c.pass)]) +
               (c.channels_last ? ":channels_last" : ":planes"));
    totals.add(kDtypes[static_cast<int>(c.dtype)]);
    if (p.needs_partial()) totals.add("chunks");
    compare(c, p, activation, x, dy, factor, y, sums);
  }

  static void compare(const Case& c, const Params& p, const Layout& activation, Buffer* x,
                      Buffer* dy, Buffer* factor, Buffer* y, Buffer* sums) {
    const int64_t element = element_size(c.dtype);
    const auto read = [&](Buffer* b, int64_t at) {
      return harness::read_number(c.dtype, b->bytes() + at * element);
    };
    for (int64_t plane = 0; plane < p.planes(); ++plane) {
      const int64_t n = plane / c.channels, ch = plane % c.channels;
      const double g = factor == nullptr ? 0 : read(factor, plane);
      const double e = std::exp(-std::fabs(g)), part = 1 / (1 + e);
      const double s = g < 0 ? e * part : part;
      double sum = 0, magnitude = 0;
      for (int64_t i = 0; i < c.pixels; ++i) {
        const int64_t at =
            n * activation.stride[0] + ch * activation.stride[1] + i * activation.stride[2];
        double want = g / static_cast<double>(c.pixels), term = 0;
        if (c.pass == Pass::kMean) term = read(x, at);
        if (c.pass == Pass::kGate) want = read(x, at) * s;
        if (c.pass == Pass::kGateGradient) {
          want = read(dy, at) * s;
          term = read(x, at) * read(dy, at);
        }
        sum += term;
        magnitude += std::fabs(term);
        if (y != nullptr) {
          harness::check_sum(c.dtype, y->bytes() + at * element, want, std::fabs(want), 8,
                             kPasses[static_cast<int>(c.pass)]);
        }
      }
      if (sums == nullptr) continue;
      // The slope is s * (1 - s), which would lose digits where s is near 1.
      const double scale =
          c.pass == Pass::kMean ? 1 / static_cast<double>(c.pixels) : e * part * part;
      harness::check_sum(c.dtype, sums->bytes() + plane * element, sum * scale, magnitude * scale,
                         c.pixels + 8, "sum");
    }
  }

  static Case draw(Random& random) {
    static constexpr int64_t kSizes[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, 65, 130};
    Case c;
    c.pass = static_cast<Pass>(random.in(0, 3));
    c.dtype = static_cast<Dtype>(random.in(0, 3));
    c.channels_last = random.one_in(2);
    c.gaps = random.one_in(2);
    c.batch = random.in(1, 3);
    c.channels = random.pick(kSizes);
    c.pixels = random.one_in(4) ? random.in(1, 400) : random.pick(kSizes);
    return c;
  }

  // Every pass, dtype and layout: planes of a task of their own, and images of several chunks.
  static std::vector<Case> table() {
    std::vector<Case> cases;
    for (int pass = 0; pass < 4; ++pass) {
      for (int dtype = 0; dtype < 4; ++dtype) {
        const auto add = [&](bool last, bool gaps, int64_t n, int64_t c, int64_t pixels) {
          cases.push_back(
              {static_cast<Pass>(pass), static_cast<Dtype>(dtype), last, gaps, n, c, pixels});
        };
        add(false, false, 2, 19, 49);
        add(false, true, 1, 2, 33000);
        add(true, false, 2, 19, 49);
        add(true, true, 2, 1000, 37);  // 40 pixels and fewer are a chunk
        add(true, false, 1, 1000, 83);
      }
    }
    return cases;
  }

  static std::string text(const Case& c) {
    return std::string(kPasses[static_cast<int>(c.pass)]) + " " +
           kDtypes[static_cast<int>(c.dtype)] + (c.channels_last ? " channels_last" : " planes") +
           (c.gaps ? " gaps" : "") + " size " + std::to_string(c.batch) + " " +
           std::to_string(c.channels) + " " + std::to_string(c.pixels);
  }
};

}  // namespace

int main(int argc, char** argv) { return harness::run_main<Room>(argc, argv); }
