"""The accelerator in torch: the integers of the hardware at the speed of ordinary convolutions (``epsilon.engine``)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from epsilon.accelerator import Counters, ScanRecords, StuckBits, WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from epsilon.engine.packing import PackedLayer, pack, require_engine
from epsilon.idle_rows import idle_sums, padded
from epsilon.network import QuantizedNetwork, WeightedLayer
from epsilon.signatures import count_records, golden_quartiles, golden_records
from epsilon.weight_memory import WeightMemory, require_activations

if TYPE_CHECKING:
    from epsilon.faults import FaultMap

__all__ = ["Emulator"]


class Emulator:
    """Implements ``Accelerator`` exactly, in torch.

    Parameters
    ----------
    config : ArrayConfig
        The accelerator that is emulated; its size decides where array faults strike and how many cycles a layer takes.
    device : str or torch.device
        Where the products are computed. Results are on the device of the activations.
    engine : str
        ``auto``: compiled kernels on the CPU where they work, else torch; ``torch``, or the name of a level of
        ``epsilon.engine.native``. All give the same integers.
    """

    def __init__(self, config: ArrayConfig, device: str | torch.device = "cpu", *, engine: str = "auto") -> None:
        from sim.ledger import CycleLedger  # the cycle model imports this package

        self.config = config
        self.device = torch.device(device)
        self.engine = require_engine(engine)
        self._memory = WeightMemory(config)
        self._derived: dict[str, _Derived] = {}
        self._ledger = CycleLedger(config)

    @property
    def network(self) -> QuantizedNetwork:
        """The network in the weight memory."""
        return self._memory.network

    def load(self, network: QuantizedNetwork) -> None:
        """Write the network's weights into the weight memory, flags clear; faults stay."""
        self._memory.load(network)
        self._derived.clear()
        self._ledger.load(network)

    def set_faults(self, faults: FaultMap | None) -> None:
        """Make these the stuck bits of the weight registers (None: no fault)."""
        self._memory.set_faults(faults)
        self._derived.clear()
        self._ledger.faults_changed()

    def run_layer(self, layer: str, activations: torch.Tensor) -> torch.Tensor:
        """Return the accumulators of a layer, int32, without bias; see ``Accelerator.run_layer``."""
        sums = self.multiply(layer, activations)
        self.count_run(layer, tuple(activations.shape[1:]), activations.shape[0])
        return sums

    def count_run(self, layer: str, input_shape: tuple[int, ...], batch: int) -> None:
        """Count a batch through a layer, ``input_shape`` each, whose sums are known already."""
        self._ledger.run(layer, input_shape, batch)

    def multiply(self, layer: str, activations: torch.Tensor) -> torch.Tensor:
        """Return what ``run_layer`` does, counting nothing."""
        derived = self._of(layer)
        require_activations(derived.layer, activations)
        node, inputs = derived.layer, activations.to(self.device)
        if not self.config.multiplier.keeps_zero:
            node, inputs = padded(node, inputs)
        if derived.packed is None:
            derived.packed = pack(node, derived.seen, self.config.multiplier, self.device, engine=self.engine)
        sums = derived.packed.run(inputs).to(activations.device)
        if derived.idle is not None:
            idle = torch.from_numpy(derived.idle.astype(np.int32)).to(sums.device)
            sums += idle.reshape(1, -1, *(1,) * (sums.dim() - 2))
        return sums

    def seen(self, layer: str) -> np.ndarray:
        """Return what ``read_weights`` does, counting nothing, read-only."""
        return self._of(layer).seen

    def words(self, layer: str) -> WeightWords:
        """Return the layer's words in the weight memory, read-only."""
        return self._memory.words(layer)

    def digest(self, layer: str) -> bytes:
        """Return a hash of all that decides a layer's sums: equal for equal weights as the multipliers see them."""
        return self._of(layer).digest

    def read_records(self) -> dict[str, ScanRecords]:
        """Return what the signature unit counts of every layer's weights as they are now."""
        self._ledger.scan()
        return {layer.name: self._of(layer.name).records for layer in self.network.weighted}

    def read_weights(self, layer: str) -> np.ndarray:
        """Return the layer's weights as the multipliers see them, int8 (N, K)."""
        seen = self._of(layer).seen.copy()
        self._ledger.read(layer)
        return seen

    def probe(self, layer: str) -> StuckBits:
        """Return the stuck bits under each weight of the layer."""
        shape = self._memory.layer(layer).matrix.shape
        stuck = self._memory.stuck(layer)
        self._ledger.probe(layer, self._memory.stuck_per_weight)
        if stuck is None:
            return StuckBits(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
        return StuckBits(stuck.sa0.copy(), stuck.sa1.copy())

    def write_weights(self, layer: str, words: WeightWords) -> None:
        """Replace the layer's words in the weight memory."""
        changed = self._memory.write(layer, words)
        self._derived.pop(layer, None)
        self._ledger.written(layer, changed)

    def counters(self) -> Counters:
        """Return the cycles spent, and the events, since the last reset, by the cycle model."""
        return self._ledger.counters

    def reset_counters(self) -> None:
        """Set all counters to zero."""
        self._ledger.reset()

    def _of(self, name: str) -> _Derived:
        if name not in self._derived:
            layer = self._memory.layer(name)
            seen = seen_by_multiplier(self._memory.words(name), self._memory.stuck(name))
            seen.flags.writeable = False
            self._derived[name] = _Derived(layer, seen, idle_sums(layer, self.config, self._memory.faults))
        return self._derived[name]


@dataclass(eq=False)
class _Derived:
    """What follows from a layer's words and faults, until either changes."""

    layer: WeightedLayer
    seen: np.ndarray
    idle: np.ndarray | None
    packed: PackedLayer | None = None

    @cached_property
    def records(self) -> ScanRecords:
        if np.array_equal(self.seen, self.layer.matrix):
            return golden_records(self.layer)
        return count_records(self.seen, golden_quartiles(self.layer))

    @cached_property
    def digest(self) -> bytes:
        found = hashlib.blake2b(self.seen.tobytes(), digest_size=16)
        if self.idle is not None:
            found.update(self.idle.tobytes())
        return found.digest()
