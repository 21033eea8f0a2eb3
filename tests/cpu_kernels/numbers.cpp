// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Numbers of the four types, read and written bit by bit, and the bound on a sum's error.
#include "harness.h"

namespace harness {
namespace {

float bits_to_float(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

struct Format {
  int mantissa_bits, bias, bits;
};
Format format_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat64:
      return {52, 1023, 64};
    case Dtype::kFloat16:
      return {10, 15, 16};
    case Dtype::kBFloat16:
      return {7, 127, 16};
    default:
      return {23, 127, 32};
  }
}

void write_bits(Dtype dtype, void* p, uint64_t bits) {
  std::memcpy(p, &bits, static_cast<size_t>(fastconv::element_size(dtype)));  // little endian
}

}  // namespace

double read_number(Dtype dtype, const void* p) {
  if (dtype == Dtype::kFloat64) {
    double d;
    std::memcpy(&d, p, sizeof d);
    return d;
  }
  if (dtype == Dtype::kFloat32) {
    float f;
    std::memcpy(&f, p, sizeof f);
    return f;
  }
  uint16_t h;
  std::memcpy(&h, p, sizeof h);
  if (dtype == Dtype::kBFloat16) return bits_to_float(uint32_t{h} << 16);
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
  return h >> 15 ? -magnitude : magnitude;
}

void write_random(Dtype dtype, void* p, Random& random) {
  const Format f = format_of(dtype);
  const uint64_t mantissa = random.bits() >> (64 - f.mantissa_bits);
  const uint64_t exponent = static_cast<uint64_t>(f.bias + random.in(-3, 1));
  const uint64_t sign = random.bits() >> 63;
  write_bits(dtype, p, sign << (f.bits - 1) | exponent << f.mantissa_bits | mantissa);
}

void write_nan(Dtype dtype, void* p) {
  const Format f = format_of(dtype);
  write_bits(dtype, p, (uint64_t{1} << (f.bits - 1)) - 1);  // all ones but the sign
}

void write_minus_infinity(Dtype dtype, void* p) {
  const Format f = format_of(dtype);
  const uint64_t exponent = (uint64_t{1} << (f.bits - f.mantissa_bits - 1)) - 1;
  write_bits(dtype, p, uint64_t{1} << (f.bits - 1) | exponent << f.mantissa_bits);
}

void check_sum(Dtype dtype, const void* got_at, double want, double magnitude, int64_t terms,
               const char* what) {
  const double got = read_number(dtype, got_at);
  const Format f = format_of(dtype);
  const double u_out = std::ldexp(1, -f.mantissa_bits - 1);
  const double u_acc = dtype == Dtype::kFloat64 ? std::ldexp(1, -52) : std::ldexp(1, -24);
  const double n = static_cast<double>(terms), growth = std::fmin(n, 6 * std::sqrt(n));
  const double step = std::ldexp(1, 1 - f.bias - f.mantissa_bits);
  const double bound = 1.1 * (growth * u_acc * magnitude + u_out * std::fabs(want)) + step;
  if (!(std::fabs(got - want) <= bound)) {
    fail("%s is %.17g instead of %.17g, bound %.3g", what, got, want, bound);
  }
}

}  // namespace harness
