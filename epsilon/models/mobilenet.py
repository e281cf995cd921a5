"""MobileNet (v1): depthwise separable convolutions.

Ref: A. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", arXiv 1704.04861,
Table 1.
For images of 32x32 the first convolution and the first two halvings of the published network are left out, as is usual.
"""

from __future__ import annotations

from torch import nn

from epsilon.models.blocks import convolution, named, scaled

__all__ = ["blocks"]

FIRST = 32
#: Output channels and stride of each separable convolution.
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
LARGE_SIDE = 128


def blocks(width: float, input_shape: tuple[int, int, int]) -> list[nn.Sequential]:
    """Return the backbone; its result is pooled to one value per channel.

    Parameters
    ----------
    width : float
        Multiplies the channels of every layer.
    input_shape : (C, H, W)
    """
    first_stride = 2 if min(input_shape[1:]) >= LARGE_SIDE else 1
    channels, side = scaled(FIRST, width), min(input_shape[1:]) // first_stride
    found = [named(**convolution("conv1", input_shape[0], channels, stride=first_stride))]
    for index, (outputs, stride) in enumerate(LAYERS, start=1):
        output = scaled(outputs, width)
        depthwise = convolution(f"depthwise{index}", channels, channels, stride=stride, groups=channels)
        found.append(named(**depthwise, **convolution(f"pointwise{index}", channels, output, 1)))
        channels, side = output, side // stride
    found[-1].add_module("pool", nn.AvgPool2d(side))
    found[-1].add_module("flatten", nn.Flatten())
    return found
