"""What the hardware did, in integer counts: the events that cost energy."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

__all__ = ["EVENTS", "Events"]


@dataclass(frozen=True)
class Events:
    """Counts of events of the accelerator; every PE of the array takes part in each of them, for nothing in it is gated.

    What the host does between the layers (bias, requantisation, pooling, residual additions, the confidence of an exit), loading a
    network, and the fault masks (instrumentation) are not counted.

    Parameters
    ----------
    multiplications : int
        Of an activation by a weight of the layer.
    idle_multiplications : int
        In PEs that hold no weight of the layer, where a tile does not fill the array: one operand is 0.
    additions : int
        Of 32 bits: one in every PE and one in every accumulator for each vector of activations.
    activation_registers, psum_registers : int
        Registers (8 and 32 bits) that an activation or a partial sum was written to: in the PEs, before and behind them.
    weight_shifts : int
        Registers that a weight word was written to on its way through the scan chain: two per PE, and those at its ends.
    weight_swaps : int
        Weight words that became active; the word that was active takes their place in the chain.
    weight_reads, weight_writes : int
        Words read from the weight memory, and words in it that a repair changed.
    probe_words : int
        Words of the patterns of a probe (0x00, 0xFF), which come from no memory.
    activation_reads : int
        Bytes read from the activation memory.
    activation_writes : int
        Results of a layer, each written back once as the byte that it becomes.
    accumulator_reads, accumulator_writes : int
        Words of 32 bits.
    result_words, readback_words, record_words : int
        Words (32, 16 and 64 bits) that left on the result, readback and signature streams.
    signature_words : int
        Weights that the signature unit counted.

    What a tile's weights cause on their way out of the array is counted with the operation that loaded them.
    """

    multiplications: int = 0
    idle_multiplications: int = 0
    additions: int = 0
    activation_registers: int = 0
    psum_registers: int = 0
    weight_shifts: int = 0
    weight_swaps: int = 0
    weight_reads: int = 0
    weight_writes: int = 0
    probe_words: int = 0
    activation_reads: int = 0
    activation_writes: int = 0
    accumulator_reads: int = 0
    accumulator_writes: int = 0
    result_words: int = 0
    readback_words: int = 0
    record_words: int = 0
    signature_words: int = 0

    @property
    def _counts(self) -> tuple[int, ...]:
        return tuple(vars(self).values())  # dataclasses.astuple copies deeply

    def __add__(self, other: Events) -> Events:
        return _events(map(operator.add, self._counts, other._counts))

    def __sub__(self, other: Events) -> Events:
        return _events(map(operator.sub, self._counts, other._counts))

    def __mul__(self, times: int) -> Events:
        return _events(count * times for count in self._counts)

    def per(self, images: int) -> Events:
        """Return the share of each of ``images`` images, which all did the same.

        Raises
        ------
        ValueError
            When they cannot have: a count is no multiple of the images.
        """
        if images == 1:
            return self
        if any(count % images for count in self._counts):
            uneven = next(f"{count} {name}" for name, count in self.describe().items() if count % images)
            raise ValueError(f"{uneven} cannot be those of {images} images that did the same")
        return _events(count // images for count in self._counts)

    def describe(self) -> dict[str, int]:
        """Return the counts by name, plain JSON."""
        return dict(zip(EVENTS, self._counts, strict=True))

    def as_array(self) -> np.ndarray:
        """Return the counts in the order of ``EVENTS``, int64 (events,)."""
        return np.array(self._counts, dtype=np.int64)

    @classmethod
    def from_array(cls, counts: np.ndarray) -> Events:
        """Return the events of counts in the order of ``EVENTS``."""
        return cls(*map(int, counts))


def _events(counts: Iterable[int]) -> Events:
    """Return the events of counts in order, past the slow initialiser of a frozen class: this is done after every layer."""
    made = object.__new__(Events)
    vars(made).update(zip(EVENTS, counts, strict=True))
    return made


#: Names of the events, in order.
EVENTS = tuple(entry.name for entry in fields(Events))
