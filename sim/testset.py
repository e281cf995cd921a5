"""A whole test set, and many fault maps of one image, through the simulated hardware in bit lanes, compared with the emulator."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from epsilon.accelerator import Accelerator
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.executor import Execution, Observer
from epsilon.faults import FaultMap
from epsilon.network import QuantizedNetwork
from sim.lanes.accelerator import FaultLanes, LanesAccelerator

__all__ = ["Comparison", "compare_fault_maps", "compare_images"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Comparison:
    """How much was compared, and how long each side took.

    ``runs`` images (or fault maps), ``logits`` compared, ``different`` of them, ``right`` runs whose class the last exit has
    right; ``build_s``, ``lanes_s`` and ``emulator_s`` wall-clock seconds; ``cycles`` of the array, all runs together.
    """

    runs: int
    logits: int
    different: int
    right: int
    build_s: float
    lanes_s: float
    emulator_s: float
    cycles: int


def compare_images(
    config: ArrayConfig,
    network: QuantizedNetwork,
    codes: torch.Tensor,
    labels: Sequence[int],
    faults: FaultMap | None,
    *,
    lanes: int | None = None,
    threads: int = 1,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Comparison:
    """Run images through all exits of a network, an image per lane, and compare every logit.

    Parameters
    ----------
    codes : int8 (images, C, H, W)
    labels : int64 (images,)
    faults : FaultMap or None
        The same in all lanes.
    """
    start = time.perf_counter()
    device = LanesAccelerator(config, lanes=lanes, threads=threads, backend=backend)
    build_s = time.perf_counter() - start
    try:
        got, lanes_s = _all_logits(device, network, codes, faults, device.lanes, "lanes", progress)
    finally:
        device.close()
    emulator = Emulator(config)
    wanted, emulator_s = _all_logits(emulator, network, codes, faults, 500, "emulator", progress)
    if device.counters() != emulator.counters():
        raise RuntimeError(f"The lanes counted {device.counters()}, the emulator {emulator.counters()}")
    return _compared(got, wanted, labels, build_s, lanes_s, emulator_s, device.counters().run)


def compare_fault_maps(
    config: ArrayConfig,
    network: QuantizedNetwork,
    codes: torch.Tensor,
    label: int,
    fault_maps: Sequence[FaultMap],
    *,
    lanes: int | None = None,
    threads: int = 1,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Comparison:
    """Run one image, int8 (1, C, H, W), with many fault maps, a map per lane, and compare every logit with one run per map."""
    start = time.perf_counter()
    simulated = FaultLanes(config, network, lanes=lanes, threads=threads, backend=backend)
    build_s = time.perf_counter() - start
    start = time.perf_counter()
    try:
        observer = _by_layer(network, "lanes, maps", progress)
        report = progress and (lambda done, total: progress("lanes, maps", done, total))
        got = simulated.run(codes, fault_maps, observer=observer, progress=report)
    finally:
        simulated.close()
    lanes_s = time.perf_counter() - start
    emulator = Emulator(config)
    wanted: list[list[torch.Tensor]] = [[] for _ in network.exits]
    start = time.perf_counter()
    for index, faults in enumerate(fault_maps):
        found, _ = _all_logits(emulator, network, codes, faults, 1, "", None)
        for parts, logits in zip(wanted, found, strict=True):
            parts.append(logits)
        if progress is not None:
            progress("emulator, maps", index + 1, len(fault_maps))
    emulator_s = time.perf_counter() - start
    cycles = emulator.counters().run * len(fault_maps)
    labels = [label] * len(fault_maps)
    return _compared(got, [torch.cat(parts) for parts in wanted], labels, build_s, lanes_s, emulator_s, cycles)


def _all_logits(
    accelerator: Accelerator,
    network: QuantizedNetwork,
    codes: torch.Tensor,
    faults: FaultMap | None,
    batch: int,
    what: str,
    progress: Progress | None,
) -> tuple[list[torch.Tensor], float]:
    """Return the logits of every exit, float64 (images, classes), and the seconds that they took."""
    start = time.perf_counter()
    accelerator.load(network)
    accelerator.set_faults(faults)
    accelerator.reset_counters()
    found: list[list[torch.Tensor]] = [[] for _ in network.exits]
    for first in range(0, len(codes), batch):
        last = min(first + batch, len(codes))
        execution = Execution(accelerator, codes[first:last], _by_layer(network, f"{what}, images {first + 1} to {last}", progress))
        for index, parts in enumerate(found):
            parts.append(execution.exit(index))
        if progress is not None:
            progress(f"{what}, images", last, len(codes))
    return [torch.cat(parts) for parts in found], time.perf_counter() - start


def _by_layer(network: QuantizedNetwork, what: str, progress: Progress | None) -> Observer | None:
    """Return what tells of every layer that is done: a batch takes long enough to wonder."""
    if progress is None:
        return None
    layers = len(network.weighted)
    done = itertools.cycle(range(1, layers + 1))
    return lambda *_: progress(f"{what}, layers", next(done), layers)


def _compared(got, wanted, labels, build_s: float, lanes_s: float, emulator_s: float, cycles: int) -> Comparison:
    pairs = list(zip(got, wanted, strict=True))
    return Comparison(
        runs=len(labels),
        logits=sum(logits.numel() for logits in wanted),
        different=sum(int((one != other).sum()) for one, other in pairs),
        right=int((got[-1].argmax(dim=1) == torch.as_tensor(labels)).sum()),
        build_s=build_s,
        lanes_s=lanes_s,
        emulator_s=emulator_s,
        cycles=cycles,
    )
