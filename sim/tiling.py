"""How a layer becomes tiles of the array: the matrix product behind it, and the order in which its tiles run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from epsilon.config import ArrayConfig
from epsilon.network import Convolution, WeightedLayer

__all__ = ["Gemm", "Tile", "gemm_of", "tiles", "weight_tiles"]


@dataclass(frozen=True)
class Gemm:
    """The matrix products of one layer for one image: per group, (vectors, reduction) by (reduction, outputs)."""

    groups: int
    outputs: int
    reduction: int
    vectors: int

    @property
    def macs(self) -> int:
        """Multiplications of one image."""
        return self.groups * self.outputs * self.reduction * self.vectors


@dataclass(frozen=True)
class Tile:
    """One load of the array: weights [n0:n1, k0:k1] of a group, run on the activation vectors [m0:m1]."""

    group: int
    n0: int
    n1: int
    k0: int
    k1: int
    m0: int
    m1: int
    first: bool
    last: bool

    @property
    def vectors(self) -> int:
        return self.m1 - self.m0


def gemm_of(layer: WeightedLayer, input_shape: tuple[int, ...]) -> Gemm:
    """Return the matrix product of a layer for one image.

    Parameters
    ----------
    input_shape : (C, H, W) for a convolution, (K,) for a linear layer.
    """
    outputs, reduction = layer.matrix.shape
    if not isinstance(layer, Convolution):
        return Gemm(1, outputs, reduction, 1)
    _, height, width = input_shape
    vectors = 1
    for size, pad, kernel, stride in zip((height, width), layer.padding, layer.weight.shape[2:], layer.stride, strict=True):
        vectors *= (size + 2 * pad - kernel) // stride + 1
    return Gemm(layer.groups, outputs // layer.groups, reduction, vectors)


def tiles(config: ArrayConfig, gemm: Gemm) -> Iterator[Tile]:
    """Yield the tiles of one image in execution order: chunk of vectors, group, output tile, reduction tile."""
    for m0 in range(0, gemm.vectors, config.accumulator_depth):
        m1 = min(m0 + config.accumulator_depth, gemm.vectors)
        yield from _tiles_of_chunk(config, gemm, m0, m1)


def weight_tiles(config: ArrayConfig, gemm: Gemm) -> Iterator[Tile]:
    """Yield each tile of the weights once, without vectors: a pass that only loads."""
    yield from _tiles_of_chunk(config, gemm, 0, 0)


def _tiles_of_chunk(config: ArrayConfig, gemm: Gemm, m0: int, m1: int) -> Iterator[Tile]:
    for group in range(gemm.groups):
        for n0 in range(0, gemm.outputs, config.cols):
            n1 = min(n0 + config.cols, gemm.outputs)
            for k0 in range(0, gemm.reduction, config.rows):
                k1 = min(k0 + config.rows, gemm.reduction)
                yield Tile(group, n0, n1, k0, k1, m0, m1, first=k0 == 0, last=k1 == gemm.reduction)
