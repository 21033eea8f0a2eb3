// SPDX-FileCopyrightText: fastconv contributors
// SPDX-License-Identifier: BSD-3-Clause

// Kernel::kPermute: as many steps at a time as fill vectors of the output well.  Each vector picks
// its elements from a few windows of the input, always the same ones: where they are is found once
// per task.
#pragma once

#include "ops/rearrange/vec-inl.h"

namespace fastconv::rearrange::FASTCONV_ISA {

#if FASTCONV_LEVEL == 0

// Without byte shuffles: element by element.
template <int E>
struct Permute {
  int64_t from[kMaxTable], to[kMaxTable];
  int64_t elements;

  explicit Permute(const Plan& p) {
    const int64_t per_row = p.step_in / E, per_column = p.step_out / E;
    elements = per_column * p.columns.size;
    for (int64_t k = 0; k < elements; ++k) {
      from[k] = p.rows.table[p.from[k] / per_row] + p.from[k] % per_row * E;
      to[k] = p.columns.table[k / per_column] + k % per_column * E;
    }
  }
  FASTCONV_REARRANGE_INLINE void run(const Plan& p, const char* in, char* out, int64_t begin,
                                     int64_t end, int64_t) const {
    for (int64_t t = begin; t < end; ++t) {
      const char* near = in + t * p.step_in;
      char* far = out + t * p.step_out;
      for (int64_t k = 0; k < elements; ++k) move_element<E>(far + to[k], near + from[k]);
    }
  }
};

#else

constexpr int kGive = FASTCONV_LEVEL >= 2 ? 64 : 16;  // bytes of a vector of the output

// Elements move in units of kUnit bytes.
template <int kUnit>
struct Permute {
  // How indices count: vpermt2 knows words and double words, pshufb bytes.
  static constexpr int kWord = kGive == 16 ? 1 : kUnit == 1 ? 2 : kUnit;
  // Bytes of words: one vector has the words of the even bytes, another those of the odd ones.
  static constexpr int kHalves = kWord > kUnit ? 2 : 1;
  static constexpr int kMost = kMaxTable;  // one step never needs more

  struct Take {
    alignas(kGive) uint8_t pick[kHalves][kGive];
    int64_t in, bytes;
  };
  struct Give {
    alignas(kGive) uint16_t shift[kHalves == 2 ? 2 : 1][32];
    int64_t out, bytes;
    int takes;
  };
  // Picks nothing: of the vector as it was, the same words; of the one that is loaded, none.
  struct Nothing {
    alignas(kGive) uint8_t pick[kGive];

    constexpr Nothing() : pick() {
      for (int i = 0; i < kGive; ++i) {
        pick[i] = kGive == 16 ? 0x80 : i % kWord == 0 ? static_cast<uint8_t>(i / kWord) : 0;
      }
    }
  };
  static constexpr Nothing kNothing{};

  Take take[kMost];
  Give give[kMost];
  int from_row[kMaxTable];  // of every element of a step
  int64_t from_position[kMaxTable];
  int takes, gives;
  int64_t steps;

  explicit Permute(const Plan& p) {
    const int64_t per_row = p.step_in / p.element;
    for (int64_t k = 0; k < per_row * p.rows.size; ++k) {
      from_row[k] = static_cast<int>(p.from[k] / per_row);
      from_position[k] = p.from[k] % per_row * p.element;
    }
    // The steps that fill vectors best, or one vector: whichever needs fewer takes.
    const int64_t most = min_of(p.length / p.pieces, kGive);
    const int64_t one = max_of(1, min_of(most, kGive / p.step_out));
    int64_t filling = one;
    for (int64_t s = one + 1; s <= most; ++s) {
      const int64_t vectors = ceil_div(s * p.step_out, kGive);
      if (vectors * p.columns.size > kMost / 4) break;
      // s / vectors > 1.02 * filling / vectors(filling)
      if (50 * s * ceil_div(filling * p.step_out, kGive) > 51 * filling * vectors) filling = s;
    }
    steps = filling;
    if (fill(p)) {
      if (filling == one) return;
      const int64_t cost = takes;
      steps = one;
      if (fill(p) && takes * filling <= cost * one) return;
      steps = filling;
    }
    while (!fill(p)) steps = max_of(1, steps / 2);  // one step always fits
  }

  // How many takes each vector has, if all have as many: 0 where they do not.
  int takes_each() const {
    int each = give[0].takes;
    for (int i = 1; i < gives; ++i) {
      if (give[i].takes != each) each = 0;
    }
    return each;
  }

  // False where the tables are too small.
  bool fill(const Plan& p) {
    takes = gives = 0;
    for (int64_t column = 0; column < p.columns.size; ++column) {
      const int64_t bytes = steps * p.step_out;
      for (int64_t at = 0; at < bytes; at += kGive) {
        if (gives == kMost) return false;
        give[gives].out = p.columns.table[column] + at;
        give[gives].bytes = min_of(kGive, bytes - at);
        const int first = takes;
        if (!fill_give(p, column, at, give[gives])) return false;
        give[gives++].takes = takes - first;
      }
    }
    return true;
  }

  bool fill_give(const Plan& p, int64_t column, int64_t at, Give& g) {
    constexpr int64_t kUnits = kGive / kUnit;
    const int64_t per_column = p.step_out / p.element, units = g.bytes / kUnit;
    // Where each unit comes from; a row of -1 has been found.
    int row[kUnits];
    int64_t position[kUnits];
    int64_t base = at / p.step_out * p.step_in;
    int64_t k = at % p.step_out / p.element, within = at % p.element;
    for (int64_t u = 0; u < units; ++u) {
      row[u] = from_row[column * per_column + k];
      position[u] = base + from_position[column * per_column + k] + within;
      within += kUnit;
      if (within < p.element) continue;
      within = 0;
      if (++k < per_column) continue;
      k = 0;
      base += p.step_in;
    }
    // Windows of the rows, from their first byte that is needed on, until all are found.
    for (int64_t left = 0;;) {
      while (left < units && row[left] < 0) ++left;
      if (left >= units) return true;
      if (takes == kMost) return false;
      const int r = row[left];
      int64_t window = position[left];
      for (int64_t u = left + 1; u < units; ++u) {
        if (row[u] == r) window = min_of(window, position[u]);
      }
      Take& t = take[takes++];
      t.in = p.rows.table[r] + window;
      t.bytes = 0;
      for (int h = 0; h < kHalves; ++h) std::memcpy(t.pick[h], kNothing.pick, kGive);
      for (int64_t u = left; u < units; ++u) {
        const int64_t from = position[u] - window;
        if (row[u] != r || from + kUnit > kGive) continue;
        row[u] = -1;
        t.bytes = max_of(t.bytes, from + kUnit);
        if constexpr (kGive == 16) {
          for (int b = 0; b < kUnit; ++b) put(t.pick[0], u * kUnit + b, from + b);
        } else {
          const int64_t half = u % kHalves;
          put(t.pick[half], u * kUnit / kWord, kGive / kWord + from / kWord);
          if constexpr (kHalves == 2) g.shift[half][u / 2] = from % 2 != half ? 8 : 0;
        }
      }
    }
  }

  static void put(uint8_t* pick, int64_t i, int64_t index) {
    if constexpr (kWord == 4) reinterpret_cast<uint32_t*>(pick)[i] = static_cast<uint32_t>(index);
    if constexpr (kWord == 2) reinterpret_cast<uint16_t*>(pick)[i] = static_cast<uint16_t>(index);
    if constexpr (kWord == 1) pick[i] = static_cast<uint8_t>(index);
  }

  // The steps at `in` and `out`.  kInside: what follows may be read and, until it is written
  // itself, written.
  // kEach: the takes of every vector, 0 for any number.
  template <int kEach, bool kInside>
  FASTCONV_REARRANGE_INLINE void move(const char* in, char* out) const {
    const Take* k = take;
    for (int i = 0; i < gives; ++i) {
      const Give& g = give[i];
      const Take* const end = k + (kEach > 0 ? kEach : g.takes);
#if FASTCONV_LEVEL >= 2
      Vec64 v = _mm512_setzero_si512(), odd = v;
#pragma GCC unroll 4
      for (; k < end; ++k) {
        const Vec64 from =
            kInside ? load64(in + k->in)
                    : _mm512_maskz_loadu_epi8(~uint64_t{0} >> (64 - k->bytes), in + k->in);
        v = pick_two<kWord>(v, load64(reinterpret_cast<const char*>(k->pick[0])), from);
        if constexpr (kHalves == 2) {
          odd = pick_two<kWord>(odd, load64(reinterpret_cast<const char*>(k->pick[1])), from);
        }
      }
      if constexpr (kHalves == 2) {
        v = _mm512_srlv_epi16(v, load64(reinterpret_cast<const char*>(g.shift[0])));
        odd = _mm512_sllv_epi16(odd, load64(reinterpret_cast<const char*>(g.shift[1])));
        v = _mm512_ternarylogic_epi32(_mm512_set1_epi16(0xff), v, odd, 0xca);
      }
      if constexpr (kInside) {
        store(out + g.out, v);
      } else {
        _mm512_mask_storeu_epi8(out + g.out, ~uint64_t{0} >> (64 - g.bytes), v);
      }
#else
      Vec16 v = _mm_setzero_si128();
#pragma GCC unroll 4
      for (; k < end; ++k) {
        char few[16];
        const char* from = in + k->in;
        if constexpr (!kInside) {
          move_few(few, from, k->bytes);
          from = few;
        }
        v = _mm_or_si128(
            v, pick_bytes(load16(from), load16(reinterpret_cast<const char*>(k->pick[0]))));
      }
      if constexpr (kInside) {
        store16(out + g.out, v);
      } else {
        char few[16];
        store16(few, v);
        move_few(out + g.out, few, g.bytes);
      }
#endif
    }
  }
};

template <int kUnit, int kEach>
struct PermuteEach {
  const Permute<kUnit>& permute;

  FASTCONV_REARRANGE_INLINE void run(const Plan& p, const char* in, char* out, int64_t begin,
                                     int64_t end, int64_t) const {
    const int64_t steps = permute.steps;
    // Steps that have kGive bytes after them in every row.
    const int64_t inside = end - ceil_div(kGive, min_of(p.step_in, p.step_out));
    int64_t t = begin;
    for (; t + steps <= inside; t += steps) {
      permute.template move<kEach, true>(in + t * p.step_in, out + t * p.step_out);
    }
    for (; t < end; t += steps) {
      t = min_of(t, end - steps);
      permute.template move<0, false>(in + t * p.step_in, out + t * p.step_out);
    }
  }
};

#endif

}  // namespace fastconv::rearrange::FASTCONV_ISA
