# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""Two processes: training, and operators on DTensor.  The checks are in distributed_worker.py."""

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

WORKER = Path(__file__).parent / "distributed_worker.py"
CHECKS = [
    node.name
    for node in ast.parse(WORKER.read_text()).body
    if isinstance(node, ast.FunctionDef) and any("check" in ast.dump(d) for d in node.decorator_list)
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


def test_registered_in_any_order():
    """DTensor knows the operators whether it is imported before fastconv or after."""
    program = """
import {}
import {}
from torch.distributed.tensor import DTensor
import torch
rules = DTensor._op_dispatcher.sharding_propagator.op_strategy_funcs
names = set(torch.ops.fastconv) | {{n.split("::")[1].split(".")[0] for n in
    torch._C._dispatch_get_all_op_names() if n.startswith("fastconv::")}}
missing = [n for n in names if getattr(torch.ops.fastconv, n).default not in rules]
assert names and not missing, missing
"""
    modules = ("fastconv", "torch.distributed.tensor")
    for order in (modules, modules[::-1]):
        subprocess.run([sys.executable, "-c", program.format(*order)], check=True)


def test_import_does_not_load_dtensor():
    """It would double the time that the import takes."""
    program = "import sys, fastconv; assert 'torch.distributed.tensor' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
