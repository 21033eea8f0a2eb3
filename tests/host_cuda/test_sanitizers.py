# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Every CUDA kernel once more under AddressSanitizer and UndefinedBehaviorSanitizer.

In a process of its own, which the sanitizers' runtimes are loaded into first.  A room's tests give
its cases: `run_sanitized(library)`, and `sources()` or the usual bridge and launchers.
"""

import importlib
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import coverage
import host_cuda_harness as hc
import pytest

TESTS = {
    "causal_conv1d_update": "test_causal_conv1d_update",
    "depth_max_pool": "test_depth_max_pool",
    "depthwise_conv": "depthwise_conv_sanitized",
    "rearrange": "test_rearrange_kernels",
    "squeeze_excite": "test_squeeze_excite",
}
SOURCES = {source.room: source for source in coverage.read_sources(hc.CSRC)}


def sources(room):
    return [f"{room}.cpp", *hc.room_sources(room)]


@pytest.fixture(scope="module")
def said():
    """What the process has said about all rooms: loading torch there takes long."""
    for room in TESTS:
        hc.build_path(room, sources(room), sanitize=True)
    return subprocess.run(
        [sys.executable, __file__],
        env=hc.sanitizer_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("room", SOURCES)
def test_no_room_has_an_access_out_of_bounds(said, room):
    lines = said.stdout.splitlines()
    assert f"{room}: ok" in lines, f"{said.stdout}\n{said.stderr}"
    (ran,) = [line.removeprefix(f"{room}: ran ") for line in lines if f"{room}: ran" in line]
    assert set(SOURCES[room].kernels) == set(ran.split())


def test_the_process_ends_well(said):
    assert said.returncode == 0, said.stderr


def main():
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(hc.HERE))  # before tests/, where files have the same names
    for room, tests in TESTS.items():
        library = hc.build(room, sources(room), sanitize=True)
        importlib.import_module(tests).run_sanitized(library)
        kernels = {launch.kernel for launch in coverage.launches(library)}
        print(f"{room}: ran {' '.join(sorted(kernels))}\n{room}: ok", flush=True)


if __name__ == "__main__":
    main()
