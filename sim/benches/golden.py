"""The golden model of the benches: tiles on the array as plain arithmetic, without time.

Words are uint16 as in ``hdl.layouts``: a weight register's code, ``invert`` (bit 8) and ``bypass`` (bit 9); stuck bits sa0, sa1.
"""

from __future__ import annotations

import numpy as np

from epsilon.accelerator import StuckBits, WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig

__all__ = ["AcceleratorModel", "ArrayModel", "TileCommand", "random_words"]

FLAGS = 0x300


class ArrayModel:
    """The registers of an array of PEs, unskewed; a processing element is an array of one.

    Parameters
    ----------
    config : ArrayConfig
    """

    def __init__(self, config: ArrayConfig) -> None:
        shape = (config.rows, config.cols)
        self._table = config.multiplier.table().astype(np.int32)
        self._loading, self._active, self._shifted_faults, self._faults = np.zeros((4, *shape), np.uint16)

    @property
    def seen(self) -> np.ndarray:
        """What the multipliers see, int8 (rows, cols)."""
        code = (self._active & 0xFF).astype(np.uint8).view(np.int8)
        stored = WeightWords(code, (self._active >> 8 & 1).astype(bool), (self._active >> 9 & 1).astype(bool))
        stuck = StuckBits((self._faults & 0xFF).astype(np.uint8), (self._faults >> 8).astype(np.uint8))
        return seen_by_multiplier(stored, stuck)

    def shift(self, words: np.ndarray, faults: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shift a row of words and of stuck bits in at the top; return those that leave at the bottom, uint16 (cols,)."""
        left = self._loading[-1].copy(), self._shifted_faults[-1].copy()
        self._loading = np.concatenate([words[None], self._loading[:-1]]).astype(np.uint16)
        self._shifted_faults = np.concatenate([faults[None], self._shifted_faults[:-1]]).astype(np.uint16)
        return left

    def swap(self, *, masks: bool) -> None:
        """Exchange the two registers; what was seen goes into the chain."""
        seen = self.seen.view(np.uint8) | self._active & FLAGS
        self._active, self._loading = self._loading, seen.astype(np.uint16)
        if masks:
            self._faults = self._shifted_faults.copy()

    def multiply(self, activations: np.ndarray) -> np.ndarray:
        """Return the partial sums of a vector, int32 (cols,), of int8 (rows,)."""
        products = self._table[activations.astype(int)[:, None] + 128, self.seen.astype(int) + 128]
        return products.sum(axis=0, dtype=np.int32)


class TileCommand(dict):
    """The fields of ``hdl.layouts.Command``, by name; what is not given is 0."""

    def __missing__(self, name: str) -> int | tuple[int, int, int]:
        return (0, 0, 0) if name == "quartiles" else 0


class AcceleratorModel:
    """What comes out of the accelerator's streams for the tiles that go in, in order.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    results : list of int32 (cols,)
    readback : list of uint16 (cols,)
    records : list of dict of int64 arrays, the fields of ``sim.program.records_of`` for one tile.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self._config = config
        self._array = ArrayModel(config)
        self._sums = np.zeros((config.accumulator_depth, config.cols), np.int32)
        # The commands of the tile in the active registers and of the one before it.
        self._running, self._leaving = TileCommand(), TileCommand()
        self.results: list[np.ndarray] = []
        self.readback: list[np.ndarray] = []
        self.records: list[dict[str, np.ndarray]] = []

    def tile(self, command: TileCommand, words: np.ndarray, faults: np.ndarray, vectors: np.ndarray) -> None:
        """Load a tile and run it.

        Parameters
        ----------
        words, faults : uint16 (rows, cols)
        vectors : int8 (vectors, rows)
        """
        bottom_first = slice(None, None, -1)
        rows = [self._array.shift(*row)[0] for row in zip(words[bottom_first], faults[bottom_first], strict=True)]
        if self._leaving["readback"]:
            self.readback += rows
        if self._leaving["signature"]:
            self.records.append(self._record(np.array(rows[bottom_first])))
        self._array.swap(masks=bool(command["masks"]))
        self._running, self._leaving = command, self._running
        for index, vector in enumerate(vectors):
            total = self._array.multiply(vector) + (0 if command["first"] else self._sums[index])
            if command["last"]:
                self.results.append(total)
            else:
                self._sums[index] = total

    def _record(self, words: np.ndarray) -> dict[str, np.ndarray]:
        """Return the record of a tile's words (rows, cols) as they left."""
        command = self._leaving
        codes = (words & 0xFF).astype(np.uint8).view(np.int8).astype(np.int64)
        counted = np.zeros(codes.shape, bool)
        counted[: command["rows"], : command["cols"]] = True
        return {
            "total": (codes * counted).sum(axis=0),
            "total_squares": (codes**2 * counted).sum(axis=0),
            "zeros": ((codes == 0) & counted).sum(axis=0),
            "at_most": np.stack([((codes <= q) & counted).sum(axis=0) for q in command["quartiles"]], axis=-1),
        }


def random_words(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return random weight words: a quarter of the codes 0 or extreme, a quarter of the words with flags."""
    codes = rng.integers(0, 256, shape)
    codes = np.where(rng.random(shape) < 0.25, rng.choice([0x00, 0x7F, 0x80, 0xFF], shape), codes)
    return (codes | np.where(rng.random(shape) < 0.25, rng.integers(0, 4, shape) << 8, 0)).astype(np.uint16)
