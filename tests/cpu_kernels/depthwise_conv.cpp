// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Every CPU kernel of depthwise convolution against the sums of depthwise_conv.h, in memory of
// exactly the right size.
#include <optional>

#include "depthwise_conv_activated.h"
#include "depthwise_conv_cases.h"
#include "depthwise_conv_reference.h"
#include "harness.h"
#include "ops/depthwise_conv/cpu_engines.h"

using namespace fastconv;
using namespace fastconv::depthwise_conv;
using depthwise_conv_cases::Case;
using depthwise_conv_cases::kDtypes;
using harness::Buffer;
using harness::Layout;
using harness::Random;
using harness::Run;
using harness::Totals;

namespace {

constexpr auto kCorrelation = FASTCONV_ISA_TABLE(correlation_run);
constexpr auto kCorrelationScratch = FASTCONV_ISA_TABLE(correlation_scratch);
constexpr auto kWeight = FASTCONV_ISA_TABLE(weight_run);
constexpr auto kWeightScratch = FASTCONV_ISA_TABLE(weight_scratch);
constexpr auto kReduce = FASTCONV_ISA_TABLE(reduce_weight);

constexpr const char* kEngines[] = {"channels", "packed", "flat", "scale",
                                    "rolling",  "direct", "rows", "blocked"};

std::vector<double> values(Dtype dtype, const Buffer& buffer, const Layout& layout) {
  std::vector<double> out;
  const int64_t element = element_size(dtype);
  layout.each([&](int64_t offset, const std::vector<int64_t>&) {
    out.push_back(harness::read_number(dtype, buffer.bytes() + offset * element));
  });
  return out;
}

void compare(Dtype dtype, const Buffer& got, const Layout& layout, const std::vector<Sum>& want,
             int64_t terms, const char* what) {
  size_t i = 0;
  layout.each([&](int64_t offset, const std::vector<int64_t>&) {
    harness::check_sum(dtype, got.bytes() + offset * element_size(dtype), want[i].value,
                       want[i].magnitude, terms, what);
    ++i;
  });
}

Strides5 strides_of(const Layout& l) {
  return {l.stride[0], l.stride[1], {l.stride[2], l.stride[3], l.stride[4]}};
}

struct Room {
  using Case = ::Case;

  static void run(const Case& c, Run& run, uint64_t seed, bool check, Totals& totals) {
    const Dtype dtype = c.dtype;
    const int64_t element = element_size(dtype);
    Random random(seed);
    const std::vector<int> order =
        c.channels_last ? std::vector<int>{0, 2, 3, 4, 1} : std::vector<int>{0, 1, 2, 3, 4};
    const std::vector<int64_t> in = {c.batch, c.in_channels(), c.axis[0].in, c.axis[1].in,
                                     c.axis[2].in};
    const std::vector<int64_t> out = {c.batch, c.out_channels(), c.axis[0].out, c.axis[1].out,
                                      c.axis[2].out};
    const int fixed = c.channels_last ? 1 : 0;
    const auto input_layout = [&](const std::vector<int64_t>& size) {
      return c.views ? harness::strided(size, order, fixed, !random.one_in(3), true, random)
                     : harness::dense(size, order);
    };
    const auto output_layout = [&](const std::vector<int64_t>& size) {
      return c.views && c.channels_last ? harness::strided(size, order, fixed, true, false, random)
                                        : harness::dense(size, order);
    };
    const Layout x_layout = input_layout(in), dy_layout = input_layout(out);
    const Layout y_layout = output_layout(out), dx_layout = output_layout(in);
    const Layout w_layout = harness::dense({c.filters(), c.taps()}, {0, 1});
    const Layout b_layout = harness::dense({c.filters()}, {0});
    const Buffer& x = harness::numbers(run, dtype, x_layout, seed + 1);
    const Buffer& w = harness::numbers(run, dtype, w_layout, seed + 2);
    const Buffer& b = harness::numbers(run, dtype, b_layout, seed + 3);
    const Buffer& dy = harness::numbers(run, dtype, dy_layout, seed + 4);
    Buffer& y = run.output(y_layout, element);
    Buffer& dx = run.output(dx_layout, element);
    Buffer* dw = c.dw ? &run.output(w_layout, element) : nullptr;
    Buffer* db = c.db ? &run.output(b_layout, element) : nullptr;

    Forward forward;
    static_cast<Problem&>(forward) = c;
    forward.x = x.data();
    forward.x_strides = strides_of(x_layout);
    forward.weight = w.data();
    forward.bias = c.bias && !c.wide_in ? b.data() : nullptr;
    forward.y = y.data();
    forward.y_strides = strides_of(y_layout);
    forward.activation = c.activation;
    correlate(make_forward(forward, active_isa()), c.wide_in ? "transposed_data" : "forward", run,
              check, totals);

    BackwardData backward;
    static_cast<Problem&>(backward) = c;
    backward.dy = dy.data();
    backward.dy_strides = strides_of(dy_layout);
    backward.weight = w.data();
    backward.bias = c.bias && c.wide_in ? b.data() : nullptr;
    backward.dx = dx.data();
    backward.dx_strides = strides_of(dx_layout);
    correlate(make_backward_data(backward, active_isa()), c.wide_in ? "transposed" : "data", run,
              check, totals);

    std::optional<OwnPasses> passes;
    if (c.activation != Activation::kNone) passes.emplace(c, run, seed + 5);

    if (c.wide_in) {
      run.done();
    } else {
      backward_weight(c, run, check, totals, {x, x_layout, dy, dy_layout, dw, db});
    }
    if (!check) return;
    totals.add(kDtypes[static_cast<int>(dtype)]);
    totals.add(std::string("activation:") + kActivations[static_cast<int>(c.activation)]);

    const std::vector<double> bias = values(dtype, b, b_layout);
    const Expected expected(c, values(dtype, x, x_layout), values(dtype, w, w_layout),
                            c.bias ? &bias : nullptr, values(dtype, dy, dy_layout));
    const int64_t pixels = c.batch * c.out_pixels();
    if (c.activation == Activation::kNone) {
      compare(dtype, y, y_layout, expected.y, c.taps() * c.multiplier + 1, "y");
    } else {
      compare_activated(c, y, y_layout, expected.y);
      passes->compare();
    }
    compare(dtype, dx, dx_layout, expected.dx, c.taps() * c.multiplier + 1, "dx");
    if (c.dw) compare(dtype, *dw, w_layout, expected.dw, pixels, "dw");
    if (c.db) compare(dtype, *db, b_layout, expected.db, pixels, "db");
  }

  struct WeightBuffers {
    const Buffer& x;
    const Layout& x_layout;
    const Buffer& dy;
    const Layout& dy_layout;
    Buffer *dw, *db;
  };
  static void backward_weight(const Case& c, Run& run, bool check, Totals& totals,
                              const WeightBuffers& buffers) {
    BackwardWeight weight;
    static_cast<Problem&>(weight) = c;
    weight.x = buffers.x.data();
    weight.x_strides = strides_of(buffers.x_layout);
    weight.dy = buffers.dy.data();
    weight.dy_strides = strides_of(buffers.dy_layout);
    weight.dw = c.dw ? buffers.dw->data() : nullptr;
    weight.db = c.db ? buffers.db->data() : nullptr;
    weight.workspace = nullptr;
    WeightPlan plan = make_backward_weight(weight, active_isa());
    plan.workspace = run.workspace(plan.workspace_bytes()).data();
    run.in_pieces(plan.tasks(), kWeightScratch.get()(plan),
                  [&](int64_t begin, int64_t end, void* s) { kWeight.get()(plan, begin, end, s); });
    run.in_pieces(plan.out_channels(), 0,
                  [&](int64_t begin, int64_t end, void*) { kReduce.get()(plan, begin, end); });
    run.done();
    if (check) totals.add(std::string("weight:") + kEngines[static_cast<int>(plan.engine)]);
  }

  static void correlate(Correlation plan, const char* what, Run& run, bool check, Totals& totals) {
    plan.prefetch = run.random.one_in(2);  // usually of large tensors only
    plan.narrow = plan.prefetch && run.random.one_in(2);
    // These decide on the bits.
    plan.stream = can_stream(plan) && plan.axis[1].out % 2 == 0;
    const bool tiles = plan.engine == Engine::kChannels && !plan.window && !plan.volume;
    const bool even = (plan.axis[2].out + plan.out_channels) % 2 == 0;
    plan.line = plan.line || (tiles && can_line(plan) && even);
    if (check) totals.add(std::string(what) + ":" + kEngines[static_cast<int>(plan.engine)]);
    if (check && plan.stream) totals.add("stream");
    if (check && plan.line) {
      const bool rows = plan.axis[0].kernel * plan.axis[1].kernel > 1;
      totals.add(std::string(rows ? "lines:" : "line:") + (plan.line_run() > 1 ? "runs" : "taps"));
    }
    if (check && plan.volume) totals.add("volume");
    if (check && plan.planar) totals.add("planar");
    if (check && plan.pairs) totals.add("pairs");
    run.in_pieces(plan.tasks(), kCorrelationScratch.get()(plan),
                  [&](int64_t begin, int64_t end, void* scratch) {
                    kCorrelation.get()(plan, begin, end, scratch);
                  });
  }

  static Case draw(Random& random) { return depthwise_conv_cases::draw(random); }
  static std::vector<Case> table() { return depthwise_conv_cases::table(); }
  static std::string text(const Case& c) { return depthwise_conv_cases::text(c); }
};

}  // namespace

int main(int argc, char** argv) { return harness::run_main<Room>(argc, argv); }
