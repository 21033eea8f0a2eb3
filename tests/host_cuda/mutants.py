# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Finds what a CUDA source can be mutated in, and writes one source that holds every mutant.

A mutant changes one barrier, one predicate, one clamp or one argument of a warp operation.  All are
compiled into one, to save hours: ``a < b`` becomes ``mutated(7, (a < b), (true), (a <= b))``;
a number chooses at run time which is in force.  The call also notes which mutants would make a
difference.  Operators are expected to have spaces around them, template brackets to have none.
"""

from __future__ import annotations

import dataclasses
import re

from cuda_source import Token, blank, tokens

_COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": None, "!=": None}
_ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "%=", "|=", "&=", "^=", "<<=", ">>="}
_OPEN, _CLOSE = "([{", ")]}"
_TYPES = {"void", "int", "int64_t", "unsigned", "bool", "auto", "float", "double", "A"}
_ENDS = {",", ";", "?", ":", "||", "return", *_ASSIGNMENTS}
# What the compiler knows: such a comparison chooses an instantiation, at no time a bound.
_CONSTANT = re.compile(r"k[A-Z]\w*|[A-Z]|[A-Z]\w*|sizeof|int|value|decltype|at_border|std|numbers")


@dataclasses.dataclass
class Site:
    """A piece of source, and what stands in its place in each of its mutants."""

    start: int
    end: int
    variants: dict[str, str]
    is_value: bool = True  # not a statement, such as a barrier
    first: int = 0  # its first variant's number


@dataclasses.dataclass(frozen=True)
class Mutant:
    number: int
    file: str
    line: int
    text: str  # of the line
    change: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.change}    in: {self.text}"


class _Source:
    def __init__(self, source: str) -> None:
        self.source = source
        self.code = blank(source)
        self.tokens = tokens(self.code)
        self.sites: dict[tuple[int, int], Site] = {}
        self.constant = self._constant_regions()

    def _spaced(self, token: Token) -> bool:
        around = self.code[token.start - 1] + self.code[token.end : token.end + 1]
        return around.isspace() and len(around) == 2

    def _bracket(self, i: int) -> int:
        """1 for an opening bracket, -1 for a closing one, template brackets included."""
        token = self.tokens[i]
        if token.text in _OPEN + _CLOSE:
            return 1 if token.text in _OPEN else -1
        if token.text == "<" and not self._spaced(token):
            return 1
        if token.text == ">" and not self.code[token.start - 1].isspace():
            return -1
        return 0

    def matching(self, i: int) -> int:
        """The bracket that closes the one at token ``i``."""
        depth = 0
        for j in range(i, len(self.tokens)):
            depth += self._bracket(j)
            if depth == 0:
                return j
        raise ValueError("unbalanced brackets")

    def _extent(self, i: int, step: int, ends: set[str]) -> int:
        """The last token of an operand, from the operator at ``i`` in direction ``step``."""
        depth, j = 0, i + step
        while 0 <= j < len(self.tokens):
            bracket = self._bracket(j)
            depth += step * bracket
            if depth < 0 or (depth == bracket == 0 and self.tokens[j].text in ends):
                break
            j += step
        return j - step

    def _constant_regions(self) -> list[tuple[int, int]]:
        """Where only the compiler computes: static_assert, if constexpr, template heads."""
        regions = []
        for i, token in enumerate(self.tokens[:-2]):
            if token.text in ("static_assert", "template", "__launch_bounds__"):
                opening = i + 1
            elif token.text == "if" and self.tokens[i + 1].text == "constexpr":
                opening = i + 2
            elif token.text == "constexpr" and self._is_constant(i):
                ends = [j for j in range(i, len(self.tokens)) if self.tokens[j].text == ";"]
                regions.append((token.start, self.tokens[ends[0]].end))
                continue
            else:
                continue
            if self._bracket(opening) == 1:
                regions.append((token.start, self.tokens[self.matching(opening)].end))
        return regions

    def _is_constant(self, i: int) -> bool:
        """Whether ``constexpr`` at ``i`` declares a variable, not a function."""
        for token in self.tokens[i:]:
            if token.text == "=":
                return True
            if token.text in "({;":
                return False
        return False

    def add(self, start: int, end: int, variants: dict[str, str], is_value: bool = True) -> None:
        """Notes a site: tokens ``start`` to ``end``."""
        first, last = self.tokens[start].start, self.tokens[end].end
        if any(a <= first < b for a, b in self.constant):
            return
        words = [t.text for t in self.tokens[start : end + 1] if re.match(r"[A-Za-z_]", t.text)]
        if all(_CONSTANT.fullmatch(w) for w in words) and "true" in variants | {"false": ""}:
            return
        site = self.sites.setdefault((first, last), Site(first, last, {}, is_value))
        site.variants.update(variants)

    def text(self, start: int, end: int) -> str:
        """The source from token ``start`` to token ``end``, on one line."""
        return " ".join(self.source[self.tokens[start].start : self.tokens[end].end].split())

    def comparisons(self) -> None:
        """Every relation: true, false, and the bound moved by one."""
        for i, token in enumerate(self.tokens):
            if token.text not in _COMPARISONS or not self._spaced(token):
                continue
            ends = _ENDS | {"&&", "&", "|", "^", *_COMPARISONS}
            a, b = self._extent(i, -1, ends), self._extent(i, 1, ends)
            while self.tokens[a].text == "!":
                a += 1
            variants = {"true": "true", "false": "false"}
            other = _COMPARISONS[token.text]
            left, right = self.text(a, i - 1), self.text(i + 1, b)
            if other is not None:
                variants[f"{left} {other} {right}"] = f"{left} {other} {right}"
            self.add(a, b, variants)

    def operands(self) -> None:
        """Every operand of && and ||: left out, or made to decide."""
        for i, token in enumerate(self.tokens):
            if token.text not in ("&&", "||") or not self._spaced(token):
                continue
            ends = _ENDS | ({"&&"} if token.text == "&&" else set())
            for a, b in ((self._extent(i, -1, ends), i - 1), (i + 1, self._extent(i, 1, ends))):
                self.add(a, b, {"true": "true", "false": "false"})

    def conditions(self) -> None:
        """Every condition of if, while, for and ?:."""
        for i, token in enumerate(self.tokens):
            if token.text == "?":
                a = self._extent(i, -1, _ENDS - {"||"})
                self.add(a, i - 1, {"true": "true", "false": "false"})
            elif token.text in ("if", "while") and self.tokens[i + 1].text == "(":
                end = self.matching(i + 1)
                both = {"true": "true", "false": "false"}
                self.add(i + 2, end - 1, both)
                if token.text == "while":
                    self._drop_endless(i + 2, end - 1)
            elif token.text == "for" and self.tokens[i + 1].text == "(":
                self._loop(i + 1)

    def _drop_endless(self, start: int, end: int) -> None:
        site = self.sites.get((self.tokens[start].start, self.tokens[end].end))
        if site is not None:
            site.variants.pop("true", None)

    def _loop(self, opening: int) -> None:
        """A loop's condition: never, one round more, one round fewer; endless proves nothing."""
        end = self.matching(opening)
        depth, semicolons = 0, []
        for j in range(opening, end):
            depth += self._bracket(j)
            if depth == 1 and self.tokens[j].text == ";":
                semicolons.append(j)
        if len(semicolons) != 2 or semicolons[1] == semicolons[0] + 1:
            return
        a, b = semicolons[0] + 1, semicolons[1] - 1
        self._drop_endless(a, b)
        relation = [
            j for j in range(a, b) if self.tokens[j].text == "<" and self._spaced(self.tokens[j])
        ]
        if len(relation) == 1 and "&&" not in self.text(a, b):
            fewer = f"{self.text(a, relation[0] - 1)} + 1 < {self.text(relation[0] + 1, b)}"
            self.add(a, b, {fewer: fewer})

    def calls(self) -> None:
        """Barriers and waits go; masks, lanes and clamps change."""
        for i, token in enumerate(self.tokens[:-1]):
            name, after = token.text, i + 1
            if name == "cp_async_wait" and self.tokens[after].text == "<":
                after = self.matching(after) + 1
            if self.tokens[after].text != "(" or re.match(r"[\w>&*]", self._before(i)):
                continue
            end = self.matching(after)
            whole = self._qualified(i)
            if name in ("__syncthreads", "__syncwarp", "cp_async_wait", "cp_async_commit"):
                variants = {"removed": "static_cast<void>(0)"}
                if name == "cp_async_wait":
                    left = self.text(i + 2, after - 2)
                    variants[f"cp_async_wait<{left} + 1>()"] = (
                        self.text(whole, i) + f"<({left}) + 1>()"
                    )
                self.add(whole, end, variants, is_value=False)
            elif name in ("min", "max", "min_of", "max_of", "at_least", "at_most"):
                a, b = self._arguments(after, end)[:2]
                self.add(whole, end, {self.text(*a): self.text(*a), self.text(*b): self.text(*b)})
            elif name.endswith("_sync") and name.startswith("__"):
                arguments = self._arguments(after, end)
                self._change(arguments[0], "({} >> 1)")
                if name.startswith("__shfl") and len(arguments) > 2:
                    self._change(arguments[2], "({} ^ 1)")
                    self._change(arguments[2], "({} + 1)")

    def _before(self, i: int) -> str:
        """The token before a name, if it makes the name a declaration ('' else)."""
        text = self.tokens[i - 1].text if i else ""
        return text if text in _TYPES else ""

    def _qualified(self, i: int) -> int:
        """The first token of the qualified name that ends at ``i``."""
        while i >= 2 and self.tokens[i - 1].text == "::":
            i -= 2
        return i

    def _arguments(self, opening: int, end: int) -> list[tuple[int, int]]:
        depth, starts = 0, [opening + 1]
        for j in range(opening, end):
            depth += self._bracket(j)
            if depth == 1 and self.tokens[j].text == ",":
                starts.append(j + 1)
        return [(a, b - 2) for a, b in zip(starts, [*starts[1:], end + 1], strict=True)]

    def _change(self, argument: tuple[int, int], form: str) -> None:
        changed = form.format(self.text(*argument))
        self.add(*argument, {changed: changed})


def find(source: str) -> list[Site]:
    """Every site of a source, outer ones before the ones inside them."""
    parsed = _Source(source)
    parsed.comparisons()
    parsed.operands()
    parsed.conditions()
    parsed.calls()
    return sorted(parsed.sites.values(), key=lambda s: (s.start, -s.end))


def write(source: str, sites: list[Site]) -> str:
    """The source with every mutant in it, line by line as before."""

    def piece(start: int, end: int, inner: list[Site]) -> str:
        out, at = "", start
        while inner:
            site = inner[0]
            nested = [s for s in inner[1:] if s.end <= site.end]
            inner = inner[1 + len(nested) :]
            out += source[at : site.start]
            original = piece(site.start, site.end, nested)
            if site.is_value:
                others = "".join(f", ({new})" for new in site.variants.values())
                out += f"(::mutated({site.first}, ({original}){others}))"
            else:
                chosen = "".join(
                    f"::mutant({site.first + i}) ? ({new}) : "
                    for i, new in enumerate(site.variants.values())
                )
                out += f"({chosen}({original}))"
            at = site.end
        return out + source[at:end]

    return piece(0, len(source), sites)


def mutate(file: str, source: str, first: int) -> tuple[str, list[Mutant]]:
    """The source with its mutants, numbered from ``first``, and their list."""
    sites = find(source)
    mutants = []
    lines = source.split("\n")
    for site in sites:
        site.first = first
        line = source.count("\n", 0, site.start)
        original = " ".join(source[site.start : site.end].split())
        for number, name in enumerate(site.variants, first):
            change = f"`{original}` -> `{name}`"
            mutants.append(Mutant(number, file, line + 1, lines[line].strip(), change))
        first += len(site.variants)
    return write(source, sites), mutants
