// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Every CPU kernel of depth max pooling against the scan of depth_max_pool.h, in memory of exactly
// the right size.
#include "depth_max_pool_cases.h"
#include "depth_max_pool_reference.h"
#include "harness.h"
#include "ops/depth_max_pool/depth_max_pool_cpu.h"

using namespace fastconv;
using namespace fastconv::depth_max_pool;
using depth_max_pool_cases::kDtypes;
using depth_max_pool_cases::kIndexTypes;
using depth_max_pool_reference::kIndexBytes;
using depth_max_pool_reference::read_index;
using depth_max_pool_reference::scan;
using depth_max_pool_reference::Winner;
using harness::Buffer;
using harness::Layout;
using harness::Random;
using harness::Run;
using harness::Totals;

namespace {

constexpr auto kForward = FASTCONV_ISA_TABLE(forward);
constexpr IsaTable<decltype(&baseline::expand)> kBackward[] = {  // in the order of BackwardWay
    FASTCONV_ISA_TABLE(expand), FASTCONV_ISA_TABLE(scatter), FASTCONV_ISA_TABLE(gather)};
constexpr auto kLanesOf = FASTCONV_ISA_TABLE(lanes);

constexpr const char* kWays[] = {"expand", "scatter", "gather"};

// The backward pass as torch.cpp would do it, or any other way that can.
BackwardWay choose_way(const Backward& p, Random& random) {
  const int lanes = kLanesOf.get()();
  const auto any = static_cast<BackwardWay>(random.in(0, 2));
  if (any == BackwardWay::kExpand && can_expand(p, lanes)) return any;
  bool can_scatter = true;
  for (const Axis& a : p.axis) can_scatter = can_scatter && (a.kernel == 1 || a.dilation <= a.in);
  if (any == BackwardWay::kScatter && can_scatter) return any;
  if (any == BackwardWay::kGather) return any;
  return backward_way(p, lanes);
}

// Puts NaNs, minus infinities or equal numbers among the elements.
void roughen(int how, Dtype dtype, const Buffer& x, const Layout& layout, uint64_t seed) {
  Random random(seed);
  const int64_t element = element_size(dtype);
  layout.each([&](int64_t offset, const std::vector<int64_t>&) {
    char* at = x.bytes() + offset * element;
    if ((offset + 1) * element > x.size()) return;
    if (how == 1 && random.one_in(20)) harness::write_nan(dtype, at);
    if (how == 2 && random.one_in(2)) harness::write_minus_infinity(dtype, at);
    if (how == 3 && random.one_in(2)) std::memcpy(at, x.bytes(), static_cast<size_t>(element));
  });
}

Strides strides_of(const Layout& l) {
  return {l.stride[0], {l.stride[1], l.stride[2], l.stride[3], l.stride[4]}};
}

struct Room {
  using Case = depth_max_pool_cases::Case;

  static void run(const Case& c, Run& run, uint64_t seed, bool check, Totals& totals) {
    const int64_t element = element_size(c.dtype);
    const int64_t index_element = kIndexBytes[static_cast<int>(c.index_type)];
    Random random(seed);
    const std::vector<int> order =
        c.inner == 0 ? std::vector<int>{0, 2, 3, 4, 1} : std::vector<int>{0, 1, 2, 3, 4};
    std::vector<int64_t> in = {c.batch}, out = {c.batch};
    for (const Axis& a : c.axis) {
      in.push_back(a.in);
      out.push_back(a.out);
    }
    // Gradients and indices are dense along the inner axis, or the one that is merged into the
    // place of its one element; inputs nowhere.
    const auto view = [&](const std::vector<int64_t>& size, int fixed, bool expanded) {
      while (fixed > 0 && fixed < 3 && c.inner == 3 && size[5 - fixed] == 1) ++fixed;
      const bool gaps = !random.one_in(3);
      return c.views ? harness::strided(size, order, fixed, gaps, expanded, random)
                     : harness::dense(size, order);
    };
    const Layout x_layout = view(in, 0, true), y_layout = harness::dense(out, order);
    const Buffer& x = harness::numbers(run, c.dtype, x_layout, seed + 1);
    roughen(c.rough, c.dtype, x, x_layout, seed + 2);
    Buffer& y = run.output(y_layout, element);
    Buffer* index = index_element > 0 ? &run.output(y_layout, index_element) : nullptr;
    Forward p{};
    static_cast<Problem&>(p) = c;
    p.x = x.data();
    p.x_strides = strides_of(x_layout);
    p.y = y.data();
    p.index = index != nullptr ? index->data() : nullptr;
    p.y_strides = strides_of(y_layout);
    if (c.merged) {
      merge_plain_axes(p, {&p.x_strides, &p.y_strides});
      merge_pixels_into_channels(p, {&p.x_strides, &p.y_strides}, {true, false});
    }
    run.in_pieces(forward_tasks(p), forward_bytes(p),
                  [&](int64_t begin, int64_t end, void* s) { kForward.get()(p, s, begin, end); });
    run.done();
    if (check && in_stages(p)) totals.add("stages");
    std::vector<Winner> winners;
    if (check) {
      totals.add(kDtypes[static_cast<int>(c.dtype)]);
      totals.add(std::string("forward:") + kIndexTypes[static_cast<int>(c.index_type)]);
      winners = check_forward(c, x, x_layout, y, index, y_layout);
    }
    if (index == nullptr) return;

    const Layout dy_layout = view(out, 1, true), index_layout = view(out, 1, false);
    const Layout dx_layout = harness::dense(in, order);
    const Buffer& dy = harness::numbers(run, c.dtype, dy_layout, seed + 3);
    const Buffer& stored = copy_of(run, *index, y_layout, index_layout, index_element);
    Buffer& dx = run.output(dx_layout, element);
    Backward q{};
    static_cast<Problem&>(q) = c;
    q.dy = dy.data();
    q.dy_strides = strides_of(dy_layout);
    q.index = stored.data();
    q.index_strides = strides_of(index_layout);
    q.dx = dx.data();
    q.dx_strides = strides_of(dx_layout);
    if (c.merged) {
      merge_plain_axes(q, {&q.dy_strides, &q.index_strides, &q.dx_strides});
      merge_pixels_into_channels(q, {&q.dy_strides, &q.index_strides, &q.dx_strides},
                                 {false, false, true});
    }
    const BackwardWay way = choose_way(q, random);
    if (way == BackwardWay::kExpand && !covers_input(q)) {
      std::memset(dx.data(), 0, static_cast<size_t>(dx.size()));
    }
    const auto backward = kBackward[static_cast<int>(way)].get();
    run.in_pieces(backward_tasks(q, way), backward_bytes(q, way),
                  [&](int64_t begin, int64_t end, void* s) { backward(q, s, begin, end); });
    if (!check) return;
    totals.add(std::string("backward:") + kWays[static_cast<int>(way)]);
    check_backward(c, winners, dy, dy_layout, dx, dx_layout);
  }

  // The winners, in the order of y_layout.each().
  static std::vector<Winner> check_forward(const Case& c, const Buffer& x, const Layout& x_layout,
                                           const Buffer& y, const Buffer* index,
                                           const Layout& y_layout) {
    const int64_t element = element_size(c.dtype);
    std::vector<std::vector<double>> images(c.batch);
    x_layout.each([&](int64_t offset, const std::vector<int64_t>& at) {
      images[at[0]].push_back(harness::read_number(c.dtype, x.bytes() + offset * element));
    });
    std::vector<Winner> winners;
    y_layout.each([&](int64_t offset, const std::vector<int64_t>& at) {
      const Winner want = scan(c, images[at[0]], at);
      winners.push_back(want);
      const double got = harness::read_number(c.dtype, y.bytes() + offset * element);
      if (got != want.value && !(std::isnan(got) && std::isnan(want.value))) {
        harness::fail("y is %g instead of %g", got, want.value);
      }
      if (index == nullptr || want.position < 0) return;
      const int64_t element_bytes = kIndexBytes[static_cast<int>(c.index_type)];
      const int64_t found = read_index(c.index_type, index->bytes() + offset * element_bytes);
      const int64_t right = c.index_type == IndexType::kInt64 ? want.position : want.tap;
      if (found != right) {
        harness::fail("an index is %lld instead of %lld", static_cast<long long>(found),
                      static_cast<long long>(right));
      }
    });
    return winners;
  }

  static void check_backward(const Case& c, const std::vector<Winner>& winners, const Buffer& dy,
                             const Layout& dy_layout, const Buffer& dx, const Layout& dx_layout) {
    const int64_t element = element_size(c.dtype), image = c.in_elements() / c.batch;
    struct Sum {
      double value = 0, magnitude = 0;
      int64_t terms = 0;
    };
    std::vector<Sum> sums(c.in_elements());
    size_t i = 0;
    dy_layout.each([&](int64_t offset, const std::vector<int64_t>& at) {
      const Winner& winner = winners[i++];
      if (winner.position < 0) return;
      const double v = harness::read_number(c.dtype, dy.bytes() + offset * element);
      Sum& sum = sums[at[0] * image + winner.position];
      sum.value += v;
      sum.magnitude += std::fabs(v);
      ++sum.terms;
    });
    i = 0;
    dx_layout.each([&](int64_t offset, const std::vector<int64_t>&) {
      const Sum& sum = sums[i++];
      harness::check_sum(c.dtype, dx.bytes() + offset * element, sum.value, sum.magnitude,
                         sum.terms, "dx");
    });
  }

  // The same elements in another layout.
  static const Buffer& copy_of(Run& run, const Buffer& from, const Layout& from_layout,
                               const Layout& layout, int64_t element) {
    Buffer& to = run.input(layout.span() * element, element);
    std::vector<int64_t> offsets;
    from_layout.each([&](int64_t o, const std::vector<int64_t>&) { offsets.push_back(o); });
    size_t i = 0;
    layout.each([&](int64_t offset, const std::vector<int64_t>&) {
      std::memcpy(to.bytes() + offset * element, from.bytes() + offsets[i++] * element,
                  static_cast<size_t>(element));
    });
    return to;
  }

  static Case draw(Random& random) { return depth_max_pool_cases::draw(random); }
  static std::vector<Case> table() { return depth_max_pool_cases::table(); }
  static std::string text(const Case& c) { return depth_max_pool_cases::text(c); }
};

}  // namespace

int main(int argc, char** argv) { return harness::run_main<Room>(argc, argv); }
