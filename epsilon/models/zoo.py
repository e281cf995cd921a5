"""The architectures by name: two small networks of the project, and the paper's three on its data sets.

A name is ``digits``, ``mnist``, or ARCHITECTURE[-wWIDTH]-DATASET, for example ``vgg16-cifar10`` or ``mobilenet-w0.5-cifar100``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from epsilon.models import mobilenet, vgg, wideresnet
from epsilon.models.blocks import named
from epsilon.models.exits import with_exits
from epsilon.models.multi_exit import MultiExit

__all__ = ["ARCHITECTURES", "DATASETS", "NetworkName", "build", "parse"]

Blocks = Callable[[float, tuple[int, int, int]], Sequence[nn.Sequential]]

ARCHITECTURES: dict[str, Blocks] = {"vgg16": vgg.blocks, "wideresnet": wideresnet.blocks, "mobilenet": mobilenet.blocks}
#: Input shape, classes, and the pixel value that stands for zero.
DATASETS = {
    "mnist": ((1, 28, 28), 10, 0),
    "cifar10": ((3, 32, 32), 10, 128),
    "cifar100": ((3, 32, 32), 100, 128),
    "imagenet": ((3, 224, 224), 1000, 128),
}
NAME = re.compile(rf"({'|'.join(ARCHITECTURES)})(?:-w([0-9.]+))?-({'|'.join(DATASETS)})")
WIDTHS = (0.05, 4.0)
#: The architectures halve the image five times, so smaller ones get a border.
SMALLEST_SIDE = 32


@dataclass(frozen=True)
class NetworkName:
    """What a network's name says: ``architecture``, the ``width`` that multiplies its channels, and ``dataset``."""

    architecture: str
    width: float
    dataset: str


def parse(name: str) -> NetworkName:
    """Return what a name says.

    Raises
    ------
    ValueError
        For a name of another form, or a width outside 0.05..4.
    """
    if name in BUILDERS:
        return NetworkName(name, 1.0, name)
    found = NAME.fullmatch(name)
    try:
        width = float(found[2] or 1) if found else 0.0
    except ValueError:
        width = 0.0
    if not WIDTHS[0] <= width <= WIDTHS[1]:
        raise ValueError(
            f"The network must be {', '.join(BUILDERS)} or ARCHITECTURE[-wWIDTH]-DATASET with one of {', '.join(ARCHITECTURES)}, "
            f"a width of {WIDTHS[0]:g}..{WIDTHS[1]:g} and one of {', '.join(DATASETS)}, for example vgg16-w0.5-cifar10, "
            f"not {name!r}"
        )
    return NetworkName(found[1], width, found[3])


def build(name: str, seed: int = 0) -> MultiExit:
    """Return the untrained network of that name; equal seeds give equal weights.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    wanted = parse(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in BUILDERS:
            return BUILDERS[name]()
        shape, classes, zero = DATASETS[wanted.dataset]
        border = max(0, -(-(SMALLEST_SIDE - min(shape[1:])) // 2))
        blocks = list(ARCHITECTURES[wanted.architecture](wanted.width, (shape[0], *(side + 2 * border for side in shape[1:]))))
        if border:
            blocks[0] = named(border=nn.ZeroPad2d(border), **dict(blocks[0].named_children()))
        return with_exits(blocks, input_shape=shape, classes=classes, input_zero=zero)


def _digits() -> MultiExit:
    """8x8 grey images, 3 exits; channels in multiples of 8, so that they fill the columns of an 8x8 array."""
    stages = [
        named(conv1=_conv(1, 16), bn1=nn.BatchNorm2d(16), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2)),
        named(conv2=_conv(16, 16), bn2=nn.BatchNorm2d(16), relu2=nn.ReLU(), pool2=nn.AvgPool2d(2)),
        named(flatten=nn.Flatten(), fc1=nn.Linear(64, 48), bn3=nn.BatchNorm1d(48), relu3=nn.ReLU()),
    ]
    heads = [
        named(exit1_flatten=nn.Flatten(), exit1_fc=nn.Linear(256, 10)),
        named(exit2_flatten=nn.Flatten(), exit2_fc=nn.Linear(64, 10)),
        named(exit3_fc=nn.Linear(48, 10)),
    ]
    return MultiExit(stages, heads, input_shape=(1, 8, 8), classes=10)


def _mnist() -> MultiExit:
    """28x28 grey images, LeNet-like (two 5x5 convolutions, then three linear layers), 4 exits."""
    stages = [
        named(conv1=_conv(1, 8, 5), bn1=nn.BatchNorm2d(8), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2)),
        named(conv2=nn.Conv2d(8, 16, 5, bias=False), bn2=nn.BatchNorm2d(16), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2)),
        named(flatten=nn.Flatten(), fc1=nn.Linear(400, 120, bias=False), bn3=nn.BatchNorm1d(120), relu3=nn.ReLU()),
        named(fc2=nn.Linear(120, 84, bias=False), bn4=nn.BatchNorm1d(84), relu4=nn.ReLU()),
    ]
    heads = [
        named(exit1_pool=nn.AvgPool2d(4, 3), exit1_flatten=nn.Flatten(), exit1_fc=nn.Linear(128, 10)),
        named(exit2_flatten=nn.Flatten(), exit2_fc=nn.Linear(400, 10)),
        named(exit3_fc=nn.Linear(120, 10)),
        named(exit4_fc=nn.Linear(84, 10)),
    ]
    return MultiExit(stages, heads, input_shape=(1, 28, 28), classes=10)


def _conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    """Return a convolution that keeps the image's size, without the bias that the BatchNorm behind it would cancel."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)


BUILDERS: dict[str, Callable[[], MultiExit]] = {"digits": _digits, "mnist": _mnist}
