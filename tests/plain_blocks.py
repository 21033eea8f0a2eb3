# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause

"""The blocks of fastconv.models as one writes them with torch.nn alone, parameter for parameter."""

import torch
import torch.nn.functional as F
from torch import nn


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim, kernel_size=7, mlp_ratio=4, layer_scale_init_value=1e-6, drop_path=0.0):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, mlp_ratio * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(mlp_ratio * dim, dim)
        scale = layer_scale_init_value
        self.gamma = None if scale is None else nn.Parameter(scale * torch.ones(dim))

    def forward(self, x):
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        y = y if self.gamma is None else self.gamma * y
        return x + y.permute(0, 3, 1, 2)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        return x * self.fc2(F.relu(self.fc1(self.avgpool(x)))).sigmoid()


class InvertedResidual(nn.Module):
    def __init__(self, inp, oup, stride, expand_ratio, kernel_size=3, squeeze_channels=None):
        super().__init__()
        hidden = inp * expand_ratio

        def unit(a, b, k, s, groups):
            conv = nn.Conv2d(a, b, k, s, k // 2, groups=groups, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(b), nn.ReLU6())

        layers = [unit(inp, hidden, 1, 1, 1)] if expand_ratio != 1 else []
        layers.append(unit(hidden, hidden, kernel_size, stride, hidden))
        if squeeze_channels is not None:
            layers.append(SqueezeExcitation(hidden, squeeze_channels))
        layers += [nn.Conv2d(hidden, oup, 1, bias=False), nn.BatchNorm2d(oup)]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and inp == oup

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class ResNeXtBlock(nn.Module):
    def __init__(self, inplanes, planes, stride=1, groups=32, base_width=4):
        super().__init__()
        width, outputs = int(planes * (base_width / 64.0)) * groups, planes * 4
        self.conv1 = nn.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inplanes != outputs:
            project = nn.Conv2d(inplanes, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class ShuffleBlock(nn.Module):
    def __init__(self, inplanes, planes, stride=1, groups=3):
        super().__init__()
        self.stride, self.groups = stride, groups
        hidden, outputs = planes // 4, planes - (inplanes if stride == 2 else 0)
        self.conv1 = nn.Conv2d(inplanes, hidden, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        n, c, h, w = y.shape
        y = y.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        if self.stride == 1:
            return F.relu(x + y)
        return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1))


class SqueezeExcite(nn.Module):
    def __init__(self, in_planes, squeeze_planes, expand_planes):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, squeeze_planes, 1)
        self.bn1 = nn.BatchNorm2d(squeeze_planes)
        self.conv2 = nn.Conv2d(squeeze_planes, expand_planes, 1)
        self.bn2 = nn.BatchNorm2d(expand_planes)
        self.conv3 = nn.Conv2d(squeeze_planes, expand_planes, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(expand_planes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(torch.cat([self.bn2(self.conv2(x)), self.bn3(self.conv3(x))], 1))
