"""VGG16 with BatchNorm.

Ref: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, configuration D.
"""

from __future__ import annotations

import math

from torch import nn

from epsilon.models.blocks import convolution, named, scaled

__all__ = ["blocks"]

#: Output channels of each convolution, group by group; a pooling by 2 ends each group.
GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
#: Hidden linear layers: as published for 224x224, and the 512 that are usual for 32x32.
HIDDEN_LARGE, HIDDEN_SMALL = 4096, 512
LARGE_SIDE = 128


def blocks(width: float, input_shape: tuple[int, int, int]) -> list[nn.Sequential]:
    """Return the backbone: 13 convolutions, then two linear layers; the final classifier is the third.

    Parameters
    ----------
    width : float
        Multiplies the channels of every layer.
    input_shape : (C, H, W)
        Sides of 32 or more.
    """
    channels, height, width_pixels = input_shape
    found = []
    for group, outputs in enumerate(GROUPS, start=1):
        for index, output in enumerate(outputs, start=1):
            modules = convolution(f"conv{group}_{index}", channels, scaled(output, width))
            if index == len(outputs):
                modules[f"pool{group}"] = nn.MaxPool2d(2)
            found.append(named(**modules))
            channels = scaled(output, width)
    values = channels * math.prod(side >> len(GROUPS) for side in (height, width_pixels))
    hidden = scaled(HIDDEN_LARGE if min(height, width_pixels) >= LARGE_SIDE else HIDDEN_SMALL, width)
    for index in (1, 2):
        modules = {"flatten": nn.Flatten()} if index == 1 else {}
        modules |= {f"fc{index}": nn.Linear(values, hidden, bias=False), f"fc{index}_bn": nn.BatchNorm1d(hidden)}
        found.append(named(**modules, **{f"fc{index}_relu": nn.ReLU()}))
        values = hidden
    return found
