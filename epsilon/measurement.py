"""What a network does without faults: thresholds from the validation split, accuracies on validation and test split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from epsilon import multipliers
from epsilon.config import ArrayConfig
from epsilon.data import Dataset
from epsilon.emulator import Emulator
from epsilon.executor import Execution, encode
from epsilon.multipliers import Multiplier
from epsilon.network import QuantizedNetwork
from epsilon.thresholds import exits_taken, fit_gamma, fit_tau, multi_exit_accuracy
from epsilon.validation import macs

__all__ = ["Progress", "evaluate", "measure", "measured_multipliers"]

#: Called with what is being done (``train``, ``tune`` or ``measure``), steps done, all steps, and figures in words.
Progress = Callable[[str, int, int, str], None]

#: Multipliers that are measured: the newer release, and the one whose name repeats with another meaning.
RELEASE = "v2022"
EXTRA_MULTIPLIERS = ("v1/mul8s_1L2H",)
#: Input values of a batch: 1000 images of 32x32 in colour.
BATCH_VALUES = 1000 * 3 * 32 * 32


def measured_multipliers(named: Sequence[str] = ()) -> list[Multiplier]:
    """Return the multipliers that networks are measured under, and those that are named."""
    released = [m for m in multipliers.catalogue().values() if m.release == RELEASE]
    return list(dict.fromkeys([*released, *map(multipliers.get, (*EXTRA_MULTIPLIERS, *named))]))


def evaluate(
    network: QuantizedNetwork, images: np.ndarray, multiplier: Multiplier | str, *, device: str = "cpu"
) -> list[np.ndarray]:
    """Return the logits of every exit under a multiplier, fault-free, float64 (count, classes) each."""
    accelerator = Emulator(ArrayConfig(multiplier=multiplier), device)
    accelerator.load(network)
    collected: list[list[np.ndarray]] = [[] for _ in network.exits]
    batch = max(1, BATCH_VALUES // math.prod(network.input_shape))
    for start in range(0, len(images), batch):
        execution = Execution(accelerator, encode(network, images[start : start + batch]).to(device))
        for index, parts in enumerate(collected):
            parts.append(execution.exit(index).cpu().numpy())
    return [np.concatenate(parts) for parts in collected]


def measure(
    network: QuantizedNetwork,
    splits: Mapping[str, Dataset],
    chosen: Sequence[Multiplier],
    *,
    device: str = "cpu",
    known: dict | None = None,
    remember: Callable[[dict], None] | None = None,
    progress: Progress | None = None,
) -> dict:
    """Return the part of the metadata that is measured: ``gamma``, ``tau``, ``accuracy``, ``macs_per_image`` and ``weights``.

    Parameters
    ----------
    splits : Dataset by name
        ``validation``, and ``test`` where there is one.
    chosen : sequence of Multiplier
        See ``measured_multipliers``.
    known : dict, optional
        What an earlier call that was interrupted has found, as ``remember`` was given it.
    remember : callable, optional
        Called after every multiplier with all that is found so far, plain JSON.
    progress : callable, optional
    """
    found = dict(known or {})
    # Circuits of different names can be one function; it is computed once.
    alike: dict[tuple | str, list[Multiplier]] = {}
    for multiplier in chosen:
        alike.setdefault(multiplier.terms or multiplier.key, []).append(multiplier)
    for step, group in enumerate(alike.values(), start=1):
        if group[0].key not in found:
            entry = _measured(network, splits, group[0], device)
            found |= {multiplier.key: entry for multiplier in group}
            if remember is not None:
                remember(found)
        if progress is not None:
            right = found[group[0].key]["validation"]["exits"][-1]
            progress("measure", step, len(alike), f"{right:.2%} at the last exit with {group[0].short_name}")
    accuracy = {
        split: {
            "images": len(dataset),
            "by_multiplier": {multiplier.key: found[multiplier.key][split] for multiplier in chosen},
        }
        for split, dataset in sorted(splits.items())
        if split != "train"
    }
    return {
        "gamma": {multiplier.key: found[multiplier.key]["gamma"] for multiplier in chosen},
        "tau": {multiplier.key: found[multiplier.key]["tau"] for multiplier in chosen},
        "accuracy": accuracy,
        "macs_per_image": macs(network),
        "weights": sum(layer.weight.size for layer in network.weighted),
    }


def _measured(network: QuantizedNetwork, splits: Mapping[str, Dataset], multiplier: Multiplier, device: str) -> dict:
    """Return thresholds under one multiplier, and the accuracies of every split with them."""
    labels = splits["validation"].labels
    logits = evaluate(network, splits["validation"].images, multiplier, device=device)
    gamma = fit_gamma(logits, labels)
    entry = {"gamma": gamma, "tau": fit_tau(logits, gamma), "validation": _accuracies(logits, labels, gamma)}
    if "test" in splits:
        logits = evaluate(network, splits["test"].images, multiplier, device=device)
        entry["test"] = _accuracies(logits, splits["test"].labels, gamma)
    return entry


def _accuracies(logits: list[np.ndarray], labels: np.ndarray, gamma: float) -> dict:
    _, exits, sure = exits_taken(logits, gamma)
    return {
        "exits": [float((exit_logits.argmax(axis=1) == labels).mean()) for exit_logits in logits],
        "multi_exit": multi_exit_accuracy(logits, labels, gamma),
        "taken": np.bincount(exits, minlength=len(logits)).tolist(),
        "unsure": int((~sure).sum()),
    }
