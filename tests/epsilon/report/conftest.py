"""Rows of small campaigns, computed on the emulator when the tests run."""

from __future__ import annotations

import pandas as pd
import pytest

from epsilon import multipliers, network_io
from epsilon.campaign.plan import function_digest
from epsilon.campaign.schema import COLUMNS, FaultSpec, Setting, Technique, Unit
from epsilon.campaign.store import ResultStore
from epsilon.campaign.unit import run_unit

TECHNIQUES = {
    "vanilla": Technique(kind="vanilla"),
    "exits": Technique(kind="exits"),
    "epsilon/quartile": Technique(kind="epsilon", repair="quartile", detector="exact"),
    "epsilon/quartile/pattern": Technique(kind="epsilon", repair="quartile", detector="pattern"),
    "epsilon/nearest": Technique(kind="epsilon", repair="nearest", detector="exact"),
    "epsilon/invert/map": Technique(kind="epsilon", repair="invert", target="map", detector="exact"),
}


class Campaign:
    """Makes rows of one network on the first images of its test split."""

    def __init__(self, network: str, images: int, folder=None) -> None:
        self.network, self.images, self.folder = network, images, folder
        self.digest = network_io.network_digest(network_io.load(network))

    def row(
        self, technique: str, multiplier: str = "KVP", *, point="FP1", rate=0.0, seed=1, site="storage", bit=None, gamma=None
    ) -> dict:
        point = point if site == "storage" else "all"
        chosen = multipliers.get(multiplier)
        unit = Unit(
            network=self.network,
            network_digest=self.digest,
            multiplier=chosen.key,
            function=function_digest(chosen),
            rows=16,
            cols=16,
            fault=FaultSpec(site=site, point=point, rate=rate, polarity=1, bits="uniform", seed=seed, bit=bit),
            split="test",
            images=self.images,
            variants=((TECHNIQUES[technique], Setting(gamma=gamma)),),
        )
        return run_unit(unit, data=self.folder)[0]


@pytest.fixture(scope="session")
def write_results():
    """Return a function that writes rows into a file of results."""
    return _write


def _write(path, rows: list[dict]) -> None:
    with ResultStore(path) as store:
        store.begin_campaign({"name": "made by a test"}, [row["key"] for row in rows])
        store.add(rows)


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
    """MobileNet on a few CIFAR-10 images: two cells of Table I, and faulty PEs."""
    made = Campaign("mobilenet-w0.5-cifar10", 12, real_set("cifar10"))
    techniques = ("vanilla", "epsilon/quartile", "epsilon/nearest")
    table = [made.row(name, point=point, rate=0.5) for name in techniques for point in ("FP1", "FP4")]
    return [*table, *(made.row("epsilon/nearest", site="array", rate=rate) for rate in (0.1, 0.5))]
