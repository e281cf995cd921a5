"""The form of a multi-exit network: a chain of stages, each followed by a classifier of its own.

Ref: Y. Kaya, S. Hong, T. Dumitras, "Shallow-Deep Networks: Understanding and Mitigating Network Overthinking", ICML 2019:
internal classifiers of a pooling and one linear layer, trained jointly with the final one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["MultiExit", "joint_loss"]


class MultiExit(nn.Module):
    """A network with one exit after each stage.

    Stages and heads are plain sequences of convolution, BatchNorm, linear, pooling, padding, ReLU, flatten and ``Residual``
    modules, so that the quantisation can walk them. Module names become layer names and must differ throughout the network.

    Parameters
    ----------
    stages : sequence of nn.Sequential
        The backbone, in order.
    heads : sequence of nn.Sequential
        As many; ``heads[i]`` turns the result of ``stages[i]`` into logits, the last one is the final classifier.
    input_shape : (C, H, W)
    classes : int
    input_zero : int
        The 8-bit pixel value that is 0 for the network, 0..254: 0 for white strokes on black, 128 for photographs.

    Raises
    ------
    ValueError
        When the numbers of stages and heads differ, or the zero is no such pixel value.
    """

    def __init__(
        self,
        stages: Sequence[nn.Sequential],
        heads: Sequence[nn.Sequential],
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        input_zero: int = 0,
    ) -> None:
        super().__init__()
        if len(stages) != len(heads) or not stages:
            raise ValueError(f"A multi-exit network needs one head per stage, not {len(heads)} heads for {len(stages)} stages")
        if not 0 <= input_zero <= 254:
            raise ValueError(f"The pixel value that stands for zero must lie in 0..254, not {input_zero}")
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.input_shape = tuple(input_shape)
        self.classes = classes
        self.input_zero = input_zero

    def real(self, brightness: torch.Tensor) -> torch.Tensor:
        """Return what the network takes for pixel values over 255: the same where ``input_zero`` is 0; 255 is always 1."""
        zero = self.input_zero / 255
        return (brightness - zero) / (1 - zero)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits of every exit, each (batch, classes).

        Parameters
        ----------
        images : float (batch, C, H, W)
            As ``real`` makes them of pixel values.
        """
        logits = []
        value = images
        for stage, head in zip(self.stages, self.heads, strict=True):
            value = stage(value)
            logits.append(head(value))
        return logits


def joint_loss(
    logits: Sequence[torch.Tensor], targets: torch.Tensor, *, label_smoothing: float = 0.0, first_weight: float = 0.5
) -> torch.Tensor:
    """Return the weighted sum of the exits' cross entropies.

    The final exit counts 1; earlier ones less, down to ``first_weight`` for the first, because the first stages serve all later
    exits. ``targets`` are labels, int64 (batch,), or probabilities, float (batch, classes).
    """
    last = max(1, len(logits) - 1)
    losses = [
        (first_weight + (1 - first_weight) * index / last)
        * nn.functional.cross_entropy(exit_logits, targets, label_smoothing=label_smoothing)
        for index, exit_logits in enumerate(logits)
    ]
    return torch.stack(losses).sum()
