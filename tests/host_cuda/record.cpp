// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Which kernels ran, for test_coverage.py; and the switch between mutants, for mutate.py.
#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <tuple>

#include "internal.h"

namespace fastconv::host_cuda {
namespace {

// What was launched without an error: the kernel, the tile that the test asked for (-1: none), the
// threads of a block and the schedule; and how often.
std::map<std::tuple<const void*, int, int, Order>, int64_t> launches_;
int tile_ = -1;

}  // namespace

void set_tile(int tile) { tile_ = tile; }

std::string name_of(const void* function) {
  Dl_info info;
  if (dladdr(function, &info) == 0 || info.dli_sname == nullptr) return "";
  int status = 0;
  char* name = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  std::string text = status == 0 ? name : info.dli_sname;
  std::free(name);
  return text;
}

void record_launch(const void* kernel, int threads, Order order) {
  ++launches_[{kernel, tile_, threads, order}];
}

}  // namespace fastconv::host_cuda

// Lines of "kernel, tab, tile, tab, threads, tab, schedule, tab, count".
extern "C" const char* host_cuda_launches() {
  using namespace fastconv::host_cuda;
  static std::string text;
  text.clear();
  for (const auto& [key, count] : launches_) {
    const auto& [kernel, tile, threads, order] = key;
    text += name_of(kernel) + "\t" + std::to_string(tile) + "\t" + std::to_string(threads) + "\t" +
            std::to_string(static_cast<int>(order)) + "\t" + std::to_string(count) + "\n";
  }
  return text.c_str();
}
