#!/usr/bin/env bash
# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
# Checks style and types of the whole tree; `tools/lint.sh --fix` also corrects what it can.
# Needs: pip install ".[lint]"
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1:-} == --fix ]]; then
  check=(ruff check --fix) format=(ruff format) clang=(clang-format -i)
else
  check=(ruff check) format=(ruff format --check) clang=(clang-format --dry-run -Werror)
fi

"${check[@]}" .
"${format[@]}" .
git ls-files -z 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' \
  'tests/*.h' 'tests/*.cpp' 'tests/*.cu' 'tests/*.cuh' | xargs -0 -r "${clang[@]}"
mypy
