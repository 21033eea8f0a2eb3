# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Makes the build's own modules importable; they are no part of the installed package."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

for folder in ("build_backend", "tools"):
    sys.path.insert(0, str(ROOT / folder))
