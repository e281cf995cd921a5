"""From a campaign to its units of work, in an order in which neighbours share what is computed once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from epsilon import data as datasets
from epsilon import multipliers
from epsilon.campaign.config import CampaignConfig
from epsilon.campaign.schema import FaultSpec, Setting, Technique, Unit
from epsilon.config import ArrayConfig
from epsilon.fault_points import resolve_layers
from epsilon.network import QuantizedNetwork
from epsilon.network_io import InvalidNetworkError, builtin_names, load, network_digest
from epsilon.techniques import gamma_of

if TYPE_CHECKING:
    import pandas

__all__ = ["dry", "function_digest", "map_seed", "not_golden", "plan", "row_keys"]

#: Kinds whose rows depend on the confidence of the exits, and on the importance of the layers.
USES_GAMMA = ("mendnet", "exits", "epsilon", "secded")
USES_ALPHA = ("epsilon",)


def map_seed(root: int, index: int) -> int:
    """Return the seed of a fault map: an independent stream per index, the same whatever runs on the map, below 2**63."""
    return int(np.random.SeedSequence(root, spawn_key=(index,)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def function_digest(multiplier: multipliers.Multiplier) -> str:
    """Return a hash of all 65,536 products, 16 hexadecimal digits."""
    return hashlib.sha256(multiplier.table().astype("<i4").tobytes()).hexdigest()[:16]


def dry(config: CampaignConfig) -> CampaignConfig:
    """Return the campaign without any fault: rate 0, and one map of each kind, as all are empty."""
    return replace(config, rates=(0.0,), maps=1)


def not_golden(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Return the rows of a campaign without faults in which anything shows: another count of right answers, a fault, a rewrite."""
    golden = rows.correct_fault_free
    nothing = ["faults", "weights_wrong", "weights_wrong_after", "sdc"]
    differs = (rows.correct != golden) | (rows.correct_faulty != golden) | (rows[nothing] != 0).any(axis=1)
    return rows[differs | (rows[["repairs", "words_written"]].fillna(0) != 0).any(axis=1)]


def plan(config: CampaignConfig, data: str | os.PathLike | None = None) -> list[Unit]:
    """Return the units of a campaign: by network, multiplier, site, fault point and kind of fault, map, and rising rate.

    Multipliers that compute the same function stand together, on each fault one after the other: they share what is computed.

    Parameters
    ----------
    config : CampaignConfig
    data : path, optional
        Where the data sets are; see ``epsilon.data.load``.

    Raises
    ------
    ValueError
        For a network that cannot be read, a fault point or a fitted gamma that it does not have, and more images than there are.
    """
    circuits = [multipliers.get(name) for name in config.multipliers]
    functions: dict[str, list[multipliers.Multiplier]] = {}
    for circuit in circuits:
        functions.setdefault(function_digest(circuit), []).append(circuit)
    seeds = [map_seed(config.seed, index) for index in range(config.maps)]
    counts: dict[str, int] = {}
    units = []
    for index, name in enumerate(config.networks):
        network = _network(config, index)
        _require_points(config, network)
        _require_gamma(config, network, circuits)
        dataset = network.metadata.get("dataset", network.name)
        if dataset not in counts:
            counts[dataset] = _images(config, dataset, data)
        shared = {
            "network": name if name in builtin_names() else str(Path(name).absolute()),
            "network_digest": network_digest(network),
            "rows": config.rows,
            "cols": config.cols,
            "split": config.split,
            "images": counts[dataset],
        }
        for function, alike in functions.items():
            for fault in _faults(config, seeds):
                variants = tuple(_variants(config, fault.site))
                if variants:
                    same = {**shared, "function": function, "fault": fault, "variants": variants}
                    units += [Unit(**same, multiplier=circuit.spec) for circuit in alike]
    return units


def row_keys(unit: Unit) -> list[str]:
    """Return the keys of a unit's rows, in the order of its variants."""
    return [unit.key(technique, setting) for technique, setting in unit.variants]


def _network(config: CampaignConfig, index: int) -> QuantizedNetwork:
    try:
        return load(config.networks[index])
    except InvalidNetworkError as error:
        raise config.error("networks", index, str(error)) from None


def _require_points(config: CampaignConfig, network: QuantizedNetwork) -> None:
    """Refuse fault points that a network does not have."""
    known = {layer.name for layer in network.weighted}
    for index, point in enumerate(config.points if "storage" in config.sites else ()):
        try:
            (layer,) = resolve_layers(network, [point])
        except ValueError as error:
            raise config.error("points", index, str(error)) from None
        if point != "all" and layer not in known:
            layers = ", ".join(sorted(known))
            sentence = f"Network {network.name!r} has no layer {point!r}: faults.points takes FP1 to FP4, all, or one of {layers}"
            raise config.error("points", index, sentence)


def _require_gamma(config: CampaignConfig, network: QuantizedNetwork, circuits: list[multipliers.Multiplier]) -> None:
    """Refuse multipliers for which a network has no threshold, where one is needed."""
    if None not in config.gammas or not any(technique.kind in USES_GAMMA for technique in config.techniques):
        return
    for index, circuit in enumerate(circuits):
        try:
            gamma_of(network, ArrayConfig(multiplier=circuit))
        except ValueError:
            sentence = f"Network {network.name!r} has no fitted gamma for {circuit.key}: give numbers under gamma"
            raise config.error("multipliers", index, sentence) from None


def _images(config: CampaignConfig, dataset: str, data: str | os.PathLike | None) -> int:
    """Return how many images of a data set the campaign runs; its content is verified where it is used."""
    found = datasets.load(dataset, config.split, data, verify=False)
    if config.images is None:
        return len(found)
    if config.images > len(found):
        found.first(config.images)  # says so
    return config.images


def _faults(config: CampaignConfig, seeds: list[int]) -> Iterator[FaultSpec]:
    for site in config.sites:
        points = config.points if site == "storage" else ("all",)
        kinds = product(points, config.polarities, config.bits, config.bit)
        for (point, polarity, bits, bit), seed, rate in product(kinds, seeds, sorted(config.rates)):
            yield FaultSpec(site=site, point=point, rate=rate, polarity=polarity, bits=bits, seed=seed, bit=bit)


def _variants(config: CampaignConfig, site: str) -> Iterator[tuple[Technique, Setting]]:
    """Yield what runs on a map; a technique that a setting does not touch runs once."""
    for technique in config.techniques:
        if technique.target == "golden" and site == "storage":
            continue
        gammas = config.gammas if technique.kind in USES_GAMMA else (None,)
        alphas = config.alphas if technique.kind in USES_ALPHA else (None,)
        for gamma, alpha in product(gammas, alphas):
            yield technique, Setting(gamma=gamma, alpha=alpha)
