import torch
from fastconv import _C  # noqa
