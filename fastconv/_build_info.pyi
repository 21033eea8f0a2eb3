# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
# The build writes _build_info.py; these are the names in it.
version: str
torch: str
torch_cuda: str | None
cuda: str | None
cuda_archs: tuple[str, ...]
no_cuda_reason: str | None
compiler: str
