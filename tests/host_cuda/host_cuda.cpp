// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// The executor behind host_cuda.h.  Errors it reports: barriers and warp operations that some of
// their threads never reach, lanes outside a mask, cp.async still in flight at exit, misaligned
// vector accesses, writes next to shared memory, accesses outside the tensors of host_cuda_alloc(),
// indices outside local arrays, and launch limits.  Shared memory starts as NaN or as large
// numbers, and cp.async lands as late as the programming model allows, so that a missing barrier or
// wait shows in the results. Under AddressSanitizer every access out of bounds is caught.
#include "host_cuda.h"

#include <sys/mman.h>

#include <cstdlib>
#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber_context.h"
#include "internal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastconv::host_cuda {
namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kMaxSmem = 227 << 10;

enum class State : uint8_t { kReady, kAtBlock, kAtWarp, kDone };

struct Copy {
  void* dst;
  const void* src;
  int bytes, valid_bytes;
};

struct Fiber {
  Context context;
  char* stack;
  void* fake_stack;
  State state;
  uint3 index;
  int linear;
  Site site;
  WarpOp op;
  unsigned mask;
  uint64_t value, result;
  int source_lane;
  sigjmp_buf jump;
  std::vector<Copy> open_group;
  std::deque<std::vector<Copy>> groups;
};

struct Block {
  std::vector<Fiber> fibers;
  int count = 0;
  Fiber* current = nullptr;
  Context main;
  const void* main_stack = nullptr;
  size_t main_stack_bytes = 0;
  void* main_fake_stack = nullptr;
  Smem* dynamic = nullptr;
  std::map<const void*, Smem> statics;
  void (*body)(void*) = nullptr;
  void* state = nullptr;
  std::string error;
};

Order order_ = Order::kForward;
unsigned seed_ = 1;
std::string error_;
Block block_;

std::string where(const Site& site) {
  return std::string(site.file_name()) + ":" + std::to_string(site.line());
}

std::string at_position(const std::string& what) {
  const uint3 b = position.block_index, t = position.thread_index;
  auto triple = [](uint3 i) {
    return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
  };
  return "block " + triple(b) + " thread " + triple(t) + ": " + what;
}

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(at_position(what)); }

void yield_to_scheduler(bool last = false) {
  Fiber& f = *block_.current;
  (void)last;
  ON_ASAN(__sanitizer_start_switch_fiber(last ? nullptr : &f.fake_stack, block_.main_stack,
                                         block_.main_stack_bytes);)
  Context::transfer(f.context, block_.main);
  ON_ASAN(__sanitizer_finish_switch_fiber(f.fake_stack, nullptr, nullptr);)
}

void run_thread(const Fiber& f) {
  try {
    block_.body(block_.state);
    if (!f.open_group.empty() || !f.groups.empty()) fail("exits with cp.async in flight");
  } catch (const std::exception& e) {
    if (block_.error.empty()) block_.error = e.what();
  }
}

void fiber_entry() {
  ON_ASAN(__sanitizer_finish_switch_fiber(nullptr, &block_.main_stack, &block_.main_stack_bytes);)
  Fiber& f = *block_.current;
  if (sigsetjmp(f.jump, 0) != 0) {
    block_.error = at_position(fault_text());
  } else {
    run_thread(f);
  }
  f.state = State::kDone;
  yield_to_scheduler(/*last=*/true);
  std::abort();
}

void resume(Fiber& f) {
  block_.current = &f;
  position.thread_index = f.index;
  fault_jump = &f.jump;
  in_thread = true;
  ON_ASAN(__sanitizer_start_switch_fiber(&block_.main_fake_stack, f.stack, kStackBytes);)
  Context::transfer(block_.main, f.context);
  ON_ASAN(__sanitizer_finish_switch_fiber(block_.main_fake_stack, nullptr, nullptr);)
  in_thread = false;
}

// mma.sync.m16n8k16: D = A B + C.  Lane 4 * g + t holds, two neighbouring columns to a register,
// rows g and g + 8 of A (16 x 16) at columns 2t and 2t + 8, and of C and D (16 x 8) at columns 2t;
// and column g of B (16 x 8) at rows 2t and 2t + 8.  The hardware's order of summation is not
// specified; here a sum is rounded once.
void multiply(const Mma* const (&lanes)[32]) {
  double a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Mma& m = *lanes[lane];
    const int group = lane / 4, column = lane % 4 * 2;
    for (int i = 0; i < 2; ++i) {
      for (int half = 0; half < 2; ++half) {
        const int k = column + 8 * half + i;
        for (int lower = 0; lower < 2; ++lower) {
          a[group + 8 * lower][k] = m.widen(m.a[2 * half + lower] >> 16 * i);
        }
        b[k][group] = m.widen(m.b[half] >> 16 * i);
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      double sum = lanes[lane]->d[i];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      lanes[lane]->d[i] = static_cast<float>(sum);
    }
  }
}

// Completes the warp operations of one warp whose lanes have all arrived.
bool release_warp(int first) {
  const int lanes = std::min(32, block_.count - first);
  Fiber* warp = &block_.fibers[first];
  const unsigned present = lanes == 32 ? ~0u : (1u << lanes) - 1;
  bool released = false;
  for (int i = 0; i < lanes; ++i) {
    const Fiber& leader = warp[i];
    if (leader.state != State::kAtWarp) continue;
    const unsigned mask = leader.mask & present;
    unsigned arrived = 0, ballot = 0;
    for (int j = 0; j < lanes; ++j) {
      const Fiber& f = warp[j];
      if (f.state == State::kAtWarp && f.mask == leader.mask && f.op == leader.op &&
          f.site.line() == leader.site.line()) {
        arrived |= 1u << j;
        if (f.value != 0) ballot |= 1u << j;
      }
    }
    if ((arrived & mask) != mask) continue;
    const Mma* operands[32] = {};
    for (int j = 0; j < lanes; ++j) {
      if ((mask >> j & 1) == 0) continue;
      Fiber& f = warp[j];
      if (f.op == WarpOp::kBallot) f.result = ballot & mask;
      if (f.op == WarpOp::kShuffle) {
        f.result = f.source_lane < lanes ? warp[f.source_lane].value : ~uint64_t{0};
      }
      if (f.op == WarpOp::kMma) operands[j] = reinterpret_cast<const Mma*>(f.value);
      f.state = State::kReady;
    }
    if (operands[0] != nullptr) multiply(operands);
    released = true;
  }
  return released;
}

// Lets the block pass its barrier, or says why it cannot.
void release_block() {
  int waiting = 0, in_warp = 0, done = 0;
  const Fiber* first = nullptr;
  const Fiber* other = nullptr;
  for (const Fiber& f : block_.fibers) {
    waiting += f.state == State::kAtBlock;
    in_warp += f.state == State::kAtWarp;
    done += f.state == State::kDone;
    if (f.state != State::kAtBlock && f.state != State::kAtWarp) continue;
    if (first == nullptr) first = &f;
    if (f.site.line() != first->site.line()) other = &f;
  }
  if (waiting == block_.count && other == nullptr) {
    for (Fiber& f : block_.fibers) f.state = State::kReady;
    return;
  }
  block_.error = "divergence: of " + std::to_string(block_.count) + " threads " +
                 std::to_string(waiting) + " wait at __syncthreads, " + std::to_string(in_warp) +
                 " at a warp operation, " + std::to_string(done) + " have exited; " +
                 where(first->site) + (other != nullptr ? " and " + where(other->site) : "");
}

void schedule(std::mt19937& random) {
  std::vector<int> turn(block_.count);
  std::iota(turn.begin(), turn.end(), 0);
  if (order_ == Order::kReverse) std::reverse(turn.begin(), turn.end());
  for (;;) {
    if (order_ == Order::kRandom) std::shuffle(turn.begin(), turn.end(), random);
    bool all_done = true;
    for (const int i : turn) {
      Fiber& f = block_.fibers[i];
      if (f.state == State::kReady) resume(f);
      if (!block_.error.empty()) return;
      all_done = all_done && f.state == State::kDone;
    }
    if (all_done) return;
    bool released = false;
    for (int first = 0; first < block_.count; first += 32) released |= release_warp(first);
    if (!released) release_block();
    if (!block_.error.empty()) return;
  }
}

char* stacks() {
  static char* pool = [] {
    void* p = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    // Below each stack is a page that cannot be touched.
    for (int i = 0; i < kMaxThreads; ++i) {
      mprotect(static_cast<char*>(p) + kStackBytes * i, 4096, PROT_NONE);
    }
    return static_cast<char*>(p);
  }();
  return pool;
}

// What shared memory starts as.  NaN shows wherever it is used; but a kernel that looks for numbers
// that are not finite and computes those results anew would hide it, so in some orders it is a
// finite number: 15 in fp16, 1.3e7 in fp32 and bfloat16, 7e54 in fp64.
unsigned char smem_fill() {
  const bool finite = order_ == Order::kRandom ? seed_ % 2 != 0 : order_ == Order::kReverse;
  return finite ? 0x4B : 0xFF;
}

void run_block(size_t smem, std::mt19937& random) {
  Smem dynamic(smem, smem_fill());
  block_.dynamic = &dynamic;
  block_.statics.clear();
  const dim3 size = position.block;
  for (int i = 0; i < block_.count; ++i) {
    Fiber& f = block_.fibers[i];
    f.linear = i;
    f.index = make_uint3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
    f.state = State::kReady;
    f.fake_stack = nullptr;
    f.open_group.clear();
    f.groups.clear();
    f.stack = stacks() + kStackBytes * i;
    ON_ASAN(ASAN_UNPOISON_MEMORY_REGION(f.stack + 4096, kStackBytes - 4096);)
    f.context.start(f.stack, fiber_entry);
  }
  schedule(random);
  bool intact = dynamic.intact();
  for (const auto& [key, shared] : block_.statics) intact = intact && shared.intact();
  if (!intact && block_.error.empty()) block_.error = "writes past an end of shared memory";
}

}  // namespace

void configure(Order order, unsigned seed) {
  order_ = order;
  seed_ = seed;
}

const char* last_error() { return error_.c_str(); }

cudaError_t run(const void* kernel, dim3 grid, dim3 block, size_t smem, void (*body)(void*),
                void* state) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > kMaxThreads || block.z > 64 || smem > kMaxSmem || grid.x < 1 ||
      grid.x > 0x7FFFFFFFu || grid.y < 1 || grid.y > 65535 || grid.z < 1 || grid.z > 65535) {
    error_ = "launch configuration outside the hardware's limits";
    return cudaErrorInvalidConfiguration;
  }
  position.grid = grid;
  position.block = block;
  block_.count = static_cast<int>(threads);
  block_.fibers.resize(threads);
  block_.body = body;
  block_.state = state;
  block_.error.clear();
  std::mt19937 random(seed_);
  const Faults faults;
  // Blocks run in the order of the schedule too: none may count on another.
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks && block_.error.empty(); ++i) {
    const uint64_t b = order_ == Order::kForward ? i : blocks - 1 - i;
    position.block_index =
        make_uint3(static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                   static_cast<unsigned>(b / grid.x / grid.y));
    run_block(smem, random);
  }
  error_ = block_.error;
  if (error_.empty()) record_launch(kernel, block_.count, order_);
  return error_.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

void* dynamic_smem() { return block_.dynamic->data(); }

void* static_smem(const void* key, size_t bytes) {
  return block_.statics.try_emplace(key, bytes, smem_fill()).first->second.data();
}

void sync_block(const Site& site) {
  Fiber& f = *block_.current;
  f.site = site;
  f.state = State::kAtBlock;
  yield_to_scheduler();
}

int lane() { return block_.current->linear & 31; }

uint64_t exchange(WarpOp op, unsigned mask, uint64_t value, int source_lane, const Site& site) {
  Fiber& f = *block_.current;
  if ((mask >> lane() & 1) == 0)
    fail("calls a warp operation outside its own mask, " + where(site));
  if ((mask >> source_lane & 1) == 0 && op == WarpOp::kShuffle) {
    fail("shuffles from a lane outside the mask, " + where(site));
  }
  f.site = site;
  f.op = op;
  f.mask = mask;
  f.value = value;
  f.source_lane = source_lane;
  f.state = State::kAtWarp;
  yield_to_scheduler();
  return f.result;
}

void mma(const Mma& operands, const Site& site) {
  const Fiber& f = *block_.current;
  if ((f.linear | 31) >= block_.count) fail("mma.sync in a warp of fewer than 32, " + where(site));
  exchange(WarpOp::kMma, ~0u, reinterpret_cast<uint64_t>(&operands), 0, site);
}

void cp_async(void* dst, const void* src, int bytes, int valid_bytes, const Site& site) {
  check_aligned(dst, bytes, site);
  check_aligned(src, bytes, site);
  block_.current->open_group.push_back({dst, src, bytes, valid_bytes});
}

void cp_async_commit() {
  Fiber& f = *block_.current;
  f.groups.push_back(std::move(f.open_group));
  f.open_group.clear();
}

void cp_async_wait(int groups_left) {
  auto& groups = block_.current->groups;
  for (; static_cast<int>(groups.size()) > groups_left; groups.pop_front()) {
    for (const Copy& c : groups.front()) {
      std::memcpy(c.dst, c.src, c.valid_bytes);
      std::memset(static_cast<char*>(c.dst) + c.valid_bytes, 0, c.bytes - c.valid_bytes);
    }
  }
}

void check_aligned(const void* p, size_t bytes, const Site& site) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) {
    fail("misaligned access of " + std::to_string(bytes) + " bytes, " + where(site));
  }
}

}  // namespace fastconv::host_cuda

extern "C" void host_cuda_configure(int order, unsigned seed) {
  fastconv::host_cuda::configure(static_cast<fastconv::host_cuda::Order>(order), seed);
}
extern "C" const char* host_cuda_last_error() { return fastconv::host_cuda::last_error(); }
