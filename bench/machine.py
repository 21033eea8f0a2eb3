# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Where a measurement was taken: the facts that a result file names."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch


def facts(device: str) -> dict[str, Any]:
    """Device, versions and commit."""
    import fastconv

    config = fastconv.config() if hasattr(fastconv, "config") else None
    commit, dirty = _commit()
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device,
        "device_name": cpu_name(),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "isa": getattr(config, "isa", None),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "fastconv": getattr(config, "version", None),
        "commit": commit,
        "dirty": dirty,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device_name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cuda_archs": getattr(config, "cuda_archs", None),
        }
    return found


def cpu_name() -> str:
    """The processor as it names itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> tuple[str | None, bool | None]:
    """The checkout's commit; FASTCONV_COMMIT names it where there is no git to ask."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # Results of earlier runs do not make a tree dirty.
        status = git("status", "--porcelain", "--", ":/", f":(exclude,top){_RESULTS}")
        return git("rev-parse", "HEAD")[:12], bool(status)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("FASTCONV_COMMIT"), None


_RESULTS = "bench/results"
