# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Known failures, which the fuzzer passes over: ledger.toml, whose head says what an entry has."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re

import calls

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib  # type: ignore[no-redef]

FILE = pathlib.Path(__file__).with_name("ledger.toml")


@dataclasses.dataclass(frozen=True)
class Waiver:
    """One known failure."""

    function: str
    where: str
    message: str
    reason: str
    call: str

    def covers(self, call: calls.Call, error: Exception) -> bool:
        fields = {f.name: getattr(call, f.name) for f in dataclasses.fields(call)}
        return (
            call.function == self.function
            and re.search(self.message, f"{type(error).__name__}: {error}") is not None
            and bool(eval(self.where, {}, fields))
        )


def load(path: pathlib.Path = FILE) -> list[Waiver]:
    return [Waiver(**entry) for entry in tomllib.loads(path.read_text()).get("waiver", [])]


@functools.cache
def waivers() -> tuple[Waiver, ...]:
    return tuple(load())


def waiver(call: calls.Call, error: Exception) -> Waiver | None:
    """The waiver of a failure, if there is one."""
    return next((w for w in waivers() if w.covers(call, error)), None)
