# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""What of depthwise convolution's cases test_sanitizers.py runs: each once, dtypes by turns."""

import ctypes
import dataclasses

from depthwise_conv_cases import DTYPES, PASSES
from test_depthwise_conv import CASES, VARIANTS, check_all, conv2d
from test_depthwise_conv_large import LARGE, check_large
from test_depthwise_conv_walk import SIZES, check_walks, shifted

# Slow without optimisation, and no edge that smaller ones lack.
LONG = {"many strips", "31x31", "many channels", "many images", "several tiles"}


def run_sanitized(library):
    library.tile_name.restype = ctypes.c_char_p
    dtypes = list(DTYPES)
    variants = list(VARIANTS.values())
    for i, (name, case) in enumerate(CASES.items()):
        if name in LONG:
            continue
        more = {**variants[i % len(variants)], "channels_last": i % 3 > 0, "dtype": dtypes[i % 4]}
        check_all(library, dataclasses.replace(case, **more), i)
        if i % 2:
            check_all(library, dataclasses.replace(case, transposed=True, **more), i, PASSES[:2])
    for i, (name, case) in enumerate(LARGE.items()):
        if name not in LONG:
            more = {"channels_last": i % 2 > 0, "dtype": dtypes[i // 2 % 4]}
            check_large(library, dataclasses.replace(case, **more), i)
    for i, (size, pads) in enumerate(SIZES.values()):
        kernel, stride = (3, 5, 7)[i % 3], 1 + i % 2
        case = conv2d(
            size,
            (kernel, kernel),
            (stride, stride),
            pad=shifted(kernel, *pads),
            batch=2,
            channels=(8, 3)[i // 2 % 2],
            channels_last=i % 4 < 2,
            dtype=dtypes[i // 3 % 4],
        )
        if min(case.out) > 0:
            check_walks(library, case, i)
