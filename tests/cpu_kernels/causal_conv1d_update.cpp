// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The CPU kernel of causal_conv1d_update against a loop in double.
#include "harness.h"
#include "ops/causal_conv1d_update/causal_conv1d_update_cpu.h"

using namespace fastconv;
using namespace fastconv::causal_conv1d_update;
using harness::Buffer;
using harness::Layout;
using harness::Random;
using harness::Run;
using harness::Totals;

namespace {

constexpr auto kRun = FASTCONV_ISA_TABLE(run);
constexpr const char* kActivations[] = {"none", "relu", "relu6", "hardswish", "silu", "gelu"};
constexpr const char* kDtypes[] = {"float32", "float64", "float16", "bfloat16"};

struct Case {
  Dtype dtype;
  Activation activation;
  bool channels_innermost, bias;
  int64_t batch, channels, length, state_length, taps, dilation;
};

double activate(double v, Activation activation) {
  const auto relu6 = [](double x) { return std::fmin(std::fmax(x, 0), 6); };
  switch (activation) {
    case Activation::kRelu:
      return std::fmax(v, 0);
    case Activation::kRelu6:
      return relu6(v);
    case Activation::kHardswish:
      return v * relu6(v + 3) / 6;
    case Activation::kSilu:
      return v / (1 + std::exp(-v));
    case Activation::kGelu:
      return v * 0.5 * (1 + std::erf(v * std::sqrt(0.5)));
    default:
      return v;
  }
}

struct Room {
  using Case = ::Case;

  static void run(const Case& c, Run& run, uint64_t seed, bool check, Totals& totals) {
    const int64_t element = element_size(c.dtype);
    const std::vector<int> order =
        c.channels_innermost ? std::vector<int>{0, 2, 1} : std::vector<int>{0, 1, 2};
    const Layout in = harness::dense({c.batch, c.channels, c.length}, order);
    const Layout held = harness::dense({c.batch, c.channels, c.state_length}, order);
    const Layout filters = harness::dense({c.channels, c.taps}, {0, 1});
    const Layout channels = harness::dense({c.channels}, {0});
    Buffer& x = harness::numbers(run, c.dtype, in, seed);
    Buffer& w = harness::numbers(run, c.dtype, filters, seed + 1);
    Buffer& b = harness::numbers(run, c.dtype, channels, seed + 2);
    Buffer& y = run.output(in, element);
    Buffer& state = run.output(held, element);
    // What the state holds at first, in double, and again behind it.
    std::vector<double> old(static_cast<size_t>(held.count()));
    Random random(seed + 3);
    size_t i = 0;
    held.each([&](int64_t offset, const std::vector<int64_t>&) {
      char number[8];
      harness::write_random(c.dtype, number, random);
      old[i++] = harness::read_number(c.dtype, number);
      if ((offset + 1) * element <= state.size()) {
        std::memcpy(state.bytes() + offset * element, number, static_cast<size_t>(element));
      }
    });
    const auto strides = [](const Layout& l) {
      return Strides{l.stride[0], l.stride[1], l.stride[2]};
    };
    Params p{};
    p.dtype = c.dtype;
    p.activation = c.activation;
    p.batch = c.batch;
    p.channels = c.channels;
    p.length = c.length;
    p.state_length = c.state_length;
    p.taps = c.taps;
    p.dilation = c.dilation;
    p.x = x.data();
    p.x_strides = strides(in);
    p.state = state.data();
    p.state_strides = strides(held);
    p.weight = w.data();
    p.weight_channel = filters.stride[0];
    p.weight_tap = filters.stride[1];
    p.bias = c.bias ? b.data() : nullptr;
    p.y = y.data();
    p.y_strides = strides(in);
    run.in_pieces(tasks_of(p), 0,
                  [&](int64_t begin, int64_t end, void*) { kRun.get()(p, begin, end); });
    run.done();
    if (!check) return;
    totals.add(kDtypes[static_cast<int>(c.dtype)]);
    totals.add(kActivations[static_cast<int>(c.activation)]);
    totals.add(c.channels_innermost ? "channels" : "time");
    const auto read = [&](const Buffer& from, int64_t at) {
      return harness::read_number(c.dtype, from.bytes() + at * element);
    };
    // Element `at` of the old state followed by x.
    const auto element_of = [&](int64_t n, int64_t ch, int64_t at) {
      if (at < c.state_length) {
        return old[static_cast<size_t>((n * c.channels + ch) * c.state_length + at)];
      }
      return read(x, n * in.stride[0] + ch * in.stride[1] + (at - c.state_length) * in.stride[2]);
    };
    in.each([&](int64_t offset, const std::vector<int64_t>& at) {
      double sum = c.bias ? read(b, at[1]) : 0, magnitude = std::fabs(sum);
      for (int64_t j = 0; j < c.taps; ++j) {
        const int64_t from = c.state_length + at[2] - (c.taps - 1 - j) * c.dilation;
        const double term = read(w, at[1] * c.taps + j) * element_of(at[0], at[1], from);
        sum += term;
        magnitude += std::fabs(term);
      }
      // No activation has a slope of more than 1.13; hardswish and gelu round a few times more.
      harness::check_sum(c.dtype, y.bytes() + offset * element, activate(sum, c.activation),
                         1.13 * magnitude, c.taps + 9, "y");
    });
    held.each([&](int64_t offset, const std::vector<int64_t>& at) {
      const double want = element_of(at[0], at[1], c.length + at[2]);
      if (read(state, offset) != want) {
        harness::fail("state %lld is not what it should be", static_cast<long long>(offset));
      }
    });
  }

  static Case draw(Random& random) {
    static constexpr int64_t kSizes[] = {1, 3, 8, 15, 16, 17, 31, 64, 65, 130};
    Case c;
    c.dtype = static_cast<Dtype>(random.in(0, 3));
    c.activation = static_cast<Activation>(random.in(0, 5));
    c.channels_innermost = random.one_in(2);
    c.bias = random.one_in(2);
    c.batch = random.in(1, 3);
    c.channels = random.pick(kSizes);
    c.length = random.one_in(2) ? 1 : random.in(1, 9);
    c.taps = random.in(1, 5);
    c.dilation = random.in(1, 3);
    c.state_length = max_of(1, (c.taps - 1) * c.dilation + random.in(0, 2));
    return c;
  }

  static std::vector<Case> table() {
    std::vector<Case> cases;
    for (int dtype = 0; dtype < 4; ++dtype) {
      for (int activation = 0; activation < 6; ++activation) {
        for (const bool innermost : {false, true}) {
          cases.push_back({static_cast<Dtype>(dtype), static_cast<Activation>(activation),
                           innermost, true, 2, 77, 1, 3, 4, 1});
          cases.push_back({static_cast<Dtype>(dtype), static_cast<Activation>(activation),
                           innermost, false, 1, 20, 5, 7, 3, 3});
        }
      }
    }
    return cases;
  }

  static std::string text(const Case& c) {
    std::string s = std::string(kDtypes[static_cast<int>(c.dtype)]) + " " +
                    kActivations[static_cast<int>(c.activation)] +
                    (c.channels_innermost ? " channels innermost" : "") + (c.bias ? " bias" : "");
    for (const int64_t n : {c.batch, c.channels, c.length, c.state_length, c.taps, c.dilation}) {
      s += " " + std::to_string(n);
    }
    return s;
  }
};

}  // namespace

int main(int argc, char** argv) { return harness::run_main<Room>(argc, argv); }
