# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Two processes: training, and operators on DTensor.  The checks are in distributed_*.py."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available()), reason="torch has no gloo"
    ),
]

WORKER = Path(__file__).parent / "distributed_squeeze.py"  # runs the checks of both
CHECKS = [
    node.name
    for file in (WORKER.with_name("distributed_worker.py"), WORKER)
    for node in ast.parse(file.read_text()).body
    if isinstance(node, ast.FunctionDef) and "check" in map(ast.unparse, node.decorator_list)
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of the two processes found out."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-W", "error::UserWarning:fastconv", str(WORKER)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    output = []
    try:
        for process in processes:
            output.append(process.communicate(timeout=300)[0])
    finally:
        for process in processes:
            process.kill()
    files = [folder / f"{rank}.json" for rank in range(2)]
    assert all(f.is_file() for f in files), "".join(output)
    return [json.loads(f.read_text()) for f in files], "".join(output)


@pytest.mark.parametrize("name", CHECKS)
def test_two_processes(name, results):
    found, output = results
    for rank, one in enumerate(found):
        assert name in one, f"process {rank} stopped before:\n{output[-3000:]}"
        assert one[name] is None, f"process {rank}:\n{one[name]}"


RULES = """
from torch.distributed.tensor import DTensor
rules = DTensor._op_dispatcher.sharding_propagator.op_strategy_funcs
every = torch._C._dispatch_get_all_op_names()
ops = [n.removeprefix("fastconv::") for n in every if n.startswith("fastconv::")]
missing = [n for n in ops if getattr(torch.ops.fastconv, n).default not in rules]
assert ops and not missing, missing
"""
FASTCONV_FIRST = """
import sys, torch, fastconv
# To load DTensor would double the time that the import takes.
assert "torch.distributed.tensor" not in sys.modules
"""
DTENSOR_FIRST = "import torch.distributed.tensor\nimport torch, fastconv"


@pytest.mark.parametrize("first", [FASTCONV_FIRST, DTENSOR_FIRST], ids=["fastconv", "DTensor"])
def test_registered_in_any_order(first):
    """DTensor knows every operator, whichever of the two is imported first."""
    subprocess.run([sys.executable, "-W", "error", "-c", first + RULES], check=True)
