"""Workers of a Dask cluster, and of a SLURM cluster through dask-jobqueue.

A worker needs this project in the same version, the data sets (at the path of ``--data``, else where its own EPSILON_DATA says),
and the files of networks and multipliers of the user's own at the same absolute paths. It computes one unit at a time with all its
threads; ``dask worker ADDRESS --nworkers auto --nthreads 1`` starts one for every core.
"""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from epsilon.campaign.scheduling import Finished, Lost, RunUnit, run_and_time
from epsilon.campaign.schema import Unit
from epsilon.sentences import first_line

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["DaskWorkers", "connected", "slurm_cluster"]

#: Seconds to wait for a scheduler.
CONNECT_S = 10
#: Memory of a SLURM job, where dask-jobqueue's own configuration says nothing.
JOB_MEMORY = "4GB"


class DaskWorkers:
    """The workers that a scheduler has, as they come and go.

    Parameters
    ----------
    client : distributed.Client
    data, run
        As for ``LocalWorkers``; the folder is one of the workers' machines.
    """

    def __init__(self, client: Client, *, data: str | os.PathLike | None = None, run: RunUnit | None = None) -> None:
        self._client = client
        self._arguments = (run, None if data is None else str(Path(data).absolute()))
        self._threads: dict[str, int] = {}
        self._running: dict[str, Future] = {}
        self._done: queue.SimpleQueue[tuple[str, Future]] = queue.SimpleQueue()

    def names(self) -> list[str]:
        self._threads = dict(self._client.nthreads())
        return list(self._threads)

    def start(self, worker: str, unit: Unit) -> None:
        run, data = self._arguments
        # Tied to the worker: one that dies must be reported, and not replaced behind the scheduler's back.
        future = self._client.submit(
            run_and_time, run, unit, data, self._threads[worker], workers=[worker], allow_other_workers=False, pure=False
        )
        self._running[worker] = future
        future.add_done_callback(lambda done, worker=worker: self._done.put((worker, done)))

    def events(self, timeout_s: float) -> list[Finished | Lost]:
        found: list[Finished | Lost] = []
        for worker, future in self._waiting(timeout_s):
            if self._running.get(worker) is future:  # else it was given up before
                del self._running[worker]
                found.append(self._outcome(worker, future))
        if self._running:
            there = self._client.nthreads()
            for worker in [name for name in self._running if name not in there]:
                self._running.pop(worker).cancel()
                found.append(Lost(worker))
        return found

    def _waiting(self, timeout_s: float) -> list[tuple[str, Future]]:
        waiting: list[tuple[str, Future]] = []
        with contextlib.suppress(queue.Empty):
            waiting.append(self._done.get(timeout=timeout_s))
            while True:
                waiting.append(self._done.get_nowait())
        return waiting

    def _outcome(self, worker: str, future: Future) -> Finished | Lost:
        from distributed import KilledWorker

        if future.status == "cancelled":
            return Lost(worker)
        error = future.exception()
        if isinstance(error, KilledWorker):
            return Lost(worker)
        if error is not None:
            return Finished(worker, None, 0.0, error)
        rows, seconds = future.result()
        return Finished(worker, rows, seconds)

    def close(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            self._client.cancel(list(self._running.values()))
        self._running.clear()

    def __enter__(self) -> DaskWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def connected(address: object) -> Iterator[Client]:
    """Give a client of a scheduler's address, or of a cluster object.

    Raises
    ------
    ValueError
        Without Dask, and for an address that cannot be one.
    OSError
        When nothing answers there.
    """
    distributed = _extra("distributed")
    try:
        client = distributed.Client(address, timeout=CONNECT_S)
    except (OSError, TimeoutError) as error:
        raise OSError(f"No Dask scheduler answers at {address} ({first_line(error)})") from None
    except ValueError as error:
        raise ValueError(f"{address!r} is no address of a Dask scheduler, as tcp://HOST:8786 is ({first_line(error)})") from None
    with client:
        yield client


@contextlib.contextmanager
def slurm_cluster(queue_name: str, jobs: int) -> Iterator[object]:
    """Give a Dask cluster whose workers are jobs of one core in a SLURM queue.

    Memory, wall time and everything else come from dask-jobqueue's own configuration (``jobqueue.yaml``).

    Raises
    ------
    ValueError
        Without dask-jobqueue.
    """
    jobqueue = _extra("dask_jobqueue")
    import dask

    memory = dask.config.get("jobqueue.slurm.memory", None) or JOB_MEMORY
    with jobqueue.SLURMCluster(queue=queue_name, cores=1, processes=1, memory=memory) as cluster:
        cluster.scale(jobs=jobs)
        yield cluster


def _extra(module: str) -> object:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(f"A cluster needs the package {module}: pip install '.[cluster]'") from None
