// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// What the executor's own files share.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <string>

#include "host_cuda.h"

#if defined(__SANITIZE_ADDRESS__)
#define ON_ASAN(...) __VA_ARGS__
#else
#define ON_ASAN(...)
#endif

namespace fastconv::host_cuda {

// ---- memory.cpp --------------------------------------------------------------------------------

// Shared memory of a block: bytes of `fill` (0xFF is NaN in every floating format), between two
// guards that hold large numbers, so that a read shows in the results and a write is found.
// AddressSanitizer poisons the guards instead.
class Smem {
 public:
  Smem(size_t bytes, unsigned char fill);
  ~Smem();
  Smem(const Smem&) = delete;
  Smem& operator=(const Smem&) = delete;
  void* data() const { return data_; }
  bool intact() const;

 private:
  unsigned char* memory_;
  unsigned char* data_;
  size_t bytes_;
};

// ---- faults.cpp --------------------------------------------------------------------------------

// While it lives, a memory fault or a trap of the compiler's checks in a thread of the kernel
// (in_thread) stores what happened in fault_text() and jumps to fault_jump; elsewhere they kill
// the process as always.  AddressSanitizer has its own reports: there this does nothing.
class Faults {
 public:
  Faults();
  ~Faults();
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;

 private:
  struct Saved;
  Saved* saved_;
};
extern bool in_thread;
extern sigjmp_buf* fault_jump;
std::string fault_text();

// ---- record.cpp --------------------------------------------------------------------------------

// "ns::kernel<float, 4>" of a kernel's address, or "" if the symbol is not exported.
std::string name_of(const void* function);
void record_launch(const void* kernel, int threads, Order order);

}  // namespace fastconv::host_cuda
