# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
"""Fast depthwise convolution, depth max pooling and pixel rearrangement for PyTorch.

Functions follow :mod:`torch.nn.functional`; :mod:`fastconv.nn` has a layer for each.  Importing
this package registers the operators ``torch.ops.fastconv.*``.
"""

from fastconv import _config

_config.check_import()

from fastconv import _C, _lazy, models, nn  # noqa: E402, F401  (the operators register on import)
from fastconv._config import __version__, config  # noqa: E402
from fastconv.convert import convert_, revert_  # noqa: E402
from fastconv.export import onnx_translation_table  # noqa: E402
from fastconv.functional import (  # noqa: E402
    causal_conv1d_update,
    channel_shuffle,
    depth_max_pool,
    depth_to_space,
    depthwise_conv1d,
    depthwise_conv2d,
    depthwise_conv3d,
    depthwise_conv_transpose1d,
    depthwise_conv_transpose2d,
    depthwise_conv_transpose3d,
    global_avg_pool1d,
    global_avg_pool2d,
    global_avg_pool3d,
    pixel_shuffle,
    pixel_unshuffle,
    sigmoid_gate,
    space_to_depth,
)

_config.check_isa()
_lazy.after_import("torch.distributed.tensor", "fastconv._sharding")

__all__ = [
    "__version__",
    "causal_conv1d_update",
    "channel_shuffle",
    "config",
    "convert_",
    "depth_max_pool",
    "depth_to_space",
    "depthwise_conv1d",
    "depthwise_conv2d",
    "depthwise_conv3d",
    "depthwise_conv_transpose1d",
    "depthwise_conv_transpose2d",
    "depthwise_conv_transpose3d",
    "global_avg_pool1d",
    "global_avg_pool2d",
    "global_avg_pool3d",
    "models",
    "nn",
    "onnx_translation_table",
    "pixel_shuffle",
    "pixel_unshuffle",
    "revert_",
    "sigmoid_gate",
    "space_to_depth",
]
