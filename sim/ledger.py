"""Accounting of cycles and events over a sequence of accelerator operations, by the cycle model.

The emulator reports these; the simulated accelerator does the same operations and counts them itself, and both must agree.
"""

from __future__ import annotations

from dataclasses import replace

from epsilon.accelerator import Counters
from epsilon.config import ArrayConfig
from epsilon.energy import Events
from epsilon.network import QuantizedNetwork
from sim import activity, cycles
from sim.activity import Activity
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
    """Count the cycles and events of accelerator operations; see ``epsilon.accelerator.Accelerator`` for what each one is."""

    def __init__(self, config: ArrayConfig) -> None:
        self._config = config
        self._network: QuantizedNetwork | None = None
        self._weights_of: dict[str, Gemm] = {}
        self._run_costs: dict[tuple[str, tuple[int, ...]], tuple[int, Events]] = {}
        self._state = ScanState()
        self.counters = Counters()

    def load(self, network: QuantizedNetwork) -> None:
        self._network = network
        self._run_costs.clear()
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
        spent, events = self.run_cost(layer, input_shape)
        self._state.passed_through(layer)
        counters = self.counters
        self.counters = replace(counters, run=counters.run + batch * spent, events=counters.events + events * batch)

    def run_cost(self, layer: str, input_shape: tuple[int, ...]) -> tuple[int, Events]:
        """Return the cycles and events of one image through a layer, without counting them."""
        key = (layer, tuple(input_shape))
        if key not in self._run_costs:
            gemm = gemm_of(self._network[layer], input_shape)
            events = activity.events_of(self._config, activity.run_activity(self._config, gemm))
            self._run_costs[key] = cycles.run_cycles(self._config, gemm), events
        return self._run_costs[key]

    def scan(self) -> None:
        """Count one reading of all records."""
        for name in self._state.stale:
            self._load(name, readback=False)
        # The flush comes last, for the layers that ran; a loading pass has its own.
        self._state.checked()
        self._add("scan", cycles.scan_cycles(self._config), activity.scan_activity(self._config))

    def read(self, layer: str) -> None:
        """Count reading a layer's weights back."""
        self._state.passed_through(layer)
        self._load(layer, readback=True)

    def probe(self, layer: str, per_weight: bool) -> None:
        """Count a probe: of each stored weight's own stuck bits, or of the array's registers (once per check)."""
        if not per_weight:
            if self._state.array_probed:
                return
            self._state.array_probed = True
        gemm = self._weights_of[layer] if per_weight else None
        self._add("probe", cycles.probe_cycles(self._config, gemm), activity.probe_activity(self._config, gemm))

    def written(self, layer: str, changed: int) -> None:
        """Count ``changed`` words written to a layer."""
        self._state.written(layer)
        self.counters = replace(self.counters, events=self.counters.events + Events(weight_writes=changed))

    def faults_changed(self) -> None:
        self._state.faults_changed()

    def _load(self, layer: str, *, readback: bool) -> None:
        gemm = self._weights_of[layer]
        self._add("scan", cycles.read_cycles(self._config, gemm), activity.load_activity(self._config, gemm, readback=readback))

    def _add(self, what: str, spent: int, done: Activity) -> None:
        counters = self.counters
        events = counters.events + activity.events_of(self._config, done)
        self.counters = replace(counters, **{what: getattr(counters, what) + spent}, events=events)
