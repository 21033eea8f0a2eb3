// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Turns memory faults and traps of a kernel's threads into errors of the launch.
#include <csignal>
#include <cstdlib>
#include <vector>

#include "internal.h"

namespace fastconv::host_cuda {

bool in_thread = false;
sigjmp_buf* fault_jump = nullptr;

#if !defined(__SANITIZE_ADDRESS__)

namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};

// Set by the handler, where nothing may allocate.
volatile sig_atomic_t fault_signal_ = 0;
void* volatile fault_address_ = nullptr;

void on_fault(int signal, siginfo_t* info, void*) {
  if (!in_thread) {  // the tests' own fault: let it end the process at the same instruction
    std::signal(signal, SIG_DFL);
    return;
  }
  fault_signal_ = signal;
  fault_address_ = info->si_addr;
  siglongjmp(*fault_jump, 1);
}

}  // namespace

struct Faults::Saved {
  struct sigaction actions[std::size(kSignals)];
  stack_t stack;
};

Faults::Faults() : saved_(new Saved) {
  // A fault may be an overflow of the thread's own stack.
  static std::vector<char> stack(64 << 10);
  stack_t own{};
  own.ss_sp = stack.data();
  own.ss_size = stack.size();
  sigaltstack(&own, &saved_->stack);
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], &action, &saved_->actions[i]);
  }
}

Faults::~Faults() {
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], &saved_->actions[i], nullptr);
  }
  sigaltstack(&saved_->stack, nullptr);
  delete saved_;
}

std::string fault_text() {
  char address[32];
  std::snprintf(address, sizeof(address), "%p", fault_address_);
  if (fault_signal_ == SIGSEGV || fault_signal_ == SIGBUS) {
    return std::string("access out of bounds, at ") + address;
  }
  if (fault_signal_ == SIGFPE)
    return std::string("division by zero, in ") + name_of(fault_address_);
  return std::string("index outside a local array, in ") + name_of(fault_address_);
}

#else

struct Faults::Saved {};
Faults::Faults() : saved_(nullptr) {}
Faults::~Faults() = default;
std::string fault_text() { return ""; }

#endif

}  // namespace fastconv::host_cuda
