# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Lets `python -m pytest`, which puts the checkout on sys.path, test the installed package.

The checkout stays there if it was compiled in place: then it is what should be tested.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent

if not any(ROOT.glob("fastconv/_C.*.so")):
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
