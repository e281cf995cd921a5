"""Programs: what goes into the accelerator's streams for one operation, and what comes out, as arrays of beats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from amaranth.lib import data

from epsilon.accelerator import StuckBits, WeightWords
from epsilon.config import ArrayConfig
from hdl.layouts import Command, ScanRecord
from hdl.verilog import port_widths
from sim.tiling import Gemm

__all__ = [
    "Program",
    "Run",
    "activation_beats",
    "activation_chunks",
    "beat_bytes",
    "command_beats",
    "command_fields",
    "fault_beats",
    "join_accumulators",
    "records_of",
    "split_matrix",
    "weight_beats",
]


@dataclass(frozen=True, eq=False)
class Program:
    """The beats of every input stream, each uint8 (beats, bytes per beat), and how many output beats to expect in all.

    ``activations`` holds those of all images, one image after another; the other streams are repeated for every image.
    """

    commands: np.ndarray
    weights: np.ndarray
    activations: np.ndarray
    faults: np.ndarray
    results: int
    readback: int
    signatures: int
    images: int = 1


@dataclass(frozen=True, eq=False)
class Run:
    """The beats of every output stream, uint8 (beats, bytes per beat), and the cycles.

    ``accepted`` beats that the accelerator took from each input stream, all images together.
    """

    results: np.ndarray
    readback: np.ndarray
    signatures: np.ndarray
    busy_cycles: int
    clock_cycles: int
    accepted: dict[str, int]


def beat_bytes(config: ArrayConfig) -> dict[str, int]:
    """Return the bytes of a beat of every stream; also of ``faults`` where the accelerator has no such stream."""
    sizes = {name: (width + 7) // 8 for name, width in port_widths(config).items()}
    return {"faults": 2 * config.cols, **sizes}


def command_beats(**fields: np.ndarray | int) -> np.ndarray:
    """Return commands as beats, uint8 (tiles, 8); every field of ``hdl.layouts.Command`` an int or an array (tiles,)."""
    layout = Command.as_shape()
    size = max(np.size(value) for name, value in fields.items() if name != "quartiles")
    words = np.zeros(size, dtype=np.uint64)
    for name, value in fields.items():
        if name == "quartiles":
            value = sum(int(code) % 256 << 8 * index for index, code in enumerate(value))
        words |= np.asarray(value, dtype=np.uint64) << np.uint64(layout[name].offset)
    return words.astype("<u8").view(np.uint8).reshape(size, 8)


def command_fields(beats: np.ndarray) -> dict[str, np.ndarray]:
    """Return the fields of command beats, each int64 (tiles,), without the quartiles: the inverse of ``command_beats``."""
    words = np.ascontiguousarray(beats).view("<u8")[:, 0]
    layout = Command.as_shape()
    return {
        name: ((words >> np.uint64(field.offset)) & np.uint64((1 << field.width) - 1)).astype(np.int64)
        for name, field in layout
        if name not in ("quartiles", "reserved")
    }


def split_matrix(config: ArrayConfig, gemm: Gemm, matrix: np.ndarray) -> np.ndarray:
    """Return a layer's (N, K) matrix as tiles (tiles, rows, cols), in the order of ``sim.tiling.weight_tiles``, zero padded."""
    rows, cols = config.rows, config.cols
    row_tiles, col_tiles = -(-gemm.reduction // rows), -(-gemm.outputs // cols)
    padded = np.zeros((gemm.groups, col_tiles * cols, row_tiles * rows), dtype=matrix.dtype)
    padded[:, : gemm.outputs, : gemm.reduction] = matrix.reshape(gemm.groups, gemm.outputs, gemm.reduction)
    split = padded.reshape(gemm.groups, col_tiles, cols, row_tiles, rows)
    return split.transpose(0, 1, 3, 4, 2).reshape(-1, rows, cols)


def join_matrix(config: ArrayConfig, gemm: Gemm, tiles: np.ndarray) -> np.ndarray:
    """Return the (N, K) matrix of tiles (tiles, rows, cols): the inverse of ``split_matrix``."""
    rows, cols = config.rows, config.cols
    row_tiles, col_tiles = -(-gemm.reduction // rows), -(-gemm.outputs // cols)
    split = tiles.reshape(gemm.groups, col_tiles, row_tiles, rows, cols).transpose(0, 1, 4, 2, 3)
    padded = split.reshape(gemm.groups, col_tiles * cols, row_tiles * rows)
    return padded[:, : gemm.outputs, : gemm.reduction].reshape(gemm.groups * gemm.outputs, gemm.reduction)


def tile_beats(words: np.ndarray) -> np.ndarray:
    """Return uint16 words (tiles, rows, cols) as beats, uint8 (tiles * rows, 2 * cols), bottom row first."""
    tiles, rows, cols = words.shape
    return np.ascontiguousarray(words[:, ::-1]).astype("<u2").view(np.uint8).reshape(tiles * rows, 2 * cols)


def beats_to_tiles(config: ArrayConfig, beats: np.ndarray) -> np.ndarray:
    """Return the uint16 words (tiles, rows, cols) of beats: the inverse of ``tile_beats``."""
    return beats.view("<u2").reshape(-1, config.rows, config.cols)[:, ::-1]


def weight_beats(config: ArrayConfig, gemm: Gemm, words: WeightWords) -> np.ndarray:
    """Return a layer's weight memory as beats of the weight stream."""
    packed = words.code.view(np.uint8).astype(np.uint16) | words.invert.astype(np.uint16) << 8 | words.bypass.astype(np.uint16) << 9
    return tile_beats(split_matrix(config, gemm, packed))


def fault_beats(config: ArrayConfig, gemm: Gemm, stuck: StuckBits) -> np.ndarray:
    """Return the stuck bits of a layer's weights as beats of the fault stream."""
    return tile_beats(split_matrix(config, gemm, stuck.sa0.astype(np.uint16) | stuck.sa1.astype(np.uint16) << 8))


def activation_chunks(config: ArrayConfig, gemm: Gemm, vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the activations of every chunk of vectors as its tiles take them.

    Parameters
    ----------
    vectors : int8 (batch, groups, M, K)

    Yields
    ------
    int8 (batch, groups, tiles of the outputs, tiles of the reduction, vectors, rows), in the order of ``sim.tiling.tiles``.
    """
    batch, rows = len(vectors), config.rows
    row_tiles, col_tiles = -(-gemm.reduction // rows), -(-gemm.outputs // config.cols)
    padded = np.zeros((batch, gemm.groups, gemm.vectors, row_tiles * rows), dtype=np.int8)
    padded[..., : gemm.reduction] = vectors
    split = padded.reshape(batch, gemm.groups, gemm.vectors, row_tiles, rows).transpose(0, 1, 3, 2, 4)
    for m0 in range(0, gemm.vectors, config.accumulator_depth):
        chunk = split[:, :, None, :, m0 : m0 + config.accumulator_depth]
        yield np.broadcast_to(chunk, (batch, gemm.groups, col_tiles, *chunk.shape[3:]))


def activation_beats(config: ArrayConfig, gemm: Gemm, vectors: np.ndarray) -> np.ndarray:
    """Return activation vectors, int8 (batch, groups, M, K), as beats, uint8 (batch * beats, rows), image after image."""
    chunks = [chunk.reshape(len(vectors), -1, config.rows) for chunk in activation_chunks(config, gemm, vectors)]
    return np.concatenate(chunks, axis=1).reshape(-1, config.rows).view(np.uint8)


def join_accumulators(config: ArrayConfig, gemm: Gemm, results: np.ndarray, batch: int) -> np.ndarray:
    """Return the accumulators of a layer, int32 (batch, N, M), from the beats of the result stream."""
    col_tiles = -(-gemm.outputs // config.cols)
    beats = results.view("<i4").reshape(batch, -1, config.cols)
    chunks, at = [], 0
    for m0 in range(0, gemm.vectors, config.accumulator_depth):
        m = min(config.accumulator_depth, gemm.vectors - m0)
        length = gemm.groups * col_tiles * m
        chunk = beats[:, at : at + length].reshape(batch, gemm.groups, col_tiles, m, config.cols)
        chunks.append(chunk.transpose(0, 1, 2, 4, 3).reshape(batch, gemm.groups, -1, m)[:, :, : gemm.outputs])
        at += length
    return np.concatenate(chunks, axis=3).reshape(batch, gemm.groups * gemm.outputs, gemm.vectors)


def records_of(config: ArrayConfig, beats: np.ndarray) -> dict[str, np.ndarray]:
    """Return the fields of the signature stream's records, each int64 (tiles, cols), ``at_most`` (tiles, cols, 3)."""
    words = beats.view("<u8").reshape(-1, config.cols)
    layout = ScanRecord.as_shape()

    def field(offset: int, width: int) -> np.ndarray:
        return ((words >> np.uint64(offset)) & np.uint64((1 << width) - 1)).astype(np.int64)

    def whole(name: str) -> np.ndarray:
        return field(layout[name].offset, layout[name].width)

    total = whole("total")
    sign = 1 << layout["total"].width - 1
    at_most: data.ArrayLayout = layout["at_most"].shape
    counts = [field(layout["at_most"].offset + i * at_most.elem_shape, at_most.elem_shape) for i in range(at_most.length)]
    return {
        "total": (total ^ sign) - sign,
        "total_squares": whole("squares"),
        "zeros": whole("zeros"),
        "at_most": np.stack(counts, axis=-1),
    }
