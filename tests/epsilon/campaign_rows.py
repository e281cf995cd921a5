"""Ways in which the computing of a campaign's unit can go, for tests of everything around it; importable by worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from epsilon.campaign.schema import Unit
from epsilon.campaign.unit import run_unit


def run(unit: Unit, *, data: str | None = None, threads: int = 1) -> list[dict]:
    return run_unit(unit, threads=threads)


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
