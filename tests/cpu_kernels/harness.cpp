// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

#include "harness.h"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdarg>

namespace harness {
namespace {

char current[2000] = "no case yet";

void print_current() {
  // A handler may call write() and not much else.
  const char* parts[] = {"\nin ", current, "\n"};
  for (const char* part : parts) {
    if (write(2, part, std::strlen(part)) < 0) return;
  }
}

// Traps of UndefinedBehaviorSanitizer are illegal instructions, guard pages segmentation faults.
void on_signal(int number) {
  const char* name =
      number == SIGSEGV || number == SIGBUS ? "\nbad address" : "\nundefined behaviour (trap)";
  if (write(2, name, std::strlen(name)) >= 0) print_current();
  _exit(90);
}

}  // namespace

// ---- memory ----

namespace {
constexpr int64_t kPage = 4096;
constexpr unsigned char kAround = 0xab;
}  // namespace

Buffer::Buffer(Placement placement, int fill, int64_t bytes, int64_t align) : size_(bytes) {
  if (placement == Placement::kHeap) {
    // A block at an odd multiple of its alignment would need slack before it; the guard pages do
    // that.  malloc alone gives exact sizes and 16 bytes of alignment.
    void* p = nullptr;
    if (align <= 16) {
      p = std::malloc(static_cast<size_t>(bytes));
    } else if (posix_memalign(&p, static_cast<size_t>(align), static_cast<size_t>(bytes)) != 0) {
      p = nullptr;
    }
    if (p == nullptr && bytes > 0) fail("out of memory: %lld bytes", static_cast<long long>(bytes));
    data_ = p;
  } else {
    const int64_t inner = fastconv::round_up(fastconv::max_of(bytes, 1), kPage);
    mapped_ = inner + kPage;
    void* map = mmap(nullptr, static_cast<size_t>(mapped_), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) fail("out of memory: %lld bytes", static_cast<long long>(mapped_));
    map_ = static_cast<char*>(map);
    const bool behind = placement == Placement::kGuardBehind;
    if (mprotect(behind ? map_ + inner : map_, kPage, PROT_NONE) != 0) fail("mprotect failed");
    usable_ = behind ? map_ : map_ + kPage;
    usable_size_ = inner;
    std::memset(usable_, kAround, static_cast<size_t>(inner));
    data_ = usable_ + (behind ? inner - fastconv::round_up(bytes, align) : 0);
  }
  if (bytes > 0 && fill != kNothing) std::memset(data_, fill, static_cast<size_t>(bytes));
}

Buffer::~Buffer() {
  if (map_ == nullptr) {
    std::free(data_);
  } else {
    munmap(map_, static_cast<size_t>(mapped_));
  }
}

bool Buffer::surroundings_are_whole() const {
  if (map_ == nullptr) return true;
  for (const char* p = usable_; p < usable_ + usable_size_; ++p) {
    if (p == data_) p += size_;
    if (p < usable_ + usable_size_ && static_cast<unsigned char>(*p) != kAround) return false;
  }
  return true;
}

std::vector<char> Run::output_bytes() const {
  std::vector<char> all;
  for (const Output& out : outputs_) {
    const char* bytes = out.buffer->bytes();
    const int64_t count = out.layout.count();
    // Elements of an output do not overlap, so as many as fit leave nothing between them.
    if (out.layout.span() == count && out.buffer->size() == count * out.element) {
      all.insert(all.end(), bytes, bytes + out.buffer->size());
      continue;
    }
    std::vector<bool> is_element(static_cast<size_t>(out.buffer->size()));
    out.layout.each([&](int64_t offset, const std::vector<int64_t>&) {
      for (int64_t i = offset * out.element; i < (offset + 1) * out.element; ++i) {
        if (i >= out.buffer->size()) return;
        is_element[i] = true;
        all.push_back(out.buffer->bytes()[i]);
      }
    });
    for (int64_t i = 0; fill_ != kNothing && i < out.buffer->size(); ++i) {
      if (!is_element[i] && static_cast<unsigned char>(out.buffer->bytes()[i]) != fill_) {
        fail("written between the elements of an output");
      }
    }
  }
  return all;
}

void Run::check_surroundings() const {
  for (const auto& b : buffers_) {
    if (!b->surroundings_are_whole()) fail("written outside of a buffer");
  }
}

// ---- failures ----

void set_current(const std::string& what) {
  std::snprintf(current, sizeof current, "%s", what.c_str());
}

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  print_current();
  _exit(91);
}

// ---- tensors ----

int64_t Layout::span() const {
  int64_t span = 1;
  for (size_t a = 0; a < size.size(); ++a) span += (size[a] - 1) * stride[a];
  return count() == 0 ? 0 : span;
}

int64_t Layout::count() const {
  int64_t count = 1;
  for (const int64_t n : size) count *= n;
  return count;
}

Layout dense(const std::vector<int64_t>& size, const std::vector<int>& order) {
  Layout layout{size, std::vector<int64_t>(size.size())};
  int64_t step = 1;
  for (size_t i = order.size(); i-- > 0;) {
    layout.stride[order[i]] = step;
    step *= size[order[i]];
  }
  return layout;
}

Layout strided(const std::vector<int64_t>& size, std::vector<int> order, int fixed, bool gaps,
               bool expanded, Random& random) {
  if (random.one_in(2)) {
    for (size_t i = order.size() - fixed; i > 1; --i) {
      std::swap(order[i - 1], order[random.in(0, i - 1)]);
    }
  }
  Layout layout{size, std::vector<int64_t>(size.size())};
  const int movable = static_cast<int>(order.size()) - fixed;
  int64_t step = fixed == 0 && gaps && random.one_in(2) ? random.in(2, 3) : 1;
  for (int i = static_cast<int>(order.size()) - 1; i >= 0; --i) {
    const int axis = order[i];
    if (expanded && i < movable && random.one_in(4)) continue;
    layout.stride[axis] = step;
    step *= size[axis];
    if (gaps && (step > 1 || size[axis] > 1)) step += random.in(0, 3);
  }
  // The stride of an axis of one element means nothing.
  for (size_t a = 0; a < size.size(); ++a) {
    const bool is_fixed = fixed > 0 && static_cast<int>(a) == order.back();
    if (size[a] == 1 && !is_fixed && random.one_in(2)) layout.stride[a] = 1 << random.in(0, 20);
  }
  return layout;
}

Buffer& numbers(Run& run, Dtype dtype, const Layout& layout, uint64_t seed) {
  const int64_t element = fastconv::element_size(dtype);
  Buffer& buffer = run.input(layout.span() * element, element);
  Random random(seed);
  layout.each([&](int64_t offset, const std::vector<int64_t>&) {
    if ((offset + 1) * element <= buffer.size()) {
      write_random(dtype, buffer.bytes() + offset * element, random);
    }
  });
  return buffer;
}

void Totals::add(const std::string& name) {
  for (auto& [known, count] : counts) {
    if (known == name) {
      ++count;
      return;
    }
  }
  counts.emplace_back(name, 1);
}

// ---- arguments ----

Options parse(int argc, char** argv) {
  for (const int number : {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP})
    std::signal(number, on_signal);
  Options options;
  std::string level = "all";
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const int64_t value = std::atoll(argv[i + 1]);
    if (name == "--seed") options.seed = static_cast<uint64_t>(value);
    if (name == "--cases") options.cases = value;
    if (name == "--only") options.only = value;
    if (name == "--fill") options.fill = value != 0;
    if (name == "--bug") options.bug = static_cast<Bug>(value);
    if (name == "--level") level = argv[i + 1];
  }
  for (int i = 0; i < fastconv::kIsaCount; ++i) {
    const auto isa = static_cast<fastconv::Isa>(i);
    if (!fastconv::isa_supported(isa)) continue;
    if (level == "all" || level == fastconv::isa_name(isa)) options.levels.push_back(isa);
  }
  if (options.levels.empty()) fail("no level '%s' on this processor", level.c_str());
  std::printf("seed %llu\n", static_cast<unsigned long long>(options.seed));
  std::fflush(stdout);
  return options;
}

}  // namespace harness

// AddressSanitizer calls this before its report.
extern "C" void __asan_on_error() { harness::print_current(); }
