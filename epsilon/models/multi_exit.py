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

    Stages and heads are plain sequences of convolution, BatchNorm, linear, pooling, ReLU and flatten modules, so that the
    quantisation can walk them. Module names become layer names and must differ throughout the network.

    Parameters
    ----------
    stages : sequence of nn.Sequential
        The backbone, in order.
    heads : sequence of nn.Sequential
        As many; ``heads[i]`` turns the result of ``stages[i]`` into logits, the last one is the final classifier.
    input_shape : (C, H, W)
    classes : int

    Raises
    ------
    ValueError
        When the numbers of stages and heads differ.
    """

    def __init__(
        self, stages: Sequence[nn.Sequential], heads: Sequence[nn.Sequential], *, input_shape: tuple[int, int, int], classes: int
    ) -> None:
        super().__init__()
        if len(stages) != len(heads) or not stages:
            raise ValueError(f"A multi-exit network needs one head per stage, not {len(heads)} heads for {len(stages)} stages")
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.input_shape = tuple(input_shape)
        self.classes = classes

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits of every exit, each (batch, classes).

        Parameters
        ----------
        images : float (batch, C, H, W)
            Pixels over 255, in [0, 1].
        """
        logits = []
        value = images
        for stage, head in zip(self.stages, self.heads, strict=True):
            value = stage(value)
            logits.append(head(value))
        return logits


def joint_loss(logits: Sequence[torch.Tensor], labels: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Return the weighted sum of the exits' cross entropies.

    The final exit counts 1; earlier ones less, down to 1/2 for the first, because the first stages serve all later exits.
    """
    last = max(1, len(logits) - 1)
    losses = [
        (0.5 + 0.5 * index / last) * nn.functional.cross_entropy(exit_logits, labels, label_smoothing=label_smoothing)
        for index, exit_logits in enumerate(logits)
    ]
    return torch.stack(losses).sum()
