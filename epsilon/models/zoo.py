"""The two networks that come with the project."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from epsilon.models.multi_exit import MultiExit

__all__ = ["build", "names"]

CLASSES = 10


def names() -> tuple[str, ...]:
    """Return the names that ``build`` knows."""
    return tuple(BUILDERS)


def build(name: str, seed: int = 0) -> MultiExit:
    """Return the untrained network of that name; equal seeds give equal weights.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name not in BUILDERS:
        raise ValueError(f"The network must be one of {', '.join(BUILDERS)}, not {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BUILDERS[name]()


def _digits() -> MultiExit:
    """8x8 grey images, 3 exits; channels in multiples of 8, so that they fill the columns of an 8x8 array."""
    stages = [
        _stage(conv1=_conv(1, 16), bn1=nn.BatchNorm2d(16), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2)),
        _stage(conv2=_conv(16, 16), bn2=nn.BatchNorm2d(16), relu2=nn.ReLU(), pool2=nn.AvgPool2d(2)),
        _stage(flatten=nn.Flatten(), fc1=nn.Linear(64, 48), bn3=nn.BatchNorm1d(48), relu3=nn.ReLU()),
    ]
    heads = [
        _stage(exit1_flatten=nn.Flatten(), exit1_fc=nn.Linear(256, CLASSES)),
        _stage(exit2_flatten=nn.Flatten(), exit2_fc=nn.Linear(64, CLASSES)),
        _stage(exit3_fc=nn.Linear(48, CLASSES)),
    ]
    return MultiExit(stages, heads, input_shape=(1, 8, 8), classes=CLASSES)


def _mnist() -> MultiExit:
    """28x28 grey images, LeNet-like (two 5x5 convolutions, then three linear layers), 4 exits."""
    stages = [
        _stage(conv1=_conv(1, 8, 5), bn1=nn.BatchNorm2d(8), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2)),
        _stage(conv2=nn.Conv2d(8, 16, 5, bias=False), bn2=nn.BatchNorm2d(16), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2)),
        _stage(flatten=nn.Flatten(), fc1=nn.Linear(400, 120, bias=False), bn3=nn.BatchNorm1d(120), relu3=nn.ReLU()),
        _stage(fc2=nn.Linear(120, 84, bias=False), bn4=nn.BatchNorm1d(84), relu4=nn.ReLU()),
    ]
    heads = [
        _stage(exit1_pool=nn.AvgPool2d(4, 3), exit1_flatten=nn.Flatten(), exit1_fc=nn.Linear(128, CLASSES)),
        _stage(exit2_flatten=nn.Flatten(), exit2_fc=nn.Linear(400, CLASSES)),
        _stage(exit3_fc=nn.Linear(120, CLASSES)),
        _stage(exit4_fc=nn.Linear(84, CLASSES)),
    ]
    return MultiExit(stages, heads, input_shape=(1, 28, 28), classes=CLASSES)


def _stage(**modules: nn.Module) -> nn.Sequential:
    stage = nn.Sequential()
    for name, module in modules.items():
        stage.add_module(name, module)
    return stage


def _conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    """Return a convolution that keeps the image's size, without the bias that the BatchNorm behind it would cancel."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)


BUILDERS: dict[str, Callable[[], MultiExit]] = {"digits": _digits, "mnist": _mnist}
