"""The one interface between the controller and whatever executes the network: emulator, simulated RTL, board.

A layer's weights live in the accelerator's weight memory as words: an int8 code and two flags. What the multiplier sees is
``bypass ? 0 : ((code & ~sa0) | sa1) ^ (invert ? 0xFF : 0)``, with the stuck bits of the register that holds the weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from epsilon.config import ArrayConfig
from epsilon.energy import Events
from epsilon.network import QuantizedNetwork

if TYPE_CHECKING:
    import torch

    from epsilon.faults import FaultMap

__all__ = ["Accelerator", "Counters", "ScanRecords", "StuckBits", "WeightWords", "seen_by_multiplier"]


@dataclass(frozen=True, eq=False)
class WeightWords:
    """The weight memory of one layer: ``code`` int8, ``invert`` and ``bypass`` bool, all (N, K)."""

    code: np.ndarray
    invert: np.ndarray
    bypass: np.ndarray

    @classmethod
    def plain(cls, code: np.ndarray) -> WeightWords:
        """Return words with no flag set."""
        none = np.zeros(code.shape, dtype=bool)
        return cls(np.ascontiguousarray(code, dtype=np.int8), none, none)

    def differing(self, other: WeightWords) -> int:
        """Return how many words differ."""
        return int(np.count_nonzero((self.code != other.code) | (self.invert != other.invert) | (self.bypass != other.bypass)))


@dataclass(frozen=True, eq=False)
class StuckBits:
    """Stuck bits of each weight of a layer: ``sa0`` and ``sa1``, uint8 (N, K), a set bit is stuck."""

    sa0: np.ndarray
    sa1: np.ndarray


@dataclass(frozen=True, eq=False)
class ScanRecords:
    """What the signature unit counted while a layer's weights were scanned out, per output channel, each int64 (N,).

    ``count`` words, ``total`` sum, ``total_squares`` sum of squares, ``zeros`` zero codes; ``at_most`` int64 (N, 3): codes not
    above each of the layer's golden quartiles.
    """

    count: np.ndarray
    total: np.ndarray
    total_squares: np.ndarray
    zeros: np.ndarray
    at_most: np.ndarray


@dataclass(frozen=True)
class Counters:
    """Cycles since the last reset, by what they were spent on, and the events of the hardware in them."""

    run: int = 0
    scan: int = 0
    probe: int = 0
    events: Events = field(default_factory=Events)

    @property
    def total(self) -> int:
        return self.run + self.scan + self.probe


def seen_by_multiplier(words: WeightWords, stuck: StuckBits | None) -> np.ndarray:
    """Return the codes that the multipliers see, int8 (N, K): the golden definition of a faulty weight register."""
    code = words.code.view(np.uint8)
    if stuck is not None:
        code = (code & ~stuck.sa0) | stuck.sa1
    code = np.where(words.invert, code ^ np.uint8(0xFF), code)
    return np.where(words.bypass, np.uint8(0), code).view(np.int8)


class Accelerator(Protocol):
    """Runs the weighted layers of one network; everything that the controller may use.

    Layers are named; activations and accumulators are torch tensors, weights numpy arrays in matrix form (N, K).
    """

    config: ArrayConfig
    network: QuantizedNetwork

    def load(self, network: QuantizedNetwork) -> None:
        """Write the network's weights into the weight memory, flags clear; faults stay."""

    def set_faults(self, faults: FaultMap | None) -> None:
        """Make these the stuck bits of the weight registers (None: no fault). Instrumentation: counts no cycles."""

    def run_layer(self, layer: str, activations: torch.Tensor) -> torch.Tensor:
        """Return the accumulators of a layer, int32, without bias.

        Parameters
        ----------
        activations : int8 (batch, C, H, W) for a convolution, (batch, K) for a linear layer.

        Returns
        -------
        int32 (batch, N, OH, OW) or (batch, N). Images run one after another: each loads the weights anew.
        """

    def read_records(self) -> dict[str, ScanRecords]:
        """Return what the signature unit counted of every layer's weights as they are now.

        The records of a tile come out while later tiles are loaded, so only the last two have to be flushed (counted as scan
        cycles); a layer that has not run since its weights or faults changed is loaded once for the purpose.
        """

    def read_weights(self, layer: str) -> np.ndarray:
        """Return the layer's weights as the multipliers see them, int8 (N, K), read back through the scan chain."""

    def probe(self, layer: str) -> StuckBits:
        """Return the stuck bits under each weight of the layer, found by loading 0x00 and 0xFF."""

    def write_weights(self, layer: str, words: WeightWords) -> None:
        """Replace the layer's words in the weight memory."""

    def counters(self) -> Counters:
        """Return the cycles spent, and the events, since the last reset."""

    def reset_counters(self) -> None:
        """Set all counters to zero."""
