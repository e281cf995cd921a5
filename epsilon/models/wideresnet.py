"""WideResNet 32-4: three groups of five residual blocks, four times as wide as ResNet-32.

Ref: S. Zagoruyko, N. Komodakis, "Wide Residual Networks", BMVC 2016; in the depth that Y. Kaya et al. (ICML 2019) use.

The order inside a block is that of He et al. (CVPR 2016): convolution, BatchNorm, ReLU, with the last ReLU behind the addition.
Zagoruyko and Komodakis normalise before each convolution; that BatchNorm cannot be folded into a convolution's weights, and an
integer accelerator has nothing to execute it on.
"""

from __future__ import annotations

from torch import nn

from epsilon.models.blocks import Residual, convolution, named, scaled

__all__ = ["blocks"]

FIRST = 16
GROUPS = (16, 32, 64)
WIDENING = 4
BLOCKS = 5
#: From this side on the image is halved four times before the groups, as ResNets for ImageNet do by stride and pooling.
LARGE_SIDE = 128


def blocks(width: float, input_shape: tuple[int, int, int]) -> list[nn.Sequential]:
    """Return the backbone; its result is pooled to one value per channel.

    Parameters
    ----------
    width : float
        Multiplies the widening of 4; the first convolution has 16 channels at every width.
    input_shape : (C, H, W)
    """
    large = min(input_shape[1:]) >= LARGE_SIDE
    first = convolution("conv1", input_shape[0], FIRST, 7 if large else 3, stride=2 if large else 1)
    if large:
        first["pool1"] = nn.MaxPool2d(2)
    found = [named(**first)]
    channels, side = FIRST, min(input_shape[1:]) // (4 if large else 1)
    for group, outputs in enumerate(GROUPS, start=1):
        for index in range(1, BLOCKS + 1):
            stride = 2 if index == 1 and (group > 1 or large) else 1
            output = scaled(outputs * WIDENING, width)
            found.append(_block(f"group{group}_{index}", channels, output, stride))
            channels, side = output, side // stride
    found[-1].add_module("pool", nn.AvgPool2d(side))
    found[-1].add_module("flatten", nn.Flatten())
    return found


def _block(name: str, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    main = named(
        **convolution(f"{name}_conv1", inputs, outputs, stride=stride),
        **convolution(f"{name}_conv2", outputs, outputs, relu=False),
    )
    shortcut = nn.Sequential()
    if stride != 1 or inputs != outputs:
        shortcut = named(**convolution(f"{name}_shortcut", inputs, outputs, 1, stride=stride, relu=False))
    return named(**{name: Residual(main, shortcut), f"{name}_relu": nn.ReLU()})
