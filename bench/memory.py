# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""How much memory a call takes beyond what it returns.

python bench/memory.py --suite models --op depthwise_conv2d      one line for each case

`tensors` is what torch's allocator hands out during the call, at its peak, without the results:
workspaces and intermediate tensors.  `scratch` is what a thread keeps for the next call: our
kernels' buffers are the only ones of that kind, and hold no data between calls.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


class Extra(NamedTuple):
    """Bytes beyond the results."""

    tensors: int
    scratch: int


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def allocated() -> int:
    """Bytes that malloc has handed out and not got back, in all arenas and mappings (glibc)."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo2
    info = libc.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep what is freed for the next call; whether it did.

    By default it gives tensors back to the kernel, or not, depending on the order of sizes, and
    takes them again page by page: as much time as a network's convolutions, at random.
    """
    trim, top_pad, mmap_max = -1, -2, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another libc
        return False
    settings = {mmap_max: 0, trim: 2**31 - 1, top_pad: 64 << 20}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])


def bytes_of(result: Any) -> int:
    """Of the tensors in a result."""
    if isinstance(result, Tensor):
        return result.nbytes
    return sum(map(bytes_of, result)) if isinstance(result, (tuple, list)) else 0


def peak(call: Callable[[], Any], device: str = "cpu") -> int:
    """Most bytes of tensors that exist at once during a call, beyond those from before it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        call()
    assert prof.profiler is not None
    # prof.events() would build a tree of every operator first.
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def extra(call: Callable[[], Any]) -> Extra:
    """What a call on the CPU takes beyond its results, in a thread that has no scratch yet."""
    found: list[Extra] = []

    def measured() -> None:
        torch.set_num_threads(1)
        before = allocated()
        result = call()
        kept = allocated() - before - bytes_of(result)
        size = bytes_of(result)
        del result
        results: list[Any] = []
        most = peak(lambda: results.append(call()))
        found.append(Extra(max(0, most - size), max(0, kept)))

    thread = threading.Thread(target=measured)
    thread.start()
    thread.join()
    return found[0]


def measure(cases: Iterable[Any]) -> Iterable[tuple[Any, Extra]]:
    """Ours in each case."""
    from operators import in_mode, ours, tensors_of

    for case in cases:
        tensors = tensors_of(case, "cpu")
        yield case, extra(in_mode(ours(case), tensors, case.mode))


def main(argv: Sequence[str] | None = None) -> int:
    from cases import DTYPES, OPS, PASSES, SUITES, cases_of, tensor_bytes

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--suite", choices=SUITES, default="quick", help="which sizes (default: quick)")
    add("--op", nargs="+", default=[], choices=(*OPS, "depthwise_conv"), metavar="OP")
    add("--dtype", nargs="+", default=[], choices=DTYPES, metavar="DTYPE")
    add("--pass", nargs="+", default=["forward", "backward"], choices=PASSES, metavar="PASS")
    add("--at-most", type=float, default=64.0, help="MiB of the largest inputs (64)")
    args = parser.parse_args(argv)
    cases = [
        case
        for case in cases_of(args.suite, "cpu", args.dtype, [], getattr(args, "pass"))
        if (not args.op or case.op.startswith(tuple(args.op)))
        and not case.is_block
        and tensor_bytes(case) < args.at_most * 2**20
    ]
    print(f"{'tensors, KiB':>13} {'scratch, KiB':>13}  case")
    for case, found in measure(cases):
        print(f"{found.tensors / 1024:>13.1f} {found.scratch / 1024:>13.1f}  {case.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
