"""Two accelerators in lockstep: every integer that both return is compared, and the first difference is located.

``Lockstep`` is itself an accelerator, so whatever runs on one (a batch, the controller, a probe) runs on two and is compared.
``crosscheck`` is the standard programme: fault-free, with each fault map, and after the repair of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from epsilon.accelerator import Accelerator, Counters, ScanRecords, StuckBits, WeightWords
from epsilon.controller import repair_all
from epsilon.energy import EVENTS
from epsilon.executor import Execution
from epsilon.faults import FaultMap
from epsilon.network import QuantizedNetwork
from epsilon.repair import Repair, golden_weights

__all__ = ["QUANTITIES", "CrosscheckReport", "Difference", "Lockstep", "StageReport", "crosscheck"]

#: What is compared, by the name it has in reports.
QUANTITIES = ("accumulators", "seen weights", "scan records", "stuck bits", "cycles", "events")


@dataclass(frozen=True)
class Difference:
    """Where two accelerators first returned different integers.

    Parameters
    ----------
    stage : str
        What was being compared, for example ``array faults``.
    layer : str
    quantity : str
        One of ``QUANTITIES``.
    image : int or None
        Image, counted from the first of the stage; accumulators only.
    channel : int or None
        Output channel.
    position : tuple
        (y, x) of an accumulator, empty for a linear layer; (k,) of a weight; the field of a record or counter.
    reference, device : int
        Both values.
    """

    stage: str
    layer: str
    quantity: str
    image: int | None
    channel: int | None
    position: tuple
    reference: int
    device: int

    def __str__(self) -> str:
        place = [f"stage {self.stage!r}", f"layer {self.layer!r}", self.quantity]
        if self.image is not None:
            place.append(f"image {self.image}")
        if self.channel is not None:
            place.append(f"output channel {self.channel}")
        if self.position:
            place.append(f"position ({', '.join(map(str, self.position))})")
        return f"{', '.join(place)}: {self.reference} in the reference, {self.device} in the device"


@dataclass
class StageReport:
    """What one stage compared: how many integers of each quantity, and how many of them differed."""

    name: str
    compared: Counter = field(default_factory=Counter)
    differing: Counter = field(default_factory=Counter)
    first: Difference | None = None


class Lockstep:
    """An accelerator that is two: every call goes to both, their results are compared, the device's are returned.

    Parameters
    ----------
    reference, device : Accelerator
        Of the same configuration.

    Raises
    ------
    ValueError
        When the configurations differ in more than the level of the netlist.
    """

    def __init__(self, reference: Accelerator, device: Accelerator) -> None:
        if _function(reference) != _function(device):
            raise ValueError(
                f"Only accelerators of one configuration can be compared, not {_function(reference)} and {_function(device)}"
            )
        self.reference, self.device = reference, device
        self.stages: list[StageReport] = []
        #: Index of the first image of the present batch, for the report.
        self.first_image = 0
        self.begin("run")

    @property
    def config(self):
        return self.device.config

    @property
    def network(self) -> QuantizedNetwork:
        return self.device.network

    @property
    def first(self) -> Difference | None:
        """The first difference of all stages."""
        return next((stage.first for stage in self.stages if stage.first is not None), None)

    def compared(self, quantity: str | None = None) -> int:
        """Return how many integers were compared, of one quantity or of all."""
        return sum(count for stage in self.stages for name, count in stage.compared.items() if quantity in (None, name))

    def begin(self, stage: str) -> None:
        """Start a stage: what follows is counted under its name."""
        if self.stages and not self.stages[-1].compared:
            self.stages.pop()
        self.stages.append(StageReport(stage))
        self.first_image = 0

    def load(self, network: QuantizedNetwork) -> None:
        self.reference.load(network)
        self.device.load(network)

    def set_faults(self, faults: FaultMap | None) -> None:
        self.reference.set_faults(faults)
        self.device.set_faults(faults)

    def run_layer(self, layer: str, activations: torch.Tensor) -> torch.Tensor:
        expected = self.reference.run_layer(layer, activations)
        got = self.device.run_layer(layer, activations)
        self._compare(layer, "accumulators", _array(expected), _array(got), self._place_accumulator)
        self._compare_counters(layer)
        return got

    def read_records(self) -> dict[str, ScanRecords]:
        expected, got = self.reference.read_records(), self.device.read_records()
        if set(expected) != set(got):
            raise ValueError(f"The two accelerators have records of different layers: {sorted(expected)} and {sorted(got)}")
        for layer in expected:
            for entry in fields(ScanRecords):
                pair = (getattr(records[layer], entry.name) for records in (expected, got))
                self._compare(layer, "scan records", *pair, lambda index, name=entry.name: (None, index[0], (name, *index[1:])))
        self._compare_counters("all")
        return got

    def read_weights(self, layer: str) -> np.ndarray:
        expected, got = self.reference.read_weights(layer), self.device.read_weights(layer)
        self._compare(layer, "seen weights", expected, got, _place_weight)
        self._compare_counters(layer)
        return got

    def probe(self, layer: str) -> StuckBits:
        expected, got = self.reference.probe(layer), self.device.probe(layer)
        for name in ("sa0", "sa1"):
            pair = (getattr(bits, name) for bits in (expected, got))
            self._compare(layer, "stuck bits", *pair, lambda index, name=name: (None, index[0], (index[1], name)))
        self._compare_counters(layer)
        return got

    def write_weights(self, layer: str, words: WeightWords) -> None:
        self.reference.write_weights(layer, words)
        self.device.write_weights(layer, words)

    def counters(self) -> Counters:
        return self.device.counters()

    def reset_counters(self) -> None:
        self.reference.reset_counters()
        self.device.reset_counters()

    def _compare_counters(self, layer: str) -> None:
        names = ("run", "scan", "probe")
        counted = [accelerator.counters() for accelerator in (self.reference, self.device)]
        pair = (np.array([getattr(one, name) for name in names], np.int64) for one in counted)
        self._compare(layer, "cycles", *pair, lambda index: (None, None, (names[index[0]],)))
        events = (one.events.as_array() for one in counted)
        self._compare(layer, "events", *events, lambda index: (None, None, (EVENTS[index[0]],)))

    def _compare(self, layer: str, quantity: str, expected: np.ndarray, got: np.ndarray, place: Callable) -> None:
        stage = self.stages[-1]
        stage.compared[quantity] += expected.size
        if expected.shape != got.shape:
            raise ValueError(f"The {quantity} of layer {layer!r} have the shapes {expected.shape} and {got.shape}")
        if np.array_equal(expected, got):
            return
        different = np.argwhere(expected != got)
        stage.differing[quantity] += len(different)
        if stage.first is None:
            index = tuple(int(i) for i in different[0])
            stage.first = Difference(stage.name, layer, quantity, *place(index), int(expected[index]), int(got[index]))

    def _place_accumulator(self, index: tuple[int, ...]) -> tuple[int, int, tuple]:
        return self.first_image + index[0], index[1], index[2:]


@dataclass(frozen=True)
class CrosscheckReport:
    """The result of ``crosscheck``, stage by stage."""

    stages: tuple[StageReport, ...]

    @property
    def first(self) -> Difference | None:
        """The first difference, None when everything is equal."""
        return next((stage.first for stage in self.stages if stage.first is not None), None)

    @property
    def equal(self) -> bool:
        """Whether every integer is equal."""
        return self.first is None

    @property
    def compared(self) -> int:
        """How many integers were compared."""
        return sum(sum(stage.compared.values()) for stage in self.stages)


def crosscheck(
    reference: Accelerator,
    device: Accelerator,
    network: QuantizedNetwork,
    codes: torch.Tensor,
    *,
    fault_maps: dict[str, FaultMap],
    repairs: Iterable[Repair],
    batch: int = 20,
    progress: Callable[[str, int, int], None] | None = None,
) -> CrosscheckReport:
    """Compare two accelerators on everything that they return.

    Both get the same activations, those that the device's own earlier layers led to. So a difference is one of the layer it is
    reported for, never a consequence of an earlier one.

    Parameters
    ----------
    reference, device : Accelerator
    network : QuantizedNetwork
    codes : int8 (images, C, H, W)
    fault_maps : dict of str to FaultMap
        By the name of their stage; each is run with faults and then once more after each repair.
    repairs : iterable of Repair
        Applied to every layer, without any detection.
    batch : int
        Images per call.
    progress : callable, optional
        Called with the stage, the images done and the images of the whole programme.
    """
    repairs = tuple(repairs)
    lockstep = Lockstep(reference, device)
    lockstep.load(network)
    total = len(codes) * (1 + len(fault_maps) * (1 + len(repairs)))
    done = 0

    def run(stage: str) -> None:
        nonlocal done
        for start in range(0, len(codes), batch):
            lockstep.first_image = start
            execution = Execution(lockstep, codes[start : start + batch])
            for index in range(len(network.exits)):
                execution.exit(index)
            done += len(codes[start : start + batch])
            if progress is not None:
                progress(stage, done, total)
        lockstep.read_records()
        for layer in network.weighted:
            lockstep.read_weights(layer.name)

    lockstep.begin("fault-free")
    lockstep.set_faults(None)
    run("fault-free")
    for name, faults in fault_maps.items():
        lockstep.begin(name)
        lockstep.set_faults(faults)
        run(name)
        for repair in repairs:
            stage = f"{name}, {repair.name} repair"
            lockstep.begin(stage)
            lockstep.load(network)
            # Stored weights that are themselves damaged are gone; behind faulty PEs memory still has them.
            repair_all(lockstep, repair, None if faults.has_storage else golden_weights(network))
            run(stage)
        lockstep.load(network)
    lockstep.set_faults(None)
    return CrosscheckReport(tuple(lockstep.stages))


def _function(accelerator: Accelerator) -> dict:
    """Return what of a configuration decides the integers."""
    return {name: value for name, value in accelerator.config.describe().items() if name != "level"}


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _place_weight(index: tuple[int, ...]) -> tuple[None, int, tuple]:
    return None, index[0], index[1:]
