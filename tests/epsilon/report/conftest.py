"""Rows of small campaigns, computed on the emulator when the tests run."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

from epsilon import data, network_io
from epsilon.campaign.schema import COLUMNS
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.executor import encode
from epsilon.fault_points import resolve_layers
from epsilon.faults import FaultMap
from epsilon.techniques import gamma_of, run_technique

ROWS = COLS = 16
#: Techniques of the rows: kind, repair, target, detector.
TECHNIQUES = {
    "vanilla": ("vanilla", None, None, None),
    "exits": ("exits", None, None, None),
    "epsilon/quartile": ("epsilon", "quartile", None, "exact"),
    "epsilon/quartile/pattern": ("epsilon", "quartile", None, "pattern"),
    "epsilon/nearest": ("epsilon", "nearest", None, "exact"),
    "epsilon/invert/map": ("epsilon", "invert", "map", "exact"),
}


class Campaign:
    """Makes rows of one network on the first images of its test split."""

    def __init__(self, network: str, images: int, folder=None) -> None:
        self.network = network_io.load(network)
        self.test = data.load(self.network.metadata.get("dataset", network), "test", folder).first(images)
        self.codes = encode(self.network, self.test.images)
        self.fault_free = cache(self._fault_free)
        self._scores = {}

    def row(
        self,
        technique: str,
        multiplier: str = "KVP",
        *,
        point="FP1",
        rate=0.0,
        seed=1,
        site="storage",
        bit=None,
        gamma=None,
        polarity=1,
        scored=True,
    ) -> dict:
        kind, repair, target, detector = TECHNIQUES[technique]
        config = ArrayConfig(rows=ROWS, cols=COLS, multiplier=multiplier)
        fitted = gamma_of(self.network, config)
        layers = None if site == "array" else resolve_layers(self.network, [point])
        faults = FaultMap.sample(self.network, config, site=site, rate=rate, polarity=polarity, seed=seed, layers=layers)
        if bit is not None:
            faults = FaultMap({n: replace(r, bit=np.full(len(r), bit, np.uint8)) for n, r in faults.storage.items()})
        used = fitted if gamma is None else gamma
        outcome = self._run(technique, config, faults, used)
        stream, healthy = outcome.stream, self.fault_free(kind == "vanilla", multiplier, used)
        right = stream.predictions == self.test.labels
        flagged = next((check.image for check in stream.events if check.flagged), len(right))
        first = stream.events[0] if stream.events else None
        wrong = self._wrong_layers(config, faults)
        found = {layer for check in stream.events for layer in check.flagged}
        chosen = {"point": point if site == "storage" else "all", "rate": rate, "seed": seed, "site": site, "bit": bit}
        configuration = {**chosen, "technique": technique, "multiplier": multiplier, "gamma": gamma, "split": "test"}
        text = json.dumps(
            {**configuration, "polarity": polarity, "images": len(right), "network": self.network.name}, sort_keys=True
        )
        pattern = self._pattern(config, faults, used, wrong) if scored and first is not None else None
        values = {
            "key": hashlib.sha256(text.encode()).hexdigest()[:32],
            "configuration": text,
            "network": self.network.name,
            "network_digest": network_io.network_digest(self.network),
            "dataset": self.network.metadata.get("dataset", self.network.name),
            "multiplier": config.multiplier.key,
            "function": hashlib.sha256(config.multiplier.table().tobytes()).hexdigest()[:16],
            "rows": ROWS,
            "cols": COLS,
            **chosen,
            "layers": json.dumps(layers or [layer.name for layer in self.network.weighted]),
            "polarity": str(polarity),
            "bits": "uniform",
            "map_digest": faults.digest,
            "technique": technique,
            "kind": kind,
            "repair": repair,
            "target": target,
            "detector": detector,
            "gamma": used,
            "gamma_fitted": int(gamma is None),
            "images": len(right),
            "correct_fault_free": int((healthy == self.test.labels).sum()),
            "correct": int(right.sum()),
            "correct_bits": np.packbits(right).tobytes(),
            "sdc": int((stream.predictions != healthy)[:flagged].sum()),
            "faults": len(faults),
            "layers_faulty": len(wrong),
            "layers_detected": len(found & wrong),
            "layers_missed": len(wrong - found) if first is not None else 0,
            "checks": len(stream.events),
            "first_check": first.image if first is not None else None,
            "scores": json.dumps(pattern) if pattern is not None else None,
            "exits": json.dumps(outcome.exits_taken),
            "run_cycles": int(stream.run.sum()),
            "scan_cycles": int(stream.scan.sum()),
            "probe_cycles": int(stream.probe.sum()),
        }
        if rate > 0 and kind == "epsilon":
            missed = float(np.exp(-(0.7**2) / (2 * rate)))
            values |= {"bound_missed": missed, "bound_error": (1 - used) ** len(self.network.exits) + missed}
        return {name: values.get(name) for name in COLUMNS}

    def _run(self, technique: str, config, faults, gamma: float):
        kind, repair, target, detector = TECHNIQUES[technique]
        name = {"vanilla": "last-exit", "exits": "none"}.get(kind, repair)
        options = {"target": target, "detector": detector or "exact", "lookahead": len(self.codes)}
        return run_technique(
            name, Emulator(config), self.network, self.codes, self.test.labels, faults=faults, gamma=gamma, **options
        )

    def _fault_free(self, vanilla: bool, multiplier: str, gamma: float) -> np.ndarray:
        config = ArrayConfig(rows=ROWS, cols=COLS, multiplier=multiplier)
        return self._run("vanilla" if vanilla else "exits", config, None, gamma).stream.predictions

    def _wrong_layers(self, config, faults) -> set[str]:
        used = config.multiplier.used_weight_bits
        wrong = set()
        for layer in self.network.weighted:
            stuck = faults.stuck_bits(layer, config)
            codes = layer.matrix.view(np.uint8)
            if stuck is not None and ((((codes & ~stuck.sa0) | stuck.sa1) ^ codes) & used).any():
                wrong.add(layer.name)
        return wrong

    def _pattern(self, config, faults, gamma: float, wrong: set[str]) -> list:
        # The first check comes before any repair: the scores are the map's, whatever the technique.
        key = (config.multiplier.key, faults.digest)
        if key not in self._scores:
            self._scores[key] = self._run("epsilon/quartile/pattern", config, faults, gamma).stream.events[0].layers
        return [[layer.layer, int(layer.layer in wrong), layer.score, layer.threshold] for layer in self._scores[key]]


def _write_results(path, rows: list[dict]) -> None:
    """Write rows as a campaign's store does."""
    with closing(sqlite3.connect(path)) as connection:
        columns = ", ".join(f'"{name}" {column.type}' for name, column in COLUMNS.items())
        connection.execute(f"CREATE TABLE runs ({columns}, PRIMARY KEY (key))")
        connection.executemany(f"INSERT INTO runs VALUES ({', '.join('?' * len(COLUMNS))})", [tuple(row.values()) for row in rows])
        connection.commit()


@pytest.fixture(scope="session")
def write_results():
    return _write_results


@pytest.fixture(scope="session")
def campaign() -> Campaign:
    return Campaign("digits", 150)


@pytest.fixture(scope="session")
def rows(campaign) -> list[dict]:
    """Digits: two fault points and the array, three maps; healthy rows; a sweep of gamma; chosen bits; two multipliers."""
    made = [campaign.row(name) for name in TECHNIQUES]
    for name in TECHNIQUES:
        if name != "epsilon/quartile/pattern":
            for seed in (1, 2, 3):
                made += [campaign.row(name, point=p, rate=rate, seed=seed) for p in ("FP1", "FP4") for rate in (0.1, 0.5)]
                made.append(campaign.row(name, site="array", rate=0.3, seed=seed))
    made += [campaign.row("vanilla", "L2N", point="FP4", rate=0.5, seed=seed) for seed in (1, 2)]
    for gamma in (0.5, 0.7, 0.9):
        made += [campaign.row("epsilon/nearest", rate=0.5, point="FP4", seed=seed, gamma=gamma) for seed in (1, 2)]
    made += [
        campaign.row("vanilla", rate=0.3, point=p, seed=s, bit=bit) for p in ("FP1", "FP4") for bit in (0, 4, 7) for s in (1, 2)
    ]
    return made


@pytest.fixture(scope="session")
def frame(rows) -> pd.DataFrame:
    return pd.DataFrame.from_records(rows, columns=list(COLUMNS))


@pytest.fixture(scope="session")
def results(frame):
    from epsilon.report.results import Results
    from epsilon.resampling import Resampler

    return Results(frame, Resampler(resamples=500))


@pytest.fixture(scope="session")
def results_file(rows, write_results, tmp_path_factory):
    path = tmp_path_factory.mktemp("campaign") / "results.sqlite"
    write_results(path, rows)
    return path


@pytest.fixture(scope="session")
def cifar_rows(real_set) -> list[dict]:
    """MobileNet on a few CIFAR-10 images: two cells of Table I."""
    made = Campaign("mobilenet-w0.5-cifar10", 12, real_set("cifar10"))
    techniques = ("vanilla", "epsilon/quartile", "epsilon/nearest")
    return [made.row(name, point=point, rate=0.5, scored=False) for name in techniques for point in ("FP1", "FP4")]
