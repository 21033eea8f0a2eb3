# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
from torch import Tensor

def isa() -> str: ...
def isa_levels() -> list[str]: ...
def set_isa(name: str) -> None: ...
def has_cuda() -> bool: ...

# None: not a plain call, see csrc/python_call_torch.h
def depthwise_conv(
    nd: int,
    input: object,
    weight: object,
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    activation: object,
    /,
) -> Tensor | None: ...
def depthwise_conv_transpose(
    nd: int,
    input: object,
    weight: object,
    bias: object,
    stride: object,
    padding: object,
    output_padding: object,
    dilation: object,
    /,
) -> Tensor | None: ...
def depth_max_pool(
    input: object,
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
    ceil_mode: object,
    /,
) -> Tensor | None: ...
def causal_conv1d_update(
    x: object,
    conv_state: object,
    weight: object,
    bias: object,
    activation: object,
    dilation: object,
    /,
) -> Tensor | None: ...
def space_to_depth(input: object, block: object, order: object = ..., /) -> Tensor | None: ...
def depth_to_space(input: object, block: object, order: object = ..., /) -> Tensor | None: ...
def channel_shuffle(input: object, groups: object, /) -> Tensor | None: ...
