"""The events of accelerator operations: in closed form by the cycle model, and from the beats that crossed the streams.

Both sides count *beats* in their own way; what a beat does inside the array (``events_of``) is the same for both, and follows from
the registers of ``hdl``.
"""

from __future__ import annotations

from dataclasses import dataclass

from epsilon.config import ArrayConfig
from epsilon.energy import Events
from sim.cycles import FLUSH_TILES
from sim.tiling import Gemm

__all__ = ["Activity", "events_of", "load_activity", "probe_activity", "run_activity", "scan_activity"]


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What crossed the streams for one operation.

    Parameters
    ----------
    tiles : int
        Tiles that were loaded and swapped in: commands.
    weight_beats : int
        Beats of the weight stream.
    pattern_beats, filler_beats : int
        Those of them that came from no memory: patterns of a probe, and zeros that push the last tiles out.
    vectors : int
        Beats of the activation stream.
    products : int
        Over all vectors, the PEs that held a weight of the layer.
    result_beats : int
        Vectors whose sums left; those of the others stayed in the accumulators.
    results : int
        Sums of a layer among the words of those beats.
    readback_beats, record_beats : int
        Beats of the readback and signature streams, now or when a later operation pushes the tiles out.
    signature_words : int
        Weights of a layer in the tiles of those records.
    """

    tiles: int
    weight_beats: int
    pattern_beats: int = 0
    filler_beats: int = 0
    vectors: int = 0
    products: int = 0
    result_beats: int = 0
    results: int = 0
    readback_beats: int = 0
    record_beats: int = 0
    signature_words: int = 0


def events_of(config: ArrayConfig, activity: Activity) -> Events:
    """Return the events in an array that the beats of an operation cause."""
    rows, cols = config.rows, config.cols
    vectors, pes = activity.vectors, config.pes
    row_skew, col_skew = rows * (rows - 1) // 2, cols * (cols - 1) // 2
    return Events(
        multiplications=activity.products,
        idle_multiplications=vectors * pes - activity.products,
        additions=vectors * (pes + cols),
        # One register before the array, the skew of the rows, one per PE.
        activation_registers=vectors * (rows + row_skew + pes),
        # One per PE, the skew of the columns, one before the accumulators.
        psum_registers=vectors * (pes + col_skew + cols),
        # One register before the array, the skew on the way in and on the way out, shift and link register of each PE.
        weight_shifts=activity.weight_beats * (cols + 2 * col_skew + 2 * pes),
        weight_swaps=activity.tiles * pes,
        weight_reads=(activity.weight_beats - activity.pattern_beats - activity.filler_beats) * cols,
        probe_words=activity.pattern_beats * cols,
        activation_reads=vectors * rows,
        activation_writes=activity.results,
        # The memory is read for every vector; the first tile of a reduction drops what it read.
        accumulator_reads=vectors * cols,
        accumulator_writes=(vectors - activity.result_beats) * cols,
        result_words=activity.result_beats * cols,
        readback_words=activity.readback_beats * cols,
        record_words=activity.record_beats * cols,
        signature_words=activity.signature_words,
    )


def run_activity(config: ArrayConfig, gemm: Gemm) -> Activity:
    """Return the activity of one image through one layer."""
    row_tiles, weight_tiles = _tile_counts(config, gemm)
    tiles = weight_tiles * -(-gemm.vectors // config.accumulator_depth)
    vectors = weight_tiles * gemm.vectors
    return Activity(
        tiles=tiles,
        weight_beats=tiles * config.rows,
        vectors=vectors,
        products=gemm.macs,
        result_beats=vectors // row_tiles,
        results=gemm.groups * gemm.outputs * gemm.vectors,
        # However often a layer's weights are loaded for an image, they are counted once.
        record_beats=weight_tiles,
        signature_words=_weights(gemm),
    )


def scan_activity(config: ArrayConfig) -> Activity:
    """Return the activity of pushing the last two tiles out."""
    beats = FLUSH_TILES * config.rows
    return Activity(tiles=FLUSH_TILES, weight_beats=beats, filler_beats=beats)


def load_activity(config: ArrayConfig, gemm: Gemm, *, readback: bool) -> Activity:
    """Return the activity of loading a layer's weights once and scanning all of them out, with their words or without."""
    _, tiles = _tile_counts(config, gemm)
    filler = FLUSH_TILES * config.rows
    return Activity(
        tiles=tiles + FLUSH_TILES,
        weight_beats=tiles * config.rows + filler,
        filler_beats=filler,
        readback_beats=tiles * config.rows if readback else 0,
        record_beats=tiles,
        signature_words=_weights(gemm),
    )


def probe_activity(config: ArrayConfig, gemm: Gemm | None) -> Activity:
    """Return the activity of loading 0x00 and 0xFF and reading both: for each tile of a layer, or (None) for the array once."""
    patterns = 2 * (1 if gemm is None else _tile_counts(config, gemm)[1])
    beats, filler = patterns * config.rows, FLUSH_TILES * config.rows
    return Activity(
        tiles=patterns + FLUSH_TILES,
        weight_beats=beats + filler,
        pattern_beats=beats,
        filler_beats=filler,
        readback_beats=beats,
    )


def _tile_counts(config: ArrayConfig, gemm: Gemm) -> tuple[int, int]:
    """Return the tiles of the reduction, and all tiles of a layer's weights."""
    row_tiles = -(-gemm.reduction // config.rows)
    return row_tiles, gemm.groups * -(-gemm.outputs // config.cols) * row_tiles


def _weights(gemm: Gemm) -> int:
    return gemm.groups * gemm.outputs * gemm.reduction
