"""What the array adds where a layer has nothing: a multiplier need not give 0 for an activation of 0.

A circuit with a compensation constant, for example, adds it in every PE: in the rows that the last tile of a reduction leaves idle
(activation 0, weight word 0) and for the zeros around an image. The array's sums hold these products, so the emulator's do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch.nn import functional

from epsilon.config import ArrayConfig
from epsilon.faults import pes_of_weights
from epsilon.network import Convolution, WeightedLayer

if TYPE_CHECKING:
    import torch

    from epsilon.faults import FaultMap

__all__ = ["idle_sums", "padded"]


def idle_sums(layer: WeightedLayer, config: ArrayConfig, faults: FaultMap | None) -> np.ndarray | None:
    """Return what idle rows add to every output of a layer, int64 (N,); None where that is nothing.

    Their weight is 0 but for the stuck bits of their PE. Where stored weights have stuck bits of their own (``faults.has_storage``)
    the masks come with every tile, and those of idle rows are clear.
    """
    idle = slice(layer.matrix.shape[1] % config.rows or config.rows, config.rows)
    if config.multiplier.keeps_zero or idle.start == idle.stop:
        return None
    seen = np.zeros((config.rows, config.cols), np.uint8)
    if faults is not None and not faults.has_storage:
        _, seen = faults.array_masks(config.rows, config.cols)
    per_col = config.multiplier.multiply(np.int8(0), seen[idle].view(np.int8)).sum(axis=0, dtype=np.int64)
    _, col = pes_of_weights(layer, config)
    return per_col[col[:, 0]]


def padded(layer: WeightedLayer, activations: torch.Tensor) -> tuple[WeightedLayer, torch.Tensor]:
    """Return a convolution without padding, and its activations (batch, C, H, W) with the zeros around them as codes."""
    if not isinstance(layer, Convolution) or not any(layer.padding):
        return layer, activations
    pad_y, pad_x = layer.padding
    return replace(layer, padding=(0, 0)), functional.pad(activations, (pad_x, pad_x, pad_y, pad_y))
