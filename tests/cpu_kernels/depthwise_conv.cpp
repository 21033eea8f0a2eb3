// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Every CPU kernel of depthwise convolution against the sums of depthwise_conv.h, in memory of
// exactly the right size.
#include "depthwise_conv_activated.h"
#include "depthwise_conv_reference.h"
#include "harness.h"
#include "ops/depthwise_conv/cpu.h"

using namespace fastconv;
using namespace fastconv::depthwise_conv;
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

constexpr const char* kEngines[] = {"channels", "rolling", "direct", "rows", "blocked"};
constexpr const char* kDtypes[] = {"float32", "float64", "float16", "bfloat16"};

struct Case : Problem {
  bool bias, dw, db;
  bool views;  // inputs with gaps, permuted or expanded axes; channels-last outputs with gaps
  Activation activation = Activation::kNone;  // of the forward pass
  bool gradient = false;                      // its slope, times numbers that lie as y does
};

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
    const Buffer& dz = harness::numbers(run, dtype, y_layout, seed + 5);
    forward.gradient = c.gradient ? dz.data() : nullptr;
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

    if (c.wide_in) {
      run.done();
    } else {
      backward_weight(c, run, check, totals, {x, x_layout, dy, dy_layout, dw, db});
    }
    if (!check) return;
    totals.add(kDtypes[static_cast<int>(dtype)]);
    totals.add(std::string(c.gradient ? "slope:" : "activation:") +
               kActivations[static_cast<int>(c.activation)]);

    const std::vector<double> bias = values(dtype, b, b_layout);
    const Expected expected(c, values(dtype, x, x_layout), values(dtype, w, w_layout),
                            c.bias ? &bias : nullptr, values(dtype, dy, dy_layout));
    const int64_t pixels = c.batch * c.out_pixels();
    if (c.activation == Activation::kNone) {
      compare(dtype, y, y_layout, expected.y, c.taps() * c.multiplier + 1, "y");
    } else {
      compare_activated(c, y, y_layout, expected.y, values(dtype, dz, y_layout));
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
    if (check) totals.add(std::string(what) + ":" + kEngines[static_cast<int>(plan.engine)]);
    run.in_pieces(plan.tasks(), kCorrelationScratch.get()(plan),
                  [&](int64_t begin, int64_t end, void* scratch) {
                    kCorrelation.get()(plan, begin, end, scratch);
                  });
  }

  static Axis axis(int64_t in, int64_t kernel, int64_t stride, int64_t dilation, int64_t begin,
                   int64_t end) {
    const int64_t window = dilation * (kernel - 1) + 1;
    in = max_of(in, window - begin - end);
    return {in, (in + begin + end - window) / stride + 1, kernel, stride, dilation, begin};
  }

  // The first five activations, then their slopes.
  static void activate(Case& c, int which) {
    c.activation = static_cast<Activation>((which - 1) % 5 + 1);
    c.gradient = which > 5;
  }

  static Case draw(Random& random) {
    static constexpr int64_t kKernels[] = {1, 1, 2, 3, 3, 3, 4, 5, 7}, kSteps[] = {1, 1, 1, 2, 3};
    static constexpr int64_t kChannels[] = {1, 2, 3, 4, 5, 8, 15, 16, 17, 20, 31, 33, 49};
    static constexpr int64_t kWidths[] = {1, 3, 7, 8, 9, 15, 16, 17, 23, 31, 33, 49, 65};
    const int64_t dims = random.in(1, 3);
    Case c{};
    c.dtype = static_cast<Dtype>(random.in(0, 3));
    c.channels_last = random.one_in(2);
    c.batch = random.in(1, 2);
    c.channels = random.pick(kChannels);
    c.multiplier = random.one_in(4) ? random.in(2, 4) : 1;
    for (int i = 0; i < kSpatial; ++i) {
      if (i < kSpatial - dims) {
        c.axis[i] = {1, 1, 1, 1, 1, 0};
        continue;
      }
      const int64_t in = i == 2 ? random.pick(kWidths) : random.in(1, dims == 2 ? 12 : 6);
      const int64_t kernel = min_of(random.pick(kKernels), i == 2 ? 7 : dims == 2 ? 5 : 3);
      const int64_t pad = random.one_in(8) ? 9 : 4;
      c.axis[i] = axis(dims == 1 ? in * 3 : in, kernel, random.pick(kSteps), random.pick(kSteps),
                       random.in(0, pad), random.in(0, pad));
    }
    c.bias = random.one_in(2);
    c.wide_in = random.one_in(4);
    c.dw = !c.wide_in && !random.one_in(6);
    c.db = !c.wide_in && (!c.dw || random.one_in(2));
    c.views = random.one_in(2);
    if (!c.wide_in && random.one_in(2)) activate(c, static_cast<int>(random.in(1, 10)));
    return c;
  }

  // What random problems of this size do not reach.
  static std::vector<Case> table() {
    std::vector<Case> cases;
    const Axis one{1, 1, 1, 1, 1, 0};
    const auto add = [&](Dtype dtype, int64_t channels, int64_t multiplier, const Axis& height,
                         const Axis& width) {
      for (const bool channels_last : {false, true}) {
        cases.push_back(
            {{dtype, channels_last, false, 1, channels, multiplier, {one, height, width}},
             true,
             true,
             true,
             false});
      }
    };
    // Planes too wide for the blocked engine; several chunks of columns; rows of 16-bit types.
    add(Dtype::kFloat64, 5, 1, axis(5, 3, 1, 1, 1, 1), axis(1301, 3, 1, 1, 1, 1));
    add(Dtype::kFloat16, 4, 2, axis(4, 3, 2, 1, 1, 1), axis(4999, 5, 2, 1, 2, 2));
    add(Dtype::kBFloat16, 3, 1, one, axis(9001, 4, 1, 3, 9, 0));
    // Strips that roll down the image: pairs of channels with one over, several strips to a row,
    // the gradient of the weight at both strides; forward and as the gradient of the other.
    for (const int64_t kernel : {3, 5, 7}) {
      const Dtype dtype = kernel == 3   ? Dtype::kFloat32
                          : kernel == 5 ? Dtype::kBFloat16
                                        : Dtype::kFloat16;
      const int64_t pad = kernel / 2;
      add(dtype, 5, 1, axis(6, kernel, 1, 1, pad, pad), axis(16, kernel, 1, 1, pad, pad));
      add(dtype, 2, 1, axis(9, kernel, 1, 1, 0, pad), axis(31, kernel, 1, 1, kernel - 1, 0));
      add(dtype, 2, 2, axis(5, kernel, 1, 1, pad, pad), axis(151, kernel, 1, 1, pad, pad));
      add(dtype, 3, 1, axis(9, kernel, 2, 1, pad, pad), axis(37, kernel, 2, 1, pad, pad));
    }
    // Bands of rows read in place: dilation, even filters, one row.
    add(Dtype::kFloat32, 3, 1, axis(21, 3, 1, 2, 2, 2), axis(37, 3, 1, 3, 3, 3));
    add(Dtype::kFloat16, 2, 2, axis(13, 4, 2, 1, 1, 2), axis(50, 2, 1, 1, 1, 0));
    add(Dtype::kBFloat16, 3, 1, one, axis(90, 4, 1, 1, 3, 0));
    add(Dtype::kFloat64, 3, 1, axis(9, 3, 1, 1, 1, 1), axis(40, 3, 1, 1, 1, 1));
    // Planes that are finished in several pieces, and rows that tiles overlap.
    for (int which = 1; which <= 10; ++which) {
      const Dtype dtype = static_cast<Dtype>(which % 4);
      add(dtype, 18, 1, axis(9, 3, 1, 1, 1, 1), axis(11, 3, 1, 1, 1, 1));
      add(dtype, 2, 1, axis(60, 3, 1, 1, 1, 1), axis(130, 3, 1, 1, 1, 1));
      add(dtype, 21, 2, axis(7, 3, 2, 1, 1, 1), axis(9, 3, 2, 1, 1, 1));
      add(dtype, 3, 1, axis(9, 5, 1, 2, 4, 4), axis(40, 3, 1, 1, 1, 1));
      for (size_t i = cases.size() - 8; i < cases.size(); ++i) activate(cases[i], which);
    }
    for (size_t i = 0, filled = cases.size(); i < filled; ++i) {
      if (cases[i].activation != Activation::kNone) continue;
      if (cases[i].axis[2].stride > 1 || cases[i].multiplier > 1) continue;
      cases.push_back(cases[i]);
      cases.back().wide_in = true;
      cases.back().dw = cases.back().db = false;
    }
    // Many channels; filters larger than the image; dilation and stride beyond both.
    add(Dtype::kFloat32, 300, 1, axis(7, 7, 1, 1, 3, 3), axis(7, 7, 1, 1, 3, 3));
    add(Dtype::kBFloat16, 18, 1, axis(4, 9, 1, 1, 4, 4), axis(19, 31, 1, 1, 15, 15));
    add(Dtype::kFloat32, 17, 1, axis(40, 3, 16, 1, 0, 0), axis(600, 3, 16, 1, 0, 0));
    add(Dtype::kFloat16, 17, 3, axis(3, 3, 1, 40, 40, 40), axis(5, 3, 2, 17, 20, 20));
    // Windows with few columns to a task: pixels a power of two apart, filters with planes.
    for (const int64_t stride : {1, 2}) {
      add(Dtype::kFloat32, 512, 1, axis(5, 3, stride, 1, 1, 1), axis(21, 3, stride, 1, 1, 1));
    }
    const Axis planes[] = {axis(4, 3, 1, 1, 1, 1), axis(17, 3, 2, 1, 1, 1),
                           axis(61, 3, 2, 1, 1, 1)};
    cases.push_back({{Dtype::kFloat32, true, false, 1, 68, 1, {planes[0], planes[1], planes[2]}},
                     true,
                     true,
                     true,
                     false});
    // Transposed: rows, because planes are too wide; filters smaller than the stride.
    for (const int64_t multiplier : {1, 3}) {
      add(Dtype::kFloat32, 5, multiplier, axis(9, 3, 2, 1, 1, 1), axis(2601, 4, 2, 1, 1, 1));
      add(Dtype::kBFloat16, 21, multiplier, axis(8, 2, 3, 1, 0, 0), axis(25, 1, 4, 2, 0, 0));
      for (size_t i = cases.size() - 4; i < cases.size(); ++i) {
        cases[i].wide_in = true;
        cases[i].dw = cases[i].db = false;
      }
    }
    return cases;
  }

  static std::string text(const Case& c) {
    std::string s = kDtypes[static_cast<int>(c.dtype)];
    s += c.channels_last ? " channels_last" : " contiguous";
    s += c.views ? " views" : "";
    s += c.wide_in ? " transposed" : "";
    s += " n" + std::to_string(c.batch) + " c" + std::to_string(c.channels) + " m" +
         std::to_string(c.multiplier);
    for (const Axis& a : c.axis) {
      s += " (in " + std::to_string(a.in) + " out " + std::to_string(a.out) + " k" +
           std::to_string(a.kernel) + " s" + std::to_string(a.stride) + " d" +
           std::to_string(a.dilation) + " p" + std::to_string(a.pad) + ")";
    }
    s += std::string(" ") + kActivations[static_cast<int>(c.activation)];
    s += c.gradient ? " slope" : "";
    return s + (c.bias ? " bias" : "") + (c.dw ? " dw" : "") + (c.db ? " db" : "");
  }
};

}  // namespace

int main(int argc, char** argv) { return harness::run_main<Room>(argc, argv); }
