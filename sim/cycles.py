"""The closed-form cycle model of the accelerator, equal to the RTL's own counter when no stream makes it wait.

While a tile runs its vectors, one per cycle, the next one shifts in, ``rows`` words and one cycle for the swap. So tiles follow
each other at the larger of the two, the first is preceded by its load, and the last is followed by the way through the array.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from epsilon.config import ArrayConfig
from sim.tiling import Gemm, tiles, weight_tiles

__all__ = ["FLUSH_TILES", "drain_cycles", "probe_cycles", "program_cycles", "read_cycles", "run_cycles", "scan_cycles"]

#: Tiles that follow a program to scan out its last two: one leaves the shift registers, one the active registers.
FLUSH_TILES = 2
#: Layers whose cycles are kept, so that no tile is counted twice.
REMEMBERED = 4096
#: Registers outside the array on the way from a command to the sink of its result.
PIPELINE_REGISTERS = 5


def drain_cycles(config: ArrayConfig) -> int:
    """Return the cycles from the last operation that enters the array until the accelerator is idle."""
    return config.rows + config.cols + PIPELINE_REGISTERS


def program_cycles(config: ArrayConfig, vectors: Iterable[int]) -> int:
    """Return the busy cycles of a program, given the vectors of each of its tiles (at least one tile)."""
    load = config.rows + 1
    vectors = list(vectors)
    return load + sum(max(m, load) for m in vectors[:-1]) + max(vectors[-1], 1) + drain_cycles(config)


@lru_cache(maxsize=REMEMBERED)
def run_cycles(config: ArrayConfig, gemm: Gemm) -> int:
    """Return the cycles of one image through one layer."""
    return program_cycles(config, (tile.vectors for tile in tiles(config, gemm)))


def scan_cycles(config: ArrayConfig) -> int:
    """Return the cycles that the last two tiles take to leave the array."""
    return program_cycles(config, [0] * FLUSH_TILES)


@lru_cache(maxsize=REMEMBERED)
def read_cycles(config: ArrayConfig, gemm: Gemm) -> int:
    """Return the cycles to load a layer's weights once and scan all of them out."""
    return program_cycles(config, [0] * (_weight_tile_count(config, gemm) + FLUSH_TILES))


@lru_cache(maxsize=REMEMBERED)
def probe_cycles(config: ArrayConfig, gemm: Gemm | None) -> int:
    """Return the cycles to load 0x00 and 0xFF and scan both out: for each tile of a layer, or (None) for the array once."""
    patterns = 2 * (1 if gemm is None else _weight_tile_count(config, gemm))
    return program_cycles(config, [0] * (patterns + FLUSH_TILES))


def _weight_tile_count(config: ArrayConfig, gemm: Gemm) -> int:
    return sum(1 for _ in weight_tiles(config, gemm))
