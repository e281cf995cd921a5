"""Where a backbone gets its internal exits: at even fractions of its own multiply-accumulates.

Ref: Y. Kaya et al., ICML 2019, section 3: internal classifiers at given percentages of the network's cost, each of a pooling that
reduces the feature map and one linear layer. Its mixture of maximum and average pooling is an average here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from epsilon.models.blocks import named
from epsilon.models.multi_exit import MultiExit

__all__ = ["FRACTIONS", "mac_profile", "with_exits"]

#: Fractions of the backbone's multiplications at which internal exits lie, five as a default: every sixth of the way.
FRACTIONS = tuple(part / 6 for part in range(1, 6))
#: Feature maps are pooled to at most this side before an internal classifier.
POOLED_SIDE = 4


def with_exits(
    blocks: Sequence[nn.Sequential],
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    input_zero: int = 0,
    fractions: Sequence[float] = FRACTIONS,
) -> MultiExit:
    """Return a backbone with internal exits and a final classifier.

    An exit is placed behind the block whose share of the multiplications, itself included, is nearest to a fraction.

    Parameters
    ----------
    blocks : sequence of nn.Sequential
        The backbone in the smallest pieces behind which an exit may lie; its result is (batch, values).
    input_shape : (C, H, W)
    classes : int
    input_zero : int
        See ``MultiExit``.
    fractions : sequence of float
        Rising, each in (0, 1). Fewer blocks than fractions give fewer exits.
    """
    counts, shapes = mac_profile(blocks, input_shape)
    shares = [sum(counts[: index + 1]) / sum(counts) for index in range(len(blocks))]
    inner = range(len(blocks) - 1)
    ends = sorted(
        {min(inner, key=lambda index, wanted=wanted: abs(shares[index] - wanted)) for wanted in fractions} if inner else ()
    )
    stages, heads = [], []
    for number, (start, end) in enumerate(zip([0, *(end + 1 for end in ends)], [*ends, len(blocks) - 1], strict=True), start=1):
        stages.append(_joined(blocks[start : end + 1]))
        heads.append(_head(f"exit{number}", shapes[end], classes))
    return MultiExit(stages, heads, input_shape=input_shape, classes=classes, input_zero=input_zero)


def mac_profile(blocks: Sequence[nn.Sequential], input_shape: tuple[int, int, int]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Return the multiplications per image of each block, and the shape of its result without the batch."""
    counts, shapes = [], []
    spent = 0

    def count(module: nn.Module, _: tuple, result: torch.Tensor) -> None:
        nonlocal spent
        spent += module.weight.numel() * math.prod(result.shape[2:])

    value = torch.zeros(1, *input_shape)
    with torch.no_grad():
        for block in blocks:
            training, spent = block.training, 0
            layers = [module for module in block.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
            hooks = [layer.register_forward_hook(count) for layer in layers]
            value = block.eval()(value)
            block.train(training)
            for hook in hooks:
                hook.remove()
            counts.append(spent)
            shapes.append(tuple(value.shape[1:]))
    return counts, shapes


def _joined(blocks: Sequence[nn.Sequential]) -> nn.Sequential:
    return named(**{name: module for block in blocks for name, module in block.named_children()})


def _head(name: str, shape: tuple[int, ...], classes: int) -> nn.Sequential:
    modules: dict[str, nn.Module] = {}
    if len(shape) == 3:
        pool = math.ceil(min(shape[1:]) / POOLED_SIDE)
        if pool > 1:
            modules[f"{name}_pool"] = nn.AvgPool2d(pool)
        modules[f"{name}_flatten"] = nn.Flatten()
        shape = (shape[0] * math.prod(side // pool for side in shape[1:]),)
    return named(**modules, **{f"{name}_fc": nn.Linear(shape[0], classes)})
