"""Accounting of cycles over a sequence of accelerator operations, by the cycle model.

The emulator reports these; the simulated accelerator does the same operations and counts them itself, and both must agree.
"""

from __future__ import annotations

from dataclasses import replace

from epsilon.accelerator import Counters
from epsilon.config import ArrayConfig
from epsilon.network import QuantizedNetwork
from sim import cycles
from sim.tiling import Gemm, gemm_of

__all__ = ["CycleLedger", "ScanState"]


class ScanState:
    """Which records and probe results are still valid; the same rules for every accelerator.

    A layer's records are fresh when its weights went through the array since they, or the faults, last changed. The stuck bits of
    the array's registers are probed once per check (a check begins with reading the records).
    """

    def __init__(self) -> None:
        self._fresh: dict[str, bool] = {}
        self.array_probed = False

    def load(self, network: QuantizedNetwork) -> None:
        self._fresh = {layer.name: False for layer in network.weighted}

    @property
    def stale(self) -> list[str]:
        """Layers whose records have to be made by loading them once."""
        return [name for name, fresh in self._fresh.items() if not fresh]

    def passed_through(self, layer: str) -> None:
        """Note that the layer's present weights went through the array."""
        self._fresh[layer] = True

    def written(self, layer: str) -> None:
        self._fresh[layer] = False

    def faults_changed(self) -> None:
        self._fresh = dict.fromkeys(self._fresh, False)
        self.array_probed = False

    def checked(self) -> None:
        self._fresh = dict.fromkeys(self._fresh, True)
        self.array_probed = False


class CycleLedger:
    """Count the cycles of accelerator operations; see ``epsilon.accelerator.Accelerator`` for what each one is."""

    def __init__(self, config: ArrayConfig) -> None:
        self._config = config
        self._network: QuantizedNetwork | None = None
        self._weights_of: dict[str, Gemm] = {}
        self._run_cycles: dict[tuple[str, tuple[int, ...]], int] = {}
        self._state = ScanState()
        self.counters = Counters()

    def load(self, network: QuantizedNetwork) -> None:
        self._network = network
        self._run_cycles.clear()
        # A pass that only loads does not depend on the image's size; a 1x1 output stands for it.
        self._weights_of = {}
        for layer in network.weighted:
            groups = getattr(layer, "groups", 1)
            outputs, reduction = layer.matrix.shape
            self._weights_of[layer.name] = Gemm(groups, outputs // groups, reduction, 1)
        self._state.load(network)

    def reset(self) -> None:
        self.counters = Counters()

    def run(self, layer: str, input_shape: tuple[int, ...], batch: int) -> None:
        """Count ``batch`` images, one after another, through a layer; ``input_shape`` is that of one image."""
        if batch == 0:
            return  # no weights went through the array
        key = (layer, tuple(input_shape))
        if key not in self._run_cycles:
            self._run_cycles[key] = cycles.run_cycles(self._config, gemm_of(self._network[layer], input_shape))
        self._state.passed_through(layer)
        self.counters = replace(self.counters, run=self.counters.run + batch * self._run_cycles[key])

    def scan(self) -> None:
        """Count one reading of all records."""
        spent = sum(cycles.read_cycles(self._config, self._weights_of[name]) for name in self._state.stale)
        # The flush comes last, for the layers that ran; a loading pass has its own.
        self._state.checked()
        self._add_scan(spent + cycles.scan_cycles(self._config))

    def read(self, layer: str) -> None:
        """Count reading a layer's weights back."""
        self._state.passed_through(layer)
        self._add_scan(cycles.read_cycles(self._config, self._weights_of[layer]))

    def probe(self, layer: str, per_weight: bool) -> None:
        """Count a probe: of each stored weight's own stuck bits, or of the array's registers (once per check)."""
        if per_weight:
            spent = cycles.probe_cycles(self._config, self._weights_of[layer])
        elif self._state.array_probed:
            return
        else:
            spent = cycles.probe_cycles(self._config, None)
            self._state.array_probed = True
        self.counters = replace(self.counters, probe=self.counters.probe + spent)

    def written(self, layer: str) -> None:
        self._state.written(layer)

    def faults_changed(self) -> None:
        self._state.faults_changed()

    def _add_scan(self, spent: int) -> None:
        self.counters = replace(self.counters, scan=self.counters.scan + spent)
