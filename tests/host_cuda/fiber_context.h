// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Switching between the executor's fibers.  Included by host_cuda.cpp alone.
#pragma once

#include <algorithm>
#include <cstddef>

#if defined(__x86_64__)

// Saves the callee-saved registers and the stack pointer, and continues on another stack.  (The
// portable way, swapcontext, makes two system calls per switch.)
extern "C" void fastconv_switch_stack(void** save, void* resume);
asm(R"(
.text
.hidden fastconv_switch_stack
.globl fastconv_switch_stack
.type fastconv_switch_stack, @function
fastconv_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastconv_switch_stack, . - fastconv_switch_stack
)");

#else

#include <ucontext.h>

#endif

namespace fastconv::host_cuda {

constexpr size_t kStackBytes = 128 << 10;

class Context {
 public:
#if defined(__x86_64__)
  void start(char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + kStackBytes) - 8;  // 16-byte aligned
    std::fill(top, top + 8, nullptr);
    top[6] = reinterpret_cast<void*>(entry);  // above the six registers
    sp_ = top;
  }
  static void transfer(Context& from, Context& to) { fastconv_switch_stack(&from.sp_, to.sp_); }

 private:
  void* sp_ = nullptr;
#else
  void start(char* stack, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  static void transfer(Context& from, Context& to) { swapcontext(&from.context_, &to.context_); }

 private:
  ucontext_t context_;
#endif
};

}  // namespace fastconv::host_cuda
