"""The pieces that the architectures are built of: all of them have an integer form (``epsilon.quantize``)."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Residual", "convolution", "named", "scaled"]

#: Channels are multiples of this, so that they fill the columns of an array.
CHANNEL_STEP = 8


class Residual(nn.Module):
    """``main(x) + shortcut(x)``; a ReLU that follows it is fused into the integer addition.

    Parameters
    ----------
    main : nn.Sequential
    shortcut : nn.Sequential
        Empty for the identity.
    """

    def __init__(self, main: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum, of the shape of both branches' results."""
        return self.main(value) + self.shortcut(value)


def scaled(channels: int, width: float) -> int:
    """Return a number of channels times a width multiplier, rounded to a multiple of 8, at least 8."""
    return max(CHANNEL_STEP, round(channels * width / CHANNEL_STEP) * CHANNEL_STEP)


def named(**modules: nn.Module) -> nn.Sequential:
    """Return a sequence whose modules have these names; they become the names of the integer layers."""
    sequence = nn.Sequential()
    for name, module in modules.items():
        sequence.add_module(name, module)
    return sequence


def convolution(
    name: str, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> dict[str, nn.Module]:
    """Return a convolution with BatchNorm and, where asked for, ReLU, by name.

    It keeps the image's size but for the stride, and has no bias, which the BatchNorm would cancel.
    """
    modules = {
        name: nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        f"{name}_bn": nn.BatchNorm2d(outputs),
    }
    if relu:
        modules[f"{name}_relu"] = nn.ReLU()
    return modules
