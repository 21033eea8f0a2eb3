# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The text of a CUDA source, without what is no code, and its tokens."""

from __future__ import annotations

import dataclasses
import re

_TOKEN = re.compile(
    r"::|&&|\|\||<<=|>>=|<<|(?<=\s)>>(?=\s)|<=|>=|==|!=|\+=|-=|\*=|/=|%=|\|=|&=|\^=|->|\+\+|--"
    r"|0[xX][0-9a-fA-F]+\w*|[A-Za-z_]\w*|\d[\w.]*|\S"
)


@dataclasses.dataclass(frozen=True)
class Token:
    text: str
    start: int
    end: int


def blank(source: str) -> str:
    """The source with comments, strings and preprocessor lines blanked, at the same offsets.

    So is what only nvcc compiles.
    """

    def spaces(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    source = re.sub(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", spaces, source, flags=re.DOTALL)
    source = re.sub(r"^#if defined\(__CUDACC__\)\n.*?^#else\n", spaces, source, flags=re.M | re.S)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", spaces, source, flags=re.MULTILINE)


def tokens(code: str) -> list[Token]:
    """The tokens of a blanked source."""
    return [Token(m[0], *m.span()) for m in _TOKEN.finditer(code)]
