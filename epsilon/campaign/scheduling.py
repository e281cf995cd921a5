"""Units of work to workers and their rows to the file: in this process's children, or on a Dask cluster (``dask_workers``).

One process alone writes the file. A worker gets one unit at a time, of the network and function of the multiplier that it had
before as long as there are any, and of those one on the same faults first, because a process keeps what such units share. So the
load is even to the end, and a worker that dies loses one unit.
Rows do not depend on who computes them, nor on how many workers there are.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from epsilon.campaign.plan import row_keys
from epsilon.campaign.schema import FaultSpec, Unit
from epsilon.campaign.store import ResultStore

__all__ = ["Assignments", "Finished", "LocalWorkers", "Lost", "RunUnit", "Workers", "execute", "pending", "run_and_time"]

#: Computes the rows of a unit: ``run(unit, data=folder, threads=number)``; by default ``epsilon.campaign.unit.run_unit``.
RunUnit = Callable[..., list[dict]]
#: So many workers may die on a unit before the campaign stops.
ATTEMPTS = 3
#: Seconds after which workers are looked for again: those that vanished, and new ones.
LOOK_S = 1.0


@dataclass(frozen=True)
class Finished:
    """A worker is done with its unit: the rows, or the error that came instead."""

    worker: str
    rows: list[dict] | None
    seconds: float
    error: Exception | None = None


@dataclass(frozen=True)
class Lost:
    """A worker died before its unit was done."""

    worker: str


class Workers(Protocol):
    """Those who compute, each one unit at a time."""

    def names(self) -> list[str]:
        """Return who is there now."""

    def start(self, worker: str, unit: Unit) -> None:
        """Give a unit to a worker that has none; one that has died is reported as ``Lost``."""

    def events(self, timeout_s: float) -> list[Finished | Lost]:
        """Return what happened, at the latest after so many seconds."""

    def close(self) -> None:
        """Let everyone go at once, whatever they are doing."""


class Assignments:
    """Which unit comes next, for whom; units of one network and function of the multiplier stay together, and on the same faults.

    Parameters
    ----------
    units : iterable of Unit
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self._groups: dict[tuple, dict[FaultSpec, deque[Unit]]] = {}
        self._deaths: Counter[Unit] = Counter()
        self._last: dict[str, Unit] = {}
        self.running: dict[str, Unit] = {}
        for unit in units:
            self._groups.setdefault(_group(unit), {}).setdefault(unit.fault, deque()).append(unit)

    def __len__(self) -> int:
        return sum(map(self._left, self._groups)) + len(self.running)

    def _left(self, group: tuple) -> int:
        return sum(map(len, self._groups[group].values()))

    def next(self, worker: str) -> Unit | None:
        """Return the unit that a worker does now; None when all are given away.

        Of the group that it had; else of the one that fewest are at, of those the largest. In it on the faults that it had; else on
        the first that nobody has, or, where there are none left, on the first.
        """
        last = self._last.get(worker)
        group = None if last is None else _group(last)
        if not self._groups.get(group):
            at = Counter(_group(unit) for unit in self.running.values())
            left = [group for group, faults in self._groups.items() if faults]
            if not left:
                return None
            group = min(left, key=lambda group: (at[group], -self._left(group)))
        faults = self._groups[group]
        fault = None if last is None else last.fault
        if fault not in faults:
            taken = {unit.fault for unit in self._last.values()}
            fault = next((fault for fault in faults if fault not in taken), next(iter(faults)))
        unit = faults[fault].popleft()
        if not faults[fault]:
            del faults[fault]
        self._last[worker] = self.running[worker] = unit
        return unit

    def finished(self, worker: str) -> Unit:
        """Return the unit that a worker is done with."""
        return self.running.pop(worker)

    def lost(self, worker: str) -> None:
        """Take back the unit of a worker that died.

        Raises
        ------
        ValueError
            When too many died on it.
        """
        unit = self.running.pop(worker)
        self._last.pop(worker, None)
        self._deaths[unit] += 1
        if self._deaths[unit] == ATTEMPTS:
            raise ValueError(
                f"{ATTEMPTS} workers died on network {Path(unit.network).name} under {unit.multiplier}, perhaps for want of "
                "memory: try fewer --workers"
            )
        # It comes first, and so does all that is on its faults.
        group = _group(unit)
        faults = self._groups[group]
        same = faults.pop(unit.fault, deque())
        same.appendleft(unit)
        self._groups[group] = {unit.fault: same, **faults}


def pending(units: Iterable[Unit], done: set[str]) -> list[Unit]:
    """Return the units with the variants whose rows are not there yet, none of them twice."""
    left, seen = [], set(done)
    for unit in units:
        keys = row_keys(unit)
        variants = tuple(variant for variant, key in zip(unit.variants, keys, strict=True) if key not in seen)
        seen.update(keys)
        if variants:
            left.append(replace(unit, variants=variants))
    return left


def execute(
    units: Iterable[Unit], workers: Workers, store: ResultStore, *, progress: Callable[[int, int, int, int], None] | None = None
) -> None:
    """Compute the rows that the file lacks, and add each unit's when it is done.

    Parameters
    ----------
    units : iterable of Unit
    workers : Workers
        Closed by who made them.
    store : ResultStore
    progress : callable, optional
        From units done, units in all, rows added, and workers that are there; called at every event, and while there is none.

    Raises
    ------
    ValueError, OSError
        What a unit, the file or the cluster ended with; what was finished before is in the file.
    """
    left = pending(units, store.keys())
    assignments, done, rows = Assignments(left), 0, 0
    while len(assignments):
        names = workers.names()
        for worker in names:
            if worker not in assignments.running and (unit := assignments.next(worker)) is not None:
                workers.start(worker, unit)
        for event in workers.events(LOOK_S):
            if isinstance(event, Lost):
                assignments.lost(event.worker)
                continue
            unit = assignments.finished(event.worker)
            if event.error is not None:
                raise event.error
            _require_rows(unit, event)
            store.add(event.rows, seconds=event.seconds, worker=event.worker)
            done, rows = done + 1, rows + len(event.rows)
        if progress is not None:
            progress(done, len(left), rows, len(names))


def run_and_time(run: RunUnit | None, unit: Unit, data: str | None, threads: int) -> tuple[list[dict], float]:
    """Return the rows of a unit and the seconds that they took; what a worker does."""
    if run is None:
        from epsilon.campaign.unit import run_unit as run
    begun = time.perf_counter()
    rows = run(unit, data=data, threads=threads)
    return rows, time.perf_counter() - begun


class LocalWorkers:
    """Processes on this machine, each on one core; one that dies is replaced.

    Parameters
    ----------
    count : int
        At least 1.
    data : path, optional
        Where the data sets are; see ``epsilon.data.load``.
    run : callable, optional
        See ``RunUnit``; must be importable by name.
    """

    def __init__(self, count: int, *, data: str | os.PathLike | None = None, run: RunUnit | None = None) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"The number of workers must be an integer of at least 1, not {count!r}")
        self._arguments = (run, None if data is None else str(Path(data).absolute()))
        # Children that are started afresh inherit no open file, so none of them holds the lock of a parent that was killed.
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[str, tuple[multiprocessing.process.BaseProcess, Connection]] = {}
        self._hired = 0
        self._busy: set[str] = set()
        for _ in range(count):
            self._hire()

    def _hire(self) -> None:
        ours, theirs = self._context.Pipe()
        name = f"local-{self._hired}"
        self._hired += 1
        process = self._context.Process(target=_serve, args=(theirs, *self._arguments), name=name, daemon=True)
        process.start()
        theirs.close()
        self._processes[name] = (process, ours)

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each worker."""
        return {name: process.pid for name, (process, _) in self._processes.items()}

    def names(self) -> list[str]:
        return list(self._processes)

    def start(self, worker: str, unit: Unit) -> None:
        self._busy.add(worker)
        with contextlib.suppress(OSError):  # where it is dead, the next look at its connection says so
            self._processes[worker][1].send(unit)

    def events(self, timeout_s: float) -> list[Finished | Lost]:
        found: list[Finished | Lost] = []
        connections = {connection: name for name, (_, connection) in self._processes.items()}
        for connection in wait(list(connections), timeout_s):
            name = connections[connection]
            try:
                answer = connection.recv()
            except (EOFError, OSError):
                self._replace(name)
                if name in self._busy:
                    found.append(Lost(name))
            else:
                found.append(Finished(name, *answer))
            self._busy.discard(name)
        return found

    def _replace(self, name: str) -> None:
        process, connection = self._processes.pop(name)
        connection.close()
        process.kill()
        process.join()
        self._hire()

    def close(self) -> None:
        for process, connection in self._processes.values():
            process.kill()
            connection.close()
        for process, _ in self._processes.values():
            process.join()
        self._processes.clear()

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(connection: Connection, run: RunUnit | None, data: str | None) -> None:
    """Compute units until nobody sends any; without a parent a worker ends with its unit."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who then closes everything
    while True:
        try:
            unit = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = (*run_and_time(run, unit, data, 1), None)
        except Exception as error:
            answer = (None, 0.0, _portable(error))
        try:
            connection.send(answer)
        except OSError:
            return


def _portable(error: Exception) -> Exception:
    """Return an error that survives the way to another process, with where it came from."""
    import pickle
    import traceback

    trace = "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In a worker:\n{trace}")
    return error


def _group(unit: Unit) -> tuple:
    return unit.network, unit.network_digest, unit.function, unit.images


def _require_rows(unit: Unit, event: Finished) -> None:
    if [row["key"] for row in event.rows] != row_keys(unit):
        raise ValueError(f"Worker {event.worker} gave other rows than were asked for: it has another version of this program")
