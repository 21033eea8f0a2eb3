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

// What was launched without an error: the launcher, the kernel, the tile that the test asked for
// (-1: none), the threads of a block and the schedule; and how often.
std::map<std::tuple<std::string, const void*, int, int, Order>, int64_t> launches_;
std::string launcher_;
int tile_ = -1;

std::string symbol_of(const void* function) {
  Dl_info info;
  return dladdr(function, &info) == 0 || info.dli_sname == nullptr ? "" : info.dli_sname;
}

std::string demangled(const std::string& symbol) {
  int status = 0;
  char* name = abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status);
  std::string text = status == 0 ? name : symbol;
  std::free(name);
  return text;
}

}  // namespace

void calling(const char* launcher, int tile) {
  launcher_ = launcher;
  tile_ = tile;
}

std::string name_of(const void* function) { return demangled(symbol_of(function)); }

void record_launch(const void* kernel, int threads, Order order) {
  ++launches_[{launcher_, kernel, tile_, threads, order}];
}

}  // namespace fastconv::host_cuda

// The readable name of a symbol.
extern "C" const char* host_cuda_demangle(const char* symbol) {
  static std::string text;
  text = fastconv::host_cuda::demangled(symbol);
  return text.c_str();
}

// Lines of launcher, kernel's symbol, tile, threads, schedule, count, with tabs between them.
extern "C" const char* host_cuda_launches() {
  using namespace fastconv::host_cuda;
  static std::string text;
  text.clear();
  for (const auto& [key, count] : launches_) {
    const auto& [launcher, kernel, tile, threads, order] = key;
    text += launcher + "\t" + symbol_of(kernel);
    for (const int64_t n : {int64_t{tile}, int64_t{threads}, static_cast<int64_t>(order), count}) {
      text += "\t" + std::to_string(n);
    }
    text += "\n";
  }
  return text.c_str();
}
