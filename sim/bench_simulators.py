"""All simulators on the same work, one after the other, each in a process of its own: what is behind every claim of speed."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from epsilon.config import ArrayConfig

__all__ = ["SIMULATORS", "Job", "Measurement", "bench", "jobs"]


@dataclass(frozen=True)
class Kind:
    """A simulator, or lanes in one of their forms: how many, on how many cores, with which back end."""

    name: str
    worker: str
    lanes: int = 1
    cores: int = 1
    backend: str = ""


KINDS = (
    Kind("Amaranth's simulator", "amaranth"),
    Kind("cocotb, Icarus", "icarus"),
    Kind("cocotb, Verilator", "cocotb"),
    Kind("Verilator in process", "verilator"),
    Kind("lanes, 64-bit words", "lanes", 64, 1, "plain"),
    Kind("lanes, AVX2", "lanes", 256, 1, "avx2"),
    Kind("lanes, NEON", "lanes", 128, 1, "neon"),
    Kind("lanes, AVX-512", "lanes", 512, 1, "avx512"),
    Kind("lanes, 2 cores", "lanes", 1024, 2, "auto"),
)
#: Names by which simulators are chosen.
SIMULATORS = tuple(dict.fromkeys(kind.worker for kind in KINDS))


@dataclass(frozen=True)
class Job:
    """One line of the table: a simulator on an array."""

    kind: Kind
    config: ArrayConfig

    @property
    def array(self) -> str:
        return f"{self.config.rows}x{self.config.cols} {self.config.multiplier.short_name}"

    def __str__(self) -> str:
        return f"{self.array} {self.config.level}, {self.kind.name}"


@dataclass(frozen=True)
class Measurement:
    """What was measured, or ``problem``: why not.

    ``build_s`` seconds from the hardware description to the first cycle; ``cycles_per_s`` of every lane; ``mac_per_s`` of all
    lanes; ``memory_mb`` the most that the simulating process had; ``transposition`` share of the time, 0..1, of lanes on one core.
    """

    job: Job
    problem: str | None = None
    build_s: float | None = None
    cycles_per_s: float | None = None
    mac_per_s: float | None = None
    program_cycles: int | None = None
    memory_mb: float | None = None
    transposition: float | None = None

    def describe(self) -> dict:
        """Return plain JSON values."""
        values = {name: value for name, value in vars(self).items() if name != "job"}
        return {"array": self.job.array, "level": self.job.config.level, **asdict(self.job.kind), **values}


def jobs(configs: Iterable[ArrayConfig], simulators: Iterable[str] = SIMULATORS) -> list[Job]:
    """Return the lines of the table; lanes in every form that processors of this kind can run, whether or not this one does.

    Raises
    ------
    ValueError
        For a simulator that is not one of ``SIMULATORS``.
    """
    from sim.lanes.backend import BACKENDS

    chosen = tuple(simulators)
    for name in chosen:
        if name not in SIMULATORS:
            raise ValueError(f"The simulators are {', '.join(SIMULATORS)}, not {name!r}")
    foreign = {name for name, backend in BACKENDS.items() if backend.machines and platform.machine() not in backend.machines}
    kinds = [kind for kind in KINDS if kind.worker in chosen and kind.backend not in foreign]
    return [Job(kind, config) for config in configs for kind in kinds]


def bench(
    todo: Iterable[Job],
    *,
    span_s: float,
    limit_s: float,
    cached: bool = False,
    progress: Callable[[int, Job], None] | None = None,
) -> list[Measurement]:
    """Measure one job after the other.

    Parameters
    ----------
    span_s : float
        Seconds to simulate, at least one program.
    limit_s : float
        Seconds after which a job is given up, its build included.
    cached : bool
        Use builds of earlier runs, whose time then does not show; else every job builds anew.
    progress : callable, optional
        Called with the number of finished jobs and the next one.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for done, job in enumerate(todo):
            if progress is not None:
                progress(done, job)
            cache = None if cached else Path(folder, str(done))
            found.append(_measure(job, span_s, limit_s, cache))
    return found


def _measure(job: Job, span_s: float, limit_s: float, cache: Path | None) -> Measurement:
    config = {**job.config.describe(), "multiplier": job.config.multiplier.spec}
    command = [sys.executable, "-m", "sim.bench_workers", job.kind.worker, json.dumps(config), str(span_s)]
    if job.kind.worker == "lanes":
        command += [str(job.kind.lanes), str(job.kind.cores), job.kind.backend]
    environment = {**os.environ, **({} if cache is None else {"EPSILON_CACHE": str(cache)})}
    # A session of its own: what the worker started (compilers, simulators) ends with it.
    worker = subprocess.Popen(
        command,
        env=environment,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, errors = worker.communicate(timeout=limit_s)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return Measurement(job, problem=f"not done after {limit_s:g} s")
    try:
        values = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        said = errors.strip().splitlines()[-1:] or ["nothing"]
        return Measurement(job, problem=f"ended with exit status {worker.returncode}: {said[0]}")
    return Measurement(job, problem=values["error"]) if "error" in values else Measurement(job, **values)
