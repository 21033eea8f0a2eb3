// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Memory that tells when it is left: the blocks' shared memory, and tensors for the tests.
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <new>

#include "internal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace fastconv::host_cuda {
namespace {

constexpr size_t kFront = 128, kBack = 512;
constexpr unsigned char kGuard = 0xFE;  // -1.7e38 in fp32 and bfloat16, -5e303 in fp64, NaN in fp16

bool holds(const unsigned char* begin, const unsigned char* end, unsigned char value) {
  return std::all_of(begin, end, [value](unsigned char c) { return c == value; });
}

struct Region {
  unsigned char* map;
  size_t map_bytes, bytes;
};
std::map<void*, Region> regions_;

constexpr unsigned char kSlack = 0xFD;  // NaN in fp16, -4e37 in fp32 and bfloat16

size_t page() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

Smem::Smem(size_t bytes, unsigned char fill) : bytes_(bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 128, kFront + bytes + kBack) != 0) throw std::bad_alloc();
  memory_ = static_cast<unsigned char*>(p);
  data_ = memory_ + kFront;
  std::memset(memory_, kGuard, kFront);
  std::memset(data_, fill, bytes);
  std::memset(data_ + bytes, kGuard, kBack);
  ON_ASAN(ASAN_POISON_MEMORY_REGION(memory_, kFront);)
  ON_ASAN(ASAN_POISON_MEMORY_REGION(data_ + bytes, kBack);)
}

Smem::~Smem() {
  ON_ASAN(ASAN_UNPOISON_MEMORY_REGION(memory_, kFront + bytes_ + kBack);)
  std::free(memory_);
}

bool Smem::intact() const {
  ON_ASAN(return true;)
  return holds(memory_, data_, kGuard) && holds(data_ + bytes_, data_ + bytes_ + kBack, kGuard);
}

}  // namespace fastconv::host_cuda

using fastconv::host_cuda::kSlack;
using fastconv::host_cuda::page;
using fastconv::host_cuda::regions_;

// `bytes` between two pages that cannot be touched: at the end of the accessible pages, rounded
// down to a multiple of `align`, or at their beginning.  The rest of these pages is red zone.
extern "C" void* host_cuda_alloc(size_t bytes, size_t align, bool at_end) {
  const size_t inner = (std::max<size_t>(bytes, 1) + page() - 1) / page() * page();
  void* map = mmap(nullptr, inner + 2 * page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  unsigned char* begin = static_cast<unsigned char*>(map) + page();
  mprotect(begin, inner, PROT_READ | PROT_WRITE);
  std::memset(begin, kSlack, inner);
  unsigned char* data = at_end ? begin + (inner - bytes) / align * align : begin;
  regions_[data] = {static_cast<unsigned char*>(map), inner + 2 * page(), bytes};
  return data;
}

// False if something was written next to the buffer.
extern "C" bool host_cuda_free(void* data) {
  const auto found = regions_.find(data);
  if (found == regions_.end()) return false;
  const auto [map, map_bytes, bytes] = found->second;
  auto* const begin = static_cast<unsigned char*>(data);
  const bool intact = fastconv::host_cuda::holds(map + page(), begin, kSlack) &&
                      fastconv::host_cuda::holds(begin + bytes, map + map_bytes - page(), kSlack);
  munmap(map, map_bytes);
  regions_.erase(found);
  return intact;
}
