"""The demo: handwritten digits on a faulty simulated array, EPSILON catching and repairing, checked against PyTorch throughout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from epsilon import data, network_io
from epsilon.config import ArrayConfig
from epsilon.crosscheck import QUANTITIES, Difference, Lockstep
from epsilon.emulator import Emulator
from epsilon.executor import encode
from epsilon.faults import FaultMap, pes_of_weights
from epsilon.network import QuantizedNetwork
from epsilon.plots import plot_accuracy_by_rate, plot_exits, plot_stuck_and_repaired
from epsilon.repair import REPAIRS
from epsilon.techniques import Outcome, gamma_of, opened, run_technique

__all__ = ["DemoResult", "DemoRow", "DemoSettings", "best_repair", "run_demo", "weight_errors"]

#: Told what is being done, and how many of how many steps of it are done (total None: not known).
Progress = Callable[[str, int, int | None], None]
PAPER = "quartile"
#: Finds the stuck bits, but needs no more than the registers that are there.
NO_HARDWARE = "nearest"


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demo runs.

    Parameters
    ----------
    network : str
    images : int
        Images of the test split, from its start.
    config : ArrayConfig
    rate : float
        Fraction of the PEs whose weight register has one bit stuck at 1.
    seed : int
        Of the fault map; the maps of the picture over fault rates have this seed and those after it.
    detector : str
        What tells a faulty layer from a healthy one; see ``epsilon.detector``.
    rates : tuple of float
        Fault rates of that picture.
    maps : int
        Fault maps per rate.
    """

    network: str = "digits"
    images: int = 597
    config: ArrayConfig = field(default_factory=lambda: ArrayConfig(rows=8, cols=8, multiplier="KVP"))
    rate: float = 0.3
    seed: int = 1
    detector: str = "exact"
    rates: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    maps: int = 10


@dataclass(frozen=True, eq=False)
class DemoRow:
    """One line of the table: the same technique on the Verilated array and on the emulator."""

    label: str
    rtl: Outcome
    emulator: Outcome

    @property
    def same(self) -> bool:
        """Whether both gave the same prediction, exit and cycles for every image, and the same events of all."""
        one, two = self.rtl.stream, self.emulator.stream
        return one.events == two.events and all(
            np.array_equal(getattr(one, name), getattr(two, name)) for name in ("predictions", "exits", "cycles")
        )


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo found.

    Parameters
    ----------
    rows : tuple of DemoRow
    best : str
        The repair that was best on the validation images.
    pattern_flagged : tuple of str
        Layers that the sparsity pattern alone (Eq. 6 of [Khalil & Hoque]) would have found faulty in the same stream.
    compared : dict of str to int
        How many integers RTL and emulator were compared on, by quantity.
    first : Difference or None
        The first that differed.
    pictures : tuple of Path
    """

    rows: tuple[DemoRow, ...]
    best: str
    pattern_flagged: tuple[str, ...]
    compared: dict[str, int]
    first: Difference | None
    pictures: tuple[Path, ...]

    @property
    def equal(self) -> bool:
        """Whether RTL and emulator agree on every integer and every outcome."""
        return self.first is None and all(row.same for row in self.rows)


def run_demo(settings: DemoSettings, out: Path, progress: Progress) -> DemoResult:
    """Run the demo and save its pictures.

    Parameters
    ----------
    out : Path
        Folder for the pictures; made when it is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    network = network_io.load(settings.network)
    gamma = gamma_of(network, settings.config)
    test = data.load(settings.network, "test")
    codes, labels = encode(network, test.images[: settings.images]), test.labels[: settings.images]
    faults = FaultMap.sample(network, settings.config, site="array", rate=settings.rate, polarity=1, seed=settings.seed)

    best = best_repair(network, settings, faults, gamma, progress)
    techniques = _techniques(best)
    programme = [("fault-free", "none", None), *((f"faulty, {label}", name, faults) for label, name in techniques.items())]
    common = {"network": network, "codes": codes, "labels": labels, "gamma": gamma}
    rows, errors = [], {}
    progress("building the array (Verilator, g++)", 0, None)
    with opened("rtl", settings.config) as hardware:
        lockstep = Lockstep(Emulator(settings.config), hardware)
        for label, technique, present in programme:
            lockstep.begin(label)
            chosen = {**common, "faults": present, "detector": settings.detector}
            rtl = run_technique(technique, lockstep, **chosen, progress=partial(progress, f"RTL: {label}"))
            rows.append(DemoRow(label, rtl, run_technique(technique, Emulator(settings.config), **chosen)))
            if present is not None:
                errors[label.removeprefix("faulty, ")] = weight_errors(lockstep, network)
    pattern = run_technique(PAPER, Emulator(settings.config), **common, faults=faults, detector="pattern")
    flagged = {layer for check in pattern.stream.checks for layer in check.flagged}
    pictures = (
        _draw_rates(settings, network, gamma, techniques, out / "accuracy_by_fault_rate.png", progress),
        _draw_array(settings, faults, errors, out / "stuck_and_repaired.png"),
        _draw_exits(rows, out / "exits_taken.png"),
    )
    compared = {quantity: lockstep.compared(quantity) for quantity in QUANTITIES}
    return DemoResult(tuple(rows), best, tuple(sorted(flagged)), compared, lockstep.first, pictures)


def _techniques(best: str) -> dict[str, str]:
    """Return what is shown under faults: nothing, the paper's repair, the one that needs no more hardware, and the best one."""
    shown = {"no EPSILON": "none", f"EPSILON, {PAPER} (paper)": PAPER}
    if best not in (PAPER, NO_HARDWARE):
        shown[f"EPSILON, {NO_HARDWARE}"] = NO_HARDWARE
    return shown | ({} if best == PAPER else {f"EPSILON, {best} (best)": best})


def best_repair(network: QuantizedNetwork, settings: DemoSettings, faults: FaultMap, gamma: float, progress: Progress) -> str:
    """Return the repair with the best accuracy on the validation images; of equals, the one that needs less hardware."""
    found = data.load(settings.network, "validation")
    codes = encode(network, found.images)
    order = sorted(REPAIRS, key=lambda name: (REPAIRS[name].needs_flags, REPAIRS[name].needs_probe))
    scores = {}
    for done, name in enumerate(order):
        progress("comparing repairs on the validation images (PyTorch)", done, len(order))
        common = {"faults": faults, "gamma": gamma, "detector": settings.detector}
        scores[name] = run_technique(name, Emulator(settings.config), network, codes, found.labels, **common).accuracy.hits
    progress("comparing repairs on the validation images (PyTorch)", len(order), len(order))
    return max(order, key=lambda name: scores[name])


def weight_errors(accelerator, network: QuantizedNetwork) -> np.ndarray:
    """Return the mean absolute error of the codes that each PE's multiplier sees, float64 (rows, cols), over all layers."""
    rows, cols = accelerator.config.rows, accelerator.config.cols
    total, count = np.zeros((rows, cols)), np.zeros((rows, cols))
    for layer in network.weighted:
        error = np.abs(accelerator.read_weights(layer.name).astype(np.int16) - layer.matrix)
        row, col = np.broadcast_arrays(*pes_of_weights(layer, accelerator.config))
        np.add.at(total, (row, col), error)
        np.add.at(count, (row, col), 1)
    return total / np.maximum(count, 1)


def _draw_rates(
    settings: DemoSettings, network: QuantizedNetwork, gamma: float, techniques: dict[str, str], path: Path, progress: Progress
) -> Path:
    """Draw the accuracy over fault rates, on the emulator, over all test images."""
    config = settings.config
    test = data.load(settings.network, "test")
    codes = encode(network, test.images)

    def accuracy(technique: str, faults: FaultMap | None) -> float:
        common = {"faults": faults, "gamma": gamma, "detector": settings.detector, "lookahead": len(codes)}
        return run_technique(technique, Emulator(config), network, codes, test.labels, **common).accuracy.value

    curves = {label: np.zeros((len(settings.rates), settings.maps)) for label in techniques}
    points = [(i, j) for i in range(len(settings.rates)) for j in range(settings.maps)]
    for done, (i, j) in enumerate(points):
        progress("accuracy by fault rate (PyTorch)", done, len(points))
        drawn = FaultMap.sample(network, config, site="array", rate=settings.rates[i], polarity=1, seed=settings.seed + j)
        for label, technique in techniques.items():
            curves[label][i, j] = accuracy(technique, drawn)
    progress("accuracy by fault rate (PyTorch)", len(points), len(points))
    plot_accuracy_by_rate(
        path,
        settings.rates,
        curves,
        fault_free=accuracy("none", None),
        title=f"{settings.network} on {config.rows}x{config.cols} {config.multiplier.short_name} multipliers, bits stuck at 1",
        rate_label="PEs whose weight register has a stuck bit",
    )
    return path


def _draw_array(settings: DemoSettings, faults: FaultMap, errors: dict[str, np.ndarray], path: Path) -> Path:
    _, ones = faults.array_masks(settings.config.rows, settings.config.cols)
    stuck = [["".join(str(bit) for bit in range(8) if mask >> bit & 1) for mask in row] for row in ones]
    plot_stuck_and_repaired(
        path,
        stuck,
        errors,
        title="Which bit is stuck at 1 in each PE, and how far off the weights are that pass through it",
        legend="mean |error| of a weight's code",
    )
    return path


def _draw_exits(rows: list[DemoRow], path: Path) -> Path:
    plot_exits(
        path,
        {row.label: row.rtl.exits_taken for row in rows},
        title="Which exit answered",
        accuracy={row.label: f"{100 * row.rtl.accuracy.value:.1f} % right" for row in rows},
    )
    return path
