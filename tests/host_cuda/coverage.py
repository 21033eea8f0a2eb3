# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What there is to run in csrc/, what has run in this process, and the difference."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import subprocess
import typing

import host_cuda_harness as hc
import mutants

ORDER_NAMES = {hc.FORWARD: "forward", hc.REVERSE: "reverse", hc.RANDOM: "random"}
TYPES = {"float": "f32", "double": "f64", "__half": "f16", "__nv_bfloat16": "bf16"}


@dataclasses.dataclass(frozen=True)
class Source:
    """What the sources of one room declare."""

    room: str
    launchers: list[str]  # of <room>_cuda.h
    kernels: list[str]
    synchronising: list[str]  # kernels of files with barriers
    tiles: list[str]  # the entries of kTiles, and of kLargeTiles, which follow them


@dataclasses.dataclass(frozen=True)
class Launch:
    launcher: str
    kernel: str
    arguments: tuple[str, ...]  # template arguments
    symbol: str
    tile: int
    threads: int
    order: int
    count: int


def _kernels(text: str) -> list[str]:
    """The names after __global__ void and, at will, __launch_bounds__(...)."""
    bounds = r"(?:__launch_bounds__\s*(?P<open>\())?"
    names = []
    for match in re.finditer(rf"\b__global__\s+void\s+{bounds}", text):
        end = match.end()
        depth = 1 if match["open"] else 0
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        names += re.findall(r"\w+", text[end : end + 200])[:1]
    return names


def read_sources(csrc: pathlib.Path) -> list[Source]:
    """Every room with CUDA code in it."""
    rooms = []
    for room in sorted({p.parent for p in csrc.glob("ops/*/*.cu*")}):
        device = {p: mutants.blank(p.read_text()) for p in sorted(room.glob("*.cu*"))}
        kernels, synchronising = [], []
        for text in device.values():
            found = _kernels(text)
            kernels += found
            if re.search(r"__sync\w+\(|__shfl|cp_async|mma_", text):
                synchronising += found
        headers = "".join(mutants.blank(p.read_text()) for p in sorted(room.glob("*_cuda.h")))
        tables = [room / name for name in ("tiles.h", "large_tiles.h")]
        text = "\n".join(p.read_text() for p in tables if p.exists())
        tiles = re.findall(r"\bk(?:Large)?Tiles\[\] = \{(.*?)\};", text, re.DOTALL)
        rooms.append(
            Source(
                room.name,
                re.findall(r"\bcudaError_t (\w+)\(", headers),
                kernels,
                synchronising,
                re.findall(r"\{([^{}]*)\}", "".join(tiles)),
            )
        )
    return rooms


def _split(name: str) -> tuple[str, tuple[str, ...]]:
    """A demangled kernel's last name and its template arguments."""
    head = re.sub(r"\(anonymous namespace\)::", "", name)
    depth, end = 0, len(head)
    for i, c in enumerate(head):  # up to the parameter list
        depth += {"<": 1, ">": -1}.get(c, 0)
        if c == "(" and depth == 0:
            end = i
            break
    head = head[:end]
    base, _, arguments = head.partition("<")
    listed = [a.strip().replace("(int)", "") for a in arguments.removesuffix(">").split(",")]
    return re.split(r"::|\s", base)[-1], tuple(listed) if arguments else ()


def compiled(library: typing.Any, kernels: list[str]) -> dict[str, str]:
    """The symbols of every instantiation of ``kernels`` in a library, and their readable names."""
    listing = subprocess.run(
        ["nm", "--defined-only", library._name], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for line in listing.splitlines():
        *_, kind, symbol = line.split()
        if kind in "TtWw" and any(kernel in symbol for kernel in kernels):
            name = library.host_cuda_demangle(symbol.encode()).decode()
            if _split(name)[0] in kernels and "::{lambda" not in name:
                found[symbol] = name
    return found


def launches(library: typing.Any) -> list[Launch]:
    """What a library has launched without an error."""
    out = []
    for line in library.host_cuda_launches().decode().splitlines():
        launcher, symbol, *numbers = line.split("\t")
        name = library.host_cuda_demangle(symbol.encode()).decode()
        out.append(Launch(launcher, *_split(name), symbol, *map(int, numbers)))
    return out


LARGE_KERNELS = {
    "large_strips": ("large_gather_kernel", "large_weight_kernel"),
    "large_bands": ("large_bands_kernel", "large_weight_bands_kernel"),
}


def _walk_kind(arguments: tuple[str, ...]) -> str:
    """The WalkKind that a walking kernel's template arguments belong to."""
    dtype, lanes, *_, outputs, runs = arguments
    if runs == "true":
        return f"kColumns{outputs}"
    if lanes == "1":
        return "kScalar"
    return "kChannels16" if lanes == "8" and dtype in ("__half", "__nv_bfloat16") else "kChannels"


def runs_tile(room: str, tile: str, launch: Launch) -> bool:
    """Whether a launch is of the kernel that an entry of kTiles stands for."""
    entry = [part.strip() for part in tile.split(",")]
    kernel, arguments = launch.kernel, launch.arguments
    if room == "depthwise_conv" and entry[0].startswith('"large_'):
        return kernel in LARGE_KERNELS[entry[0].strip('"')]
    if room == "depthwise_conv":
        _, pack, window, wide, *special = entry
        if len(special) == 2:  # a line, which walks nowhere
            if special[1] == "LineKind::kRows":
                return kernel in ("line_rows_kernel", "line_rows_gradient_kernel")
            names = ("line_down_kernel", "line_down_gradient_kernel")
            return kernel in names and (arguments[1] == "1") == ("Scalar" in special[1])
        if special:
            names = ("walk_kernel", "walk_gradient_kernel")
            return kernel in names and special[0].endswith("::" + _walk_kind(arguments))
        if kernel not in ("gather_kernel", "weight_gradient_kernel"):
            return False
        shape = [str(arguments[1] != "1").lower(), arguments[2], arguments[4]]
        return shape == [pack, window, wide]
    if room == "depth_max_pool":
        threads, vectorised = entry
        return launch.threads == int(threads) and (arguments[-1] != "0") == (vectorised == "true")
    if room == "rearrange":
        family, threads, _ = entry
        names = {"kRuns": "copy_runs", "kRegisters": "copy_registers", "kBox": "copy_boxes"}
        same = threads == "kThreads" or launch.threads == int(threads)
        return kernel == names[family.removeprefix("Family::")] and same
    raise ValueError(f"runs_tile() does not know the tiles of {room}")


def missing(source: Source, library: typing.Any | None) -> list[str]:
    """What of a room has not run: an empty list is what is wanted."""
    if library is None:
        return [f"{source.room}: no library runs it"]
    ran = launches(library)
    out = [f"launcher {n}" for n in source.launchers if n not in {r.launcher for r in ran}]
    names = compiled(library, source.kernels)
    for kernel in source.kernels:
        own = [s for s, name in names.items() if _split(name)[0] == kernel]
        if not own:
            out.append(f"kernel {kernel}: never instantiated")
        out += [f"instantiation {names[s]}" for s in own if s not in {r.symbol for r in ran}]
        orders = {r.order for r in ran if r.kernel == kernel}
        if kernel in source.synchronising:
            out += [f"{kernel} in {ORDER_NAMES[o]} order" for o in hc.ORDERS if o not in orders]
    for i, tile in enumerate(source.tiles):
        if not any(r.tile == i and runs_tile(source.room, tile, r) for r in ran):
            out.append(f"tile {i}: {tile}")
    return [f"{source.room}: {what}" for what in out]


def summary(source: Source, library: typing.Any) -> str:
    """One line: kernels x tiles x dtypes x schedules of a room."""
    ran = launches(library)
    symbols = {r.symbol for r in ran}
    names = compiled(library, source.kernels)
    tiles = {i for i, t in enumerate(source.tiles) for r in ran
             if r.tile == i and runs_tile(source.room, t, r)}  # fmt: skip
    types = {TYPES[a] for r in ran for a in r.arguments[:1] if a in TYPES}
    orders = [ORDER_NAMES[o] for o in sorted({r.order for r in ran})]
    combinations = len({(r.symbol, r.threads, r.order) for r in ran})
    total = sum(r.count for r in ran)
    kernels = {r.kernel for r in ran}
    return (
        f"{source.room}: {len(kernels)}/{len(source.kernels)} kernels in "
        f"{len(symbols & set(names))}/{len(names)} instantiations, "
        f"{len(tiles)}/{len(source.tiles)} tiles, {' '.join(sorted(types)) or 'bytes'}, "
        f"{' '.join(orders)}; {combinations} combinations, {total} launches"
    )


def library_of(room: str) -> typing.Any | None:
    """The library of a room that this process has loaded."""
    for path, library in hc.LOADED.items():
        if pathlib.Path(path).name.rpartition("-")[0] == room:
            return library
    return None
