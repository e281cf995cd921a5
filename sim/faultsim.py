"""Exhaustive fault simulation in bit lanes: every single stuck-at fault of an array against images of a network."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch

from epsilon.accelerator import ScanRecords
from epsilon.config import ArrayConfig
from epsilon.faults import FaultMap
from epsilon.network import QuantizedNetwork
from epsilon.network_io import network_digest
from sim.fault_dictionary import FaultDictionary, FaultSpace
from sim.lanes.accelerator import FaultLanes

__all__ = ["configuration", "simulate"]

#: Images whose fault-free sums are held at a time.
BLOCK = 64


def configuration(config: ArrayConfig, network: QuantizedNetwork, codes: torch.Tensor, *, nets: bool) -> dict:
    """Return everything that a fault dictionary depends on, plain JSON."""
    return {
        "array": config.describe(),
        "network": network_digest(network),
        "set of images": [len(codes), hashlib.sha256(np.ascontiguousarray(codes.numpy()).tobytes()).hexdigest()],
        "kind of fault": "nets" if nets else "weight registers",
    }


def simulate(
    config: ArrayConfig,
    network: QuantizedNetwork,
    codes: torch.Tensor,
    path: str | os.PathLike,
    *,
    nets: bool = False,
    lanes: int | None = None,
    threads: int = 1,
    backend: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> FaultDictionary:
    """Simulate every single stuck-at fault on every image, and return the dictionary; go on where its file stops.

    Parameters
    ----------
    codes : int8 (images, C, H, W)
    path : path
        The dictionary's file.
    nets : bool
        Every net of the processing elements instead of every bit of their weight registers.
    lanes, threads, backend
        As of ``LanesAccelerator``; the results do not depend on them.
    progress : callable, optional
        Called with what is being done, and how much of it, of how much, is done.

    Raises
    ------
    FaultDictionaryError
        When the file is no fault dictionary, or one of another configuration.
    """
    if not len(codes):
        raise ValueError("A fault simulation needs at least one image")
    report = progress or (lambda what, done, total: None)
    simulated = FaultLanes(config, network, lanes=lanes, threads=threads, backend=backend, nets=nets)
    try:
        space = FaultSpace(config, simulated.net_names)
        dictionary = FaultDictionary(path, configuration(config, network, codes, nets=nets), space, len(codes))
        try:
            _simulate_records(simulated, dictionary, report)
            _simulate_images(simulated, dictionary, codes, report)
        except BaseException:
            dictionary.close()
            raise
    finally:
        simulated.close()
    return dictionary


def _simulate_records(simulated: FaultLanes, dictionary: FaultDictionary, report: Callable) -> None:
    """Compare the scan records of every fault with those of the healthy array; images do not matter to them."""
    todo = np.flatnonzero(~dictionary.recorded)
    total = len(dictionary.space)
    done = total - len(todo)
    report("scan records, faults", done, total)
    if not len(todo):
        return
    golden = simulated.read_records([FaultMap.empty()])
    for start in range(0, len(todo), simulated.lanes):
        part = todo[start : start + simulated.lanes].tolist()
        found = simulated.read_records([dictionary.space.fault(fault) for fault in part])
        dictionary.add_recorded(zip(part, _changed_records(golden, found).tolist(), strict=True))
        done += len(part)
        report("scan records, faults", done, total)


def _simulate_images(simulated: FaultLanes, dictionary: FaultDictionary, codes: torch.Tensor, report: Callable) -> None:
    """Compare the sums of every layer and the logits of every exit, on every image with every fault."""
    missing = ~dictionary.observed
    total, done = missing.size, missing.size - int(missing.sum())
    report("images times faults", done, total)
    for first in range(0, len(codes), BLOCK):
        block = codes[first : first + BLOCK]
        images, faults = np.nonzero(missing[first : first + BLOCK])
        if not len(images):
            continue
        sums: dict[str, list[torch.Tensor]] = {}
        logits = simulated.run(
            block, [FaultMap.empty()] * len(block), observer=lambda n, _, a, into=sums: into.setdefault(n, []).append(a)
        )
        golden = {name: torch.cat(parts) for name, parts in sums.items()}
        for start in range(0, len(images), simulated.lanes):
            image, fault = images[start : start + simulated.lanes], faults[start : start + simulated.lanes]
            changed = _changed(simulated, block, golden, logits, image, [dictionary.space.fault(int(one)) for one in fault])
            dictionary.add_observed(zip(fault.tolist(), (image + first).tolist(), *changed, strict=True))
            done += len(image)
            report("images times faults", done, total)


def _changed(simulated: FaultLanes, codes, golden, golden_logits, image: np.ndarray, faults: list) -> tuple[list, list, list]:
    """Return, for pairs of image and fault, how many layers' sums changed, whether any logit did, and whether the class did."""
    own = torch.from_numpy(image)
    layers = torch.zeros(len(image), dtype=torch.int64)

    def compare(name: str, _: torch.Tensor, sums: torch.Tensor) -> None:
        layers.add_((sums != golden[name][own]).flatten(1).any(dim=1))

    logits = simulated.run(codes[own], faults, observer=compare)
    pairs = list(zip(logits, golden_logits, strict=True))
    any_logit = torch.stack([(found != wanted[own]).any(dim=1) for found, wanted in pairs]).any(dim=0)
    found, wanted = pairs[-1]
    top1 = found.argmax(dim=1) != wanted[own].argmax(dim=1)
    return layers.tolist(), any_logit.int().tolist(), top1.int().tolist()


def _changed_records(golden: dict[str, ScanRecords], found: dict[str, ScanRecords]) -> np.ndarray:
    """Return, for every fault, how many layers' scan records differ."""
    changed = 0
    for name, records in found.items():
        pairs = ((getattr(golden[name], entry.name), getattr(records, entry.name)) for entry in fields(ScanRecords))
        different = [(one != other).reshape(len(other), -1).any(axis=1) for one, other in pairs]
        changed = changed + np.any(different, axis=0).astype(np.int64)
    return changed
