"""Packs a layer's weights for the fastest path that is exact where it is to run."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from epsilon.engine import native
from epsilon.engine.bounds import largest_sum, require_int32
from epsilon.engine.float_path import FloatPath
from epsilon.engine.native_path import NativePath
from epsilon.engine.operands import operands
from epsilon.engine.shapes import LayerShape
from epsilon.engine.table_path import TablePath
from epsilon.multipliers import Multiplier
from epsilon.network import WeightedLayer

__all__ = ["ENGINES", "PackedLayer", "pack", "require_engine"]

#: What may be asked for: the fastest that works, torch alone, or the kernels of one level.
ENGINES = ("auto", "torch", *native.LEVELS)


class PackedLayer(Protocol):
    """A layer's weights, ready to be multiplied."""

    def run(self, activations: torch.Tensor) -> torch.Tensor:
        """Return the int32 sums of int8 activations (batch, C, H, W) or (batch, K), without bias."""


def require_engine(engine: str) -> str:
    """Return the name of an engine; ValueError where it is none of ``ENGINES``."""
    if engine not in ENGINES:
        raise ValueError(f"The engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    return engine


def pack(
    layer: WeightedLayer, seen: np.ndarray, multiplier: Multiplier, device: torch.device, *, engine: str = "auto"
) -> PackedLayer:
    """Return a layer's packed weights.

    Parameters
    ----------
    layer : WeightedLayer
    seen : int8 (N, K)
        Its weights as the multipliers see them.
    multiplier : Multiplier
        With ``terms`` (None or empty where it is no sum of products of mapped operands) and ``table()``.
    device : torch.device
        Where it is to run.
    engine : str
        One of ``ENGINES``; compiled kernels run on the CPU only.

    Raises
    ------
    AccumulatorError
        When the layer's sums could leave 32 bits.
    ValueError
        For an unknown engine, or one that does not work here.
    """
    require_engine(engine)
    shape, terms, table = LayerShape.of(layer), operands(multiplier), multiplier.table()
    largest = largest_sum(seen, table)
    require_int32(layer.name, largest)
    library = None
    if engine in native.LEVELS:
        if device.type != "cpu":
            raise ValueError(f"The engine {engine} runs on the CPU, not on {device}")
        try:
            library = native.library(engine)
        except native.NativeError as error:
            raise ValueError(f"The engine {engine} does not work here: {error}") from None
    elif engine == "auto" and device.type == "cpu":
        library = native.best()
    if library is not None:
        return NativePath(shape, seen, terms, table, largest, library)
    if terms is None:
        return TablePath(shape, seen, table, device)
    return FloatPath(shape, seen, terms, device)
