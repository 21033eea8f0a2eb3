# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""The one way in which the build gives up on purpose."""

from __future__ import annotations

import textwrap

RULE = "-" * 78


class BuildStop(SystemExit):
    """Ends the build with a message for the person who started it.

    Installers show what the build wrote to stderr. A SystemExit makes the message the last thing
    there, where an exception would bury it under the installer's own stack frames.
    """

    def __init__(self, message: str) -> None:
        """Frames `message`, which may be an indented triple-quoted text."""
        self.message = textwrap.dedent(message).strip()
        super().__init__(f"\n{RULE}\nfastconv: {self.message}\n{RULE}")
