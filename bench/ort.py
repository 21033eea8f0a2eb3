# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""ONNX Runtime as a rival on the CPU, in a process of its own: its threads must not meet torch's.

The process waits for a number of calls on its standard input, runs them, and answers with the
seconds per call; so it takes its turn in the rounds like everybody else.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from typing import Any

from cases import Case

_ORDERS = {"dcr": "DCR", "crd": "CRD"}


class OrtSession:
    """A contender that times itself: calling it runs the model once in the other process."""

    def __init__(self, case: Case, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(case.to_json()), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.seconds(1)

    @staticmethod
    def runs(case: Case, device: str) -> bool:
        """Whether ONNX Runtime is installed and has the operator."""
        is_conv = case.is_conv and not case.is_transposed
        has_op = is_conv or case.op == "pixel_shuffle" or case.args.get("order") in _ORDERS
        return (
            has_op
            and device == "cpu"
            and case.mode == "forward"
            and case.dtype == "float32"
            and case.layout == "contiguous"
            and "activation" not in case.args
            and (case.op != "space_to_depth" or case.args["order"] == "dcr")
            and all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
        )

    def seconds(self, calls: int) -> float:
        """Seconds per call over so many calls."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the onnxruntime process ended")
        return float(answer)

    def __call__(self) -> None:
        self.seconds(1)

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(10)


def _model(case: Case) -> Any:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def each(value: Any) -> list[int]:
        return [value] * len(case.kernel) if isinstance(value, int) else list(value)

    attributes: dict[str, Any] = {}
    parameters: dict[str, tuple[int, ...]] = {}
    if case.is_conv:
        channels = case.shape[1] * case.multiplier
        dilation, padding = each(case.args.get("dilation", 1)), case.args.get("padding", 0)
        causal = [dilation[0] * (case.kernel[0] - 1), 0]
        op = "Conv"
        attributes = {
            "group": case.shape[1],
            "strides": each(case.args.get("stride", 1)),
            "dilations": dilation,
            "pads": causal if padding == "causal" else each(padding) * 2,
        }
        parameters["w"] = (channels, 1, *case.kernel)
        if case.bias:
            parameters["b"] = (channels,)
    else:
        op = "SpaceToDepth" if case.op == "space_to_depth" else "DepthToSpace"
        attributes["blocksize"] = case.args.get("block_size", case.args.get("upscale_factor"))
        if op == "DepthToSpace":
            attributes["mode"] = _ORDERS[case.args.get("order", "crd")]
    floats, random = TensorProto.FLOAT, np.random.default_rng()
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *parameters], ["y"], **attributes)],
        "case",
        [helper.make_tensor_value_info("x", floats, case.shape)],
        [helper.make_tensor_value_info("y", floats, None)],
        # Parameters are constants, so that the session may lay them out as it likes.
        [
            numpy_helper.from_array(random.uniform(0.25, 1, shape).astype(np.float32), name)
            for name, shape in parameters.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main(case_json: str, threads: str) -> None:
    import numpy as np
    import onnxruntime

    case = Case.from_json(json.loads(case_json))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    # Idle threads that spin would slow down whoever's turn it is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        _model(case).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"x": np.random.default_rng().uniform(0.25, 1, case.shape).astype(np.float32)}
    for line in sys.stdin:
        calls = int(line)
        start = time.perf_counter()
        for _ in range(calls):
            session.run(None, feeds)
        print((time.perf_counter() - start) / max(calls, 1), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
