# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Talks to a worker process, and tells what killed it."""

from __future__ import annotations

import json
import pathlib
import queue
import subprocess
import sys
import threading
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
# Seconds beyond those of a job: hypothesis shrinks for up to five minutes, and a hang takes five.
PATIENCE = 900
STACK = 30000  # characters: 100 frames of a thread, with their paths


class Fuzzer:
    """A worker that is started when it is needed, and again when it died.

    Args:
        folder: Where the worker keeps its journal and its stderr.
        prelude: Python to run in the worker first; how the tests plant a bug.
    """

    def __init__(self, folder: pathlib.Path, prelude: str = "") -> None:
        self.journal, self.stderr = folder / "last-call.txt", folder / "stderr.txt"
        self.prelude = prelude
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Fuzzer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _start(self) -> subprocess.Popen[str]:
        start = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{self.prelude}\n"
        start += "import worker; sys.exit(worker.main())"
        self.journal.unlink(missing_ok=True)
        with open(self.stderr, "w") as stderr:
            return subprocess.Popen(
                [sys.executable, "-c", start, "--serve", "--journal", str(self.journal)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def run(self, target: str, seed: int, seconds: float) -> dict[str, Any]:
        """Fuzzes one target.  The answer's "report" is None if all was well."""
        if self.process is None:
            self.process = self._start()
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        job = {"target": target, "seed": seed, "seconds": seconds}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=seconds + PATIENCE)
        except queue.Empty:
            line = ""
        if line:
            return dict(json.loads(line))
        process.kill()
        code, self.process = process.wait(), None
        call = self.journal.read_text() if self.journal.exists() else "no call yet"
        died = f"signal {-code}" if code < 0 else f"exit code {code}; 1 is that of a hang"
        return {
            "report": f"{target}, seed {seed}: the worker died ({died}) in this call:\n{call}\n"
            f'replay it: python tests/fuzz/worker.py --replay "{call}"\n' + self._stack(),
            "counts": {},
        }

    def _stack(self) -> str:
        """What faulthandler wrote, from its first line on, or else the end of stderr."""
        text = self.stderr.read_text(errors="replace")
        found = [text.rfind(first) for first in ("Fatal Python error", "Timeout (")]
        return text[max(found) :][:STACK] if max(found) >= 0 else text[-STACK:]
