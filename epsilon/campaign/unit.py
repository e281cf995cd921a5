"""Runs one unit of a campaign: every technique on one fault map, a row each.

All techniques see the same faults and images. What units of the same network, function of the multiplier and images share (golden
logits, activations in front of the faulty layer) is kept in the process, so such units should follow each other. Where multipliers
of different names compute the same function, their units on the same faults share the logits of faulty networks as well; thresholds
and energies are each multiplier's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch

from epsilon import data as datasets
from epsilon import network_io
from epsilon.campaign.accounting import FaultFacts, fault_facts, pattern_scores, word_facts
from epsilon.campaign.energies import energy_columns
from epsilon.campaign.evaluation import BATCH, Evaluations
from epsilon.campaign.schema import COLUMNS, FaultSpec, Setting, Technique, Unit, compact
from epsilon.config import ArrayConfig
from epsilon.controller import StreamResult
from epsilon.data import Dataset
from epsilon.emulator import Emulator
from epsilon.energy import EnergyTable
from epsilon.error_bounds import error_bound, missed_bound
from epsilon.executor import encode
from epsilon.fault_points import resolve_layers
from epsilon.faults import FaultMap
from epsilon.importance import importances
from epsilon.network import QuantizedNetwork
from epsilon.secded import uncorrectable_words
from epsilon.techniques import Outcome, gamma_of, run_technique

__all__ = ["draw_faults", "run_unit"]

#: Kinds of technique as ``epsilon.techniques`` calls them; ``epsilon`` goes by its repair.
NAMES = {"vanilla": "last-exit", "mendnet": "mendnet", "exits": "none", "secded": "secded"}


def run_unit(
    unit: Unit,
    *,
    data: str | os.PathLike | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict]:
    """Return the rows of a unit, one per variant and in their order, with the keys of ``COLUMNS``.

    Parameters
    ----------
    unit : Unit
    data : path, optional
        Folder of the data sets, as for ``epsilon.data.load``.
    threads : int
        Of this process while it computes; no result depends on it.
    progress : callable, optional
        Called with the variants done and all variants.

    Raises
    ------
    ValueError
        When the network is not the one of the unit, or anything in the unit is refused by what it describes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _Run(unit, data).rows(progress)
    finally:
        torch.set_num_threads(before)


def draw_faults(spec: FaultSpec, network: QuantizedNetwork, config: ArrayConfig) -> FaultMap:
    """Return the fault map that a specification describes."""
    return FaultMap.sample(
        network,
        config,
        site=spec.site,
        rate=spec.rate,
        polarity=spec.polarity,
        bits=spec.bits,
        bit=spec.bit,
        seed=spec.seed,
        layers=_layers(spec, network),
    )


def _layers(spec: FaultSpec, network: QuantizedNetwork) -> list[str] | None:
    """Return the layers that faults are limited to, None for no limit."""
    return None if spec.site == "array" or spec.point == "all" else resolve_layers(network, [spec.point])


@dataclass(eq=False)
class _Shared:
    """What units of one network, function of the multiplier and set of images have in common.

    Members
    -------
    fault_free : dict
        Outcomes by multiplier, technique and gamma: thresholds of energy are each multiplier's own.
    map_digest : str or None
        Of the faults that ``evaluations`` remembers logits under.
    """

    network: QuantizedNetwork
    dataset: Dataset
    evaluations: Evaluations
    fault_free: dict[tuple[str, str, float], Outcome] = field(default_factory=dict)
    map_digest: str | None = None

    def begin(self, map_digest: str | None) -> None:
        """Forget the logits of faulty networks, unless they are of this fault map."""
        if self.map_digest != map_digest:
            self.evaluations.forget()
            self.map_digest = map_digest


@dataclass(frozen=True)
class _Function:
    """What a multiplier computes in a network, for whose integers its name does not matter.

    Parameters
    ----------
    digest : str
        Of the products.
    mask : bytes or None
        Its biases go by it, see ``QuantizedNetwork.adapted``.
    multiplier : str
        One that computes it.
    """

    digest: str
    mask: bytes | None
    multiplier: str = field(compare=False)


class _Run:
    """One unit while it runs."""

    def __init__(self, unit: Unit, data: str | os.PathLike | None) -> None:
        self.unit = unit
        folder = None if data is None else os.fspath(data)
        self.config = config = _config(unit.multiplier, unit.rows, unit.cols)
        function = _Function(unit.function, config.multiplier.mask, unit.multiplier)
        self.shared = _shared(unit.network, unit.network_digest, function, unit.rows, unit.cols, unit.split, unit.images, folder)
        network = self.shared.network
        self.faults = draw_faults(unit.fault, network, config)
        self.facts: FaultFacts = fault_facts(self.faults, network, config)
        self.emulator = Emulator(config)
        self._faulty: dict[tuple[str, float], Outcome] = {}
        self._common = self._columns_of_all_rows()

    def rows(self, progress: Callable[[int, int], None] | None) -> list[dict]:
        variants = self.unit.variants
        found: dict[int, dict] = {}
        self.shared.begin(self._common["map_digest"])
        try:
            # The last exit first: on its way it answers for all others on the same weights.
            for index in sorted(range(len(variants)), key=lambda index: variants[index][0].kind != "vanilla"):
                found[index] = self._row(*variants[index])
                if progress is not None:
                    progress(len(found), len(variants))
        except BaseException:
            self.shared.begin(None)  # what was under way is half done
            raise
        return [found[index] for index in range(len(variants))]

    def _row(self, technique: Technique, setting: Setting) -> dict:
        network, config = self.shared.network, self.config
        gamma = gamma_of(network, config) if setting.gamma is None else setting.gamma
        # Exits, as the technique takes them, without any detection or correction.
        plain = NAMES[technique.kind] if technique.kind in ("vanilla", "mendnet") else "none"
        fault_free = self._fault_free(plain, gamma)
        faulty = self._without_protection(plain, gamma)
        if technique.kind in ("vanilla", "mendnet", "exits"):
            outcome, words = faulty, None
        else:
            outcome = self._outcome(technique, gamma, setting.alpha)
            words = word_facts(self.emulator)
        stream, labels = outcome.stream, self.shared.dataset.labels
        wrong = sum(self.facts.wrong.values())
        row = {
            **self._common,
            "key": self.unit.key(technique, setting),
            "configuration": compact(self.unit.configuration(technique, setting)),
            "technique": technique.name,
            "kind": technique.kind,
            "repair": technique.repair,
            "target": technique.target,
            "detector": technique.detector,
            "gamma": float(gamma),
            "alpha": None if setting.alpha is None else float(setting.alpha),
            "gamma_fitted": int(setting.gamma is None),
            "correct_fault_free": fault_free.stream.correct(labels),
            "correct_faulty": faulty.stream.correct(labels),
            "correct": stream.correct(labels),
            "correct_bits": np.packbits(stream.predictions == labels).tobytes(),
            "sdc": _silent(technique, stream, fault_free.stream),
            "weights_wrong_after": wrong if words is None else words.wrong,
            "repairs": len(stream.repairs),
            "words_written": stream.rewritten,
            "words_exact": words.exact if technique.kind == "epsilon" else 0,
            "words_uncorrectable": self._uncorrectable_words if technique.kind == "secded" else None,
            "exits": compact(outcome.exits_taken),
            "unsure": int(np.count_nonzero(~stream.sure)),
            "run_cycles": int(stream.run.sum()),
            "scan_cycles": int(stream.scan.sum()),
            "probe_cycles": int(stream.probe.sum()),
            "events": compact(stream.events.describe()),
            **energy_columns(stream.events, EnergyTable.default(), config.multiplier, kind=technique.kind),
            **self._detection(technique, setting, stream, gamma),
        }
        return {name: row[name] for name in COLUMNS}

    def _columns_of_all_rows(self) -> dict:
        unit, fault, facts = self.unit, self.unit.fault, self.facts
        registers = self._registers()
        return {
            "network": self.shared.network.name,
            "network_digest": unit.network_digest,
            "dataset": self.shared.dataset.name,
            "multiplier": self.config.multiplier.key,
            "function": unit.function,
            "rows": unit.rows,
            "cols": unit.cols,
            "site": fault.site,
            "point": fault.point,
            "layers": compact(list(facts.wrong)),
            "rate": float(fault.rate),
            "polarity": str(fault.polarity),
            "bits": fault.bits,
            "bit": fault.bit,
            "seed": fault.seed,
            "map_digest": self.faults.digest,
            "images": len(self.shared.dataset),
            "faults_asked": sum(round(fault.rate * count) for count in registers),
            "faults": facts.faults,
            "masked_multiplier": facts.masked_multiplier,
            "masked_value": facts.masked_value,
            "weights_wrong": sum(facts.wrong.values()),
            "layers_faulty": sum(count > 0 for count in facts.wrong.values()),
        }

    def _registers(self) -> list[int]:
        """Return the numbers of registers of each grid that faults were asked for in."""
        network = self.shared.network
        if self.unit.fault.site == "array":
            return [self.config.pes]
        chosen = _layers(self.unit.fault, network)
        return [layer.matrix.size for layer in network.weighted if chosen is None or layer.name in chosen]

    @cached_property
    def _uncorrectable_words(self) -> int:
        return uncorrectable_words(self.faults, self.shared.network, self.config)

    def _fault_free(self, plain: str, gamma: float) -> Outcome:
        known, key = self.shared.fault_free, (self.unit.multiplier, plain, gamma)
        if key not in known:
            known[key] = self._run(plain, None, gamma)
        return known[key]

    def _without_protection(self, plain: str, gamma: float) -> Outcome:
        if (plain, gamma) not in self._faulty:
            self._faulty[plain, gamma] = self._run(plain, self.faults, gamma)
        return self._faulty[plain, gamma]

    def _outcome(self, technique: Technique, gamma: float, alpha: float | None) -> Outcome:
        options = {} if technique.detector is None else {"detector": technique.detector, "patrol": technique.patrol}
        name = NAMES.get(technique.kind, technique.repair)
        return self._run(name, self.faults, gamma, target=technique.target, alpha=alpha, **options)

    def _run(self, name: str, faults: FaultMap | None, gamma: float, **options) -> Outcome:
        evaluations = self.shared.evaluations
        return run_technique(
            name,
            self.emulator,
            evaluations.network,
            evaluations.stream(),
            self.shared.dataset.labels,
            faults=faults,
            gamma=gamma,
            lookahead=BATCH,
            **options,
        )

    def _detection(self, technique: Technique, setting: Setting, stream: StreamResult, gamma: float) -> dict:
        """Return what the checks found; NULL for techniques without any."""
        if technique.kind != "epsilon":
            unknown = ("layers_detected", "layers_missed", "layers_false", "first_check", "scores", "bound_missed", "bound_error")
            return {"checks": 0, **dict.fromkeys(unknown)}
        of_layer = importances(self.shared.evaluations.network, alpha=setting.alpha)
        faulty = {name for name, count in self.facts.wrong.items() if count}
        flagged = {name for check in stream.checks for name in check.flagged}
        alphas = [of_layer[name].alpha for name in self.facts.wrong or of_layer]
        missed = missed_bound(sum(alphas) / len(alphas), self.unit.fault.rate)
        return {
            "layers_detected": len(faulty & flagged),
            "layers_missed": len(faulty - flagged) if stream.checks else 0,
            "layers_false": len(flagged - faulty),
            "checks": len(stream.checks),
            "first_check": stream.checks[0].image if stream.checks else None,
            # Nothing is rewritten before the first check, so these are its scores, and what it would have found had there been one.
            "scores": compact(pattern_scores(self.facts, of_layer)),
            "bound_missed": missed,
            "bound_error": error_bound(gamma, len(self.shared.network.exits), missed),
        }


def _silent(technique: Technique, stream: StreamResult, fault_free: StreamResult) -> int:
    """Return how many predictions differ from the fault-free ones before anything was flagged."""
    differ = stream.predictions != fault_free.predictions
    if technique.kind == "secded":
        # Whatever changes a product is a word with two wrong bits, and was detected when it was used (words_uncorrectable).
        return 0
    first = next((check.image for check in stream.checks if check.flagged), len(differ))
    return int(np.count_nonzero(differ[:first]))


@lru_cache(maxsize=8)
def _config(multiplier: str, rows: int, cols: int) -> ArrayConfig:
    return ArrayConfig(rows=rows, cols=cols, multiplier=multiplier)


@lru_cache(maxsize=1)
def _shared(
    name: str, digest: str, function: _Function, rows: int, cols: int, split: str, images: int, data: str | None
) -> _Shared:
    network = network_io.load(name)
    if network_io.network_digest(network) != digest:
        raise ValueError(f"The network {name!r} is no longer the one that the campaign was planned with")
    dataset = _dataset(network.metadata.get("dataset", network.name), split, data).first(images)
    evaluations = Evaluations(network, _config(function.multiplier, rows, cols), encode(network, dataset.images))
    return _Shared(network, dataset, evaluations)


@lru_cache(maxsize=2)
def _dataset(name: str, split: str, data: str | None) -> Dataset:
    return datasets.load(name, split, data)
