"""Small ways to compute the rows of a campaign's unit, for tests of everything around it; importable by worker processes.

The rows are those of real runs of ``epsilon.techniques.run_technique``; columns that it does not know are empty.
"""

from __future__ import annotations

import json
import os
import signal
import time
from functools import lru_cache
from pathlib import Path

import numpy as np

from epsilon import data, network_io
from epsilon.campaign.schema import COLUMNS, Setting, Technique, Unit
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.executor import encode
from epsilon.fault_points import resolve_layers
from epsilon.faults import FaultMap
from epsilon.techniques import gamma_of, run_technique


@lru_cache
def _network(name: str):
    return network_io.load(name)


@lru_cache
def _images(split: str, count: int):
    return data.load("digits", split).first(count)


def run(unit: Unit, *, data: str | None = None, threads: int = 1) -> list[dict]:
    return [_row(unit, technique, setting) for technique, setting in unit.variants]


def run_slowly(unit: Unit, *, data: str | None = None, threads: int = 1) -> list[dict]:
    rows = run(unit)
    time.sleep(0.1)
    return rows


def run_and_die_once(unit: Unit, *, data: str | None = None, threads: int = 1) -> list[dict]:
    """Kill the worker in the middle of a unit, the first time that any gets so far; ``data`` is where that is noted."""
    if unit.fault.rate == 0.3 and not (noted := Path(data) / "died").exists():
        noted.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return run(unit)


def run_and_refuse(unit: Unit, *, data: str | None = None, threads: int = 1) -> list[dict]:
    if unit.fault.rate == 0.3:
        raise ValueError("This rate is not to be had")
    return run(unit)


def run_other_rows(unit: Unit, *, data: str | None = None, threads: int = 1) -> list[dict]:
    return [row | {"key": row["key"][::-1]} for row in run(unit)]


@lru_cache(maxsize=64)
def _outcome(name, config, split, count, technique, faults, gamma, target=None, detector="exact"):
    network, images = _network(name), _images(split, count)
    codes = encode(network, images.images)
    options = {"faults": faults, "gamma": gamma, "target": target, "detector": detector}
    return run_technique(technique, Emulator(config), network, codes, images.labels, **options)


def _row(unit: Unit, technique: Technique, setting: Setting) -> dict:
    network, config = _network(unit.network), ArrayConfig(rows=unit.rows, cols=unit.cols, multiplier=unit.multiplier)
    images, fault = _images(unit.split, unit.images), unit.fault
    layers = None if fault.point == "all" else resolve_layers(network, [fault.point])
    options = {"site": fault.site, "rate": fault.rate, "polarity": fault.polarity, "bits": fault.bits, "seed": fault.seed}
    faults = FaultMap.sample(network, config, layers=layers, **options)
    gamma = gamma_of(network, config) if setting.gamma is None else setting.gamma
    name = {"vanilla": "last-exit", "exits": "none", "epsilon": technique.repair}[technique.kind]
    more = {"target": technique.target, "detector": technique.detector or "exact"}
    exits = "last-exit" if name == "last-exit" else "none"
    found = _outcome(unit.network, config, unit.split, unit.images, name, faults, gamma, *more.values())
    golden, faulty = (_outcome(unit.network, config, unit.split, unit.images, exits, each, gamma) for each in (None, faults))
    right = found.stream.predictions == images.labels
    values = {
        "key": unit.key(technique, setting),
        "configuration": json.dumps(unit.configuration(technique, setting), sort_keys=True, separators=(",", ":")),
        "network": network.name,
        "dataset": "digits",
        "kind": technique.kind,
        "technique": technique.name,
        "gamma": gamma,
        "gamma_fitted": int(setting.gamma is None),
        "alpha": setting.alpha,
        "polarity": str(fault.polarity),
        "map_digest": faults.digest,
        "correct": int(right.sum()),
        "correct_bits": np.packbits(right).tobytes(),
        "correct_fault_free": golden.stream.correct(images.labels),
        "correct_faulty": faulty.stream.correct(images.labels),
        "faults": len(faults),
        "sdc": int((found.stream.predictions != golden.stream.predictions).sum()),
        "weights_wrong": int(fault.rate > 0),
        "weights_wrong_after": int(fault.rate > 0),
        "checks": len(found.stream.events),
        "run_cycles": int(found.stream.run.sum()),
    }
    known = {"network_digest", "multiplier", "function", "rows", "cols", "images"}
    values |= {name: getattr(unit, name) for name in known}
    values |= {name: getattr(fault, name) for name in ("site", "point", "rate", "bits", "bit", "seed")}
    values |= {name: getattr(technique, name) for name in ("repair", "target", "detector")}
    return {name: values.get(name) for name in COLUMNS}
