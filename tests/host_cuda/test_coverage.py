# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Every launcher, kernel, instantiation and tile in csrc/ runs on the executor.

conftest.py puts these tests last; they judge the run that they are part of.
"""

import pathlib

import coverage
import host_cuda_harness as hc
import mutants
import pytest

SOURCES = {source.room: source for source in coverage.read_sources(hc.CSRC)}


@pytest.fixture
def whole_run(request):
    """Skips where a part of the rooms' tests was left out, or failed."""
    if reason := request.config.stash[hc.LEFT_OUT](request.session):
        pytest.skip(reason)


@pytest.mark.parametrize("room", SOURCES)
def test_everything_runs(whole_run, room):
    missing = coverage.missing(SOURCES[room], coverage.library_of(room))
    assert not missing, "not run by any test:\n" + "\n".join(missing)


def test_rooms_use_the_libraries_that_are_built_ahead():
    """build_ahead.py gives a room's sources in the same order, or they are compiled twice."""
    for path in map(pathlib.Path, hc.LOADED):
        room = path.stem.rpartition("-")[0]
        if room in SOURCES:
            assert path == hc.build_path(room, [f"{room}.cpp", *hc.room_sources(room)])


def test_finds_what_the_sources_declare():
    """Against lists written down here: a parser that finds nothing would check nothing."""
    conv = SOURCES["depthwise_conv"]
    assert {"gather_kernel", "weight_gradient_kernel", "add_splits_kernel"} <= set(conv.kernels)
    assert {"forward_cuda", "backward_data_cuda", "backward_weight_cuda"} <= set(conv.launchers)
    assert '"pack_window2", true, 2, false' in conv.tiles and len(conv.tiles) >= 13
    pool = SOURCES["depth_max_pool"]
    assert {"forward_kernel", "backward_kernel"} <= set(pool.kernels)
    assert {"forward_cuda", "backward_cuda"} <= set(pool.launchers) and len(pool.tiles) >= 3
    copy = SOURCES["rearrange"]
    assert {"copy_runs", "copy_registers", "copy_boxes"} <= set(copy.kernels)
    assert copy.launchers == ["copy_cuda"] and len(copy.tiles) >= 4
    assert "copy_boxes" in copy.synchronising
    declared = sum(
        mutants.blank(path.read_text()).count("__global__") for path in hc.CSRC.rglob("*.cu*")
    )
    assert sum(len(s.kernels) for s in SOURCES.values()) == declared


def test_notices_what_is_new(tmp_path):
    """A launcher, a kernel, a tile and a room that somebody adds without cases."""
    hc.build("selftest", ["selftest.cpp"])
    room = tmp_path / "ops" / "rearrange"
    room.mkdir(parents=True)
    (room / "new.cuh").write_text(
        "template <class T>\n"
        "__global__ void __launch_bounds__(128, (kBlocks<T, 2>)) fresh(const T* x) {\n"
        "  __syncthreads();\n}\n"
        "__global__ void\nvotes(const float* x, unsigned* y) { /* __global__ void no(int x) */ }\n"
        "__global__ void __launch_bounds__(kA* kB)\n  wrapped(const Params<Index<kWide>> p) {}\n"
    )
    (room / "rearrange_cuda.h").write_text("cudaError_t fresh_cuda(const T& p, cudaStream_t s);\n")
    (room / "tiles.h").write_text(
        "constexpr Tile kTiles[] = {{Family::kRuns, 256, 4},\n {Family::kBox, 64, 4}};\n"
    )
    (source,) = coverage.read_sources(tmp_path)
    assert source.kernels == ["fresh", "votes", "wrapped"]
    missing = coverage.missing(source, coverage.library_of("selftest"))
    for what in (
        "launcher fresh_cuda",
        "kernel fresh: never instantiated",
        "kernel wrapped: never instantiated",
        "fresh in reverse order",
        "tile 0: Family::kRuns, 256, 4",
        "tile 1: Family::kBox, 64, 4",
    ):
        assert f"rearrange: {what}" in missing
    assert "rearrange: kernel votes: never instantiated" not in missing
    assert coverage.missing(source, None) == ["rearrange: no library runs it"]


def test_compiled_is_not_run(tmp_path):
    """An instantiation in the library that no test launches is named."""
    library = hc.build("selftest", ["selftest.cpp"])
    names = coverage.compiled(library, ["multiply_tiles"])
    assert len(names) == 2
    assert all("multiply_tiles<__" in name for name in names.values())
    ran = {launch.symbol for launch in coverage.launches(library)}
    source = coverage.Source("selftest", [], ["multiply_tiles"], [], [])
    unrun = [m for m in coverage.missing(source, library) if "instantiation" in m]
    assert len(unrun) == len(set(names) - ran)
