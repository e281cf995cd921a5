"""Ways in which the computing of a campaign's unit can go, for tests of everything around it; importable by worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from epsilon.campaign.config import CampaignConfig
from epsilon.campaign.schema import Technique, Unit
from epsilon.campaign.unit import run_unit

SMALL = CampaignConfig(
    networks=("digits",),
    multipliers=("v2022/mul8s_1KVP", "v2022/mul8s_1L2N"),
    images=16,
    rows=8,
    cols=8,
    points=("all",),
    rates=(0.1, 0.3),
    maps=2,
    techniques=(
        Technique(kind="vanilla"),
        Technique(kind="epsilon", repair="quartile", detector="exact"),
        Technique(kind="epsilon", repair="nearest", target="expected", detector="exact"),
    ),
)
#: Images of units that ``run_or_fail`` refuses.
REFUSED = 15


def run(unit: Unit, *, data: str | None = None, threads: int = 1) -> list[dict]:
    return run_unit(unit, threads=threads)


def run_slowly(unit: Unit, *, data: str | None = None, threads: int = 1) -> list[dict]:
    rows = run(unit)
    time.sleep(0.1)
    return rows


def run_or_fail(unit: Unit, *, data: str | None = None, threads: int = 1) -> list[dict]:
    """Refuse a unit of ``REFUSED`` images; kill the worker in the middle of another, when the first gets to the higher rate.

    ``data`` is where its death is noted.
    """
    if unit.images == REFUSED:
        raise ValueError("So many images are not to be had")
    if unit.fault.rate == max(SMALL.rates) and not (noted := Path(data) / "died").exists():
        noted.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return run(unit)


def run_other_rows(unit: Unit, *, data: str | None = None, threads: int = 1) -> list[dict]:
    return [row | {"key": row["key"][::-1]} for row in run(unit)]
