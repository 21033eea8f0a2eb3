# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fastconv``: prints what this build can do and what it lacks."""

from __future__ import annotations

import torch

from fastconv._config import Config, config, covers


def _rows(facts: Config) -> list[tuple[str, str]]:
    rows = [
        ("fastconv", facts.version),
        ("torch", f"{facts.torch} (built for {facts.built_for_torch})"),
        ("Python", facts.python),
        ("compiler", facts.compiler),
        ("CPU levels", f"{', '.join(facts.isa_levels)} (in use: {facts.isa})"),
        ("CPU threads", str(torch.get_num_threads())),
    ]
    if facts.cuda is None:
        return [*rows, ("CUDA", f"no kernels: {facts.no_cuda_reason}")]
    rows.append(("CUDA", f"{facts.cuda}, kernels for {', '.join(facts.cuda_archs)}"))
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        name = f"{torch.cuda.get_device_name(index)} ({capability[0]}.{capability[1]})"
        if not covers(facts.cuda_archs, capability):
            name += ": no kernels for it; rebuild on this machine or set TORCH_CUDA_ARCH_LIST"
        rows.append((f"GPU {index}", name))
    if not torch.cuda.is_available():
        rows.append(("GPU", "none is visible"))
    return rows


def main() -> None:
    """Prints the facts, one a line."""
    for name, value in _rows(config()):
        print(f"{name:<12} {value}")


if __name__ == "__main__":
    main()
