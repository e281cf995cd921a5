"""Campaigns on workers: the same rows for any number of them, and nothing lost when a worker or the whole campaign is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from epsilon.campaign.plan import plan, row_keys
from epsilon.campaign.scheduling import ATTEMPTS, Assignments, Finished, LocalWorkers, execute, pending
from epsilon.campaign.store import ResultStore, read

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ways():
    """Give the ways to compute rows, importable by workers under their own name."""
    sys.path.insert(0, str(HERE))
    import campaign_rows

    yield campaign_rows
    sys.path.remove(str(HERE))


class Here:
    """Compute units in this process, in the place of workers."""

    def __init__(self, run):
        self._run, self._given = run, None

    def names(self):
        return ["here"]

    def start(self, worker, unit):
        self._given = unit

    def events(self, timeout_s):
        return [Finished("here", self._run(self._given), 0.0)]


class OneOf:
    """The first of some workers alone, so that units come one after the other."""

    def __init__(self, workers):
        self.start, self.events, self._all = workers.start, workers.events, workers

    def names(self):
        return self._all.names()[:1]


@pytest.fixture(scope="module")
def units(ways):
    return plan(ways.SMALL)


@pytest.fixture(scope="module")
def expected(units, ways):
    """The rows of the campaign, computed in this process."""
    return {row["key"]: row for unit in units for row in ways.run(unit)}


def require_rows(path: Path, expected: dict[str, dict]) -> None:
    found = {values["key"]: values for values in read(path).to_dict("records")}
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        for name, value in row.items():
            assert pandas.isna(found[key][name]) if value is None else found[key][name] == value, name


def test_the_rows_are_worth_comparing(expected):
    assert len({row["map_digest"] for row in expected.values()}) == 4
    assert len({(row["correct"], row["correct_bits"]) for row in expected.values()}) > 5
    assert any(row["checks"] for row in expected.values())


def test_only_what_is_missing_is_computed(tmp_path, units, ways, expected):
    with ResultStore(tmp_path / "r.sqlite") as store:
        for unit in units[:3]:
            store.add(ways.run(unit))
        # Of one unit only one technique is there.
        store.add(ways.run(units[3])[1:2])
        left = pending(units, store.keys())
        assert [len(unit.variants) for unit in left] == [2] + [3] * (len(units) - 4)
        execute(units, Here(ways.run), store)
        assert pending(units, store.keys()) == []
        execute(units, Here(ways.run), store)
    require_rows(tmp_path / "r.sqlite", expected)


def test_two_processes_give_the_same_rows_though_one_is_killed_and_tell_an_error(tmp_path, units, ways, expected):
    path = tmp_path / "r.sqlite"
    with LocalWorkers(2, run=ways.run_or_fail, data=tmp_path) as workers:
        before, seen = workers.pids, []
        with ResultStore(path) as store:
            execute(units, workers, store, progress=lambda *state: seen.append(state))
            assert seen[-1] == (len(units), len(units), len(expected), 2)
        require_rows(path, expected)
        # Another process is in the place of the one that died, and a death costs a unit of time.
        assert int((tmp_path / "died").read_text()) in before.values()
        assert len(set(workers.pids) - set(before)) == 1
        # An error in a unit is told, with where it came from, and the rest is kept.
        refused = replace(units[1], images=ways.REFUSED)
        with ResultStore(tmp_path / "some.sqlite") as store:
            with pytest.raises(ValueError, match="So many images are not to be had") as caught:
                execute([*units[:1], refused], OneOf(workers), store)
            assert "run_or_fail" in caught.value.__notes__[0]
            assert store.keys() == set(row_keys(units[0]))
        pids = [*workers.pids.values()]
    for pid in pids:  # workers go with their owner
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_units_that_kill_every_worker_end_the_campaign(units):
    assignments = Assignments(units)
    for worker in map(str, range(ATTEMPTS - 1)):
        assert assignments.next(worker) == units[0]
        assignments.lost(worker)
    assert assignments.next("last") == units[0]
    with pytest.raises(ValueError, match=f"{ATTEMPTS} workers died on network digits under v2022/mul8s_1KVP"):
        assignments.lost("last")


def test_rows_of_another_version_are_refused(tmp_path, units, ways):
    with ResultStore(tmp_path / "r.sqlite") as store:
        with pytest.raises(ValueError, match="Worker here gave other rows than were asked for"):
            execute(units, Here(ways.run_other_rows), store)
        assert store.keys() == set()


@pytest.mark.parametrize("count", [0, -1, True, 1.5])
def test_wrong_number_of_workers(count):
    with pytest.raises(ValueError, match="number of workers must be an integer of at least 1"):
        LocalWorkers(count)


def test_a_killed_campaign_goes_on_to_the_same_rows(tmp_path, units, ways, expected):
    path = tmp_path / "r.sqlite"
    code = """
        import sys
        from campaign_rows import SMALL, run_slowly
        from epsilon.campaign.plan import plan
        from epsilon.campaign.scheduling import LocalWorkers, execute
        from epsilon.campaign.store import ResultStore
        if __name__ == "__main__":
            with ResultStore(sys.argv[1]) as store, LocalWorkers(1, run=run_slowly) as workers:
                print(*workers.pids.values(), flush=True)
                execute(plan(SMALL), workers, store, progress=lambda *state: print(state[0], flush=True))
    """
    script = tmp_path / "campaign.py"
    script.write_text(textwrap.dedent(code))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    with subprocess.Popen([sys.executable, script, path], env=environment, stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        while int(process.stdout.readline()) < 3:
            pass
        process.kill()
    wait_for_end(worker)  # without a parent it ends by itself
    kept = len(read(path))
    assert 3 * 3 <= kept < len(expected)
    assert kept % 3 == 0
    done = []
    with ResultStore(path) as store:
        execute(units, Here(ways.run), store, progress=lambda *state: done.append(state[0]))
    assert done[-1] == (len(expected) - kept) // 3
    require_rows(path, expected)


def wait_for_end(pid: int) -> None:
    for _ in range(300):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return  # ended, and nobody has asked how
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError(f"Worker {pid} outlived its parent")


def test_workers_keep_their_group_and_share_the_last_one(units):
    assignments = Assignments(units)
    groups = Counter(unit.multiplier for unit in units)
    order = {"a": [], "b": []}
    while len(assignments):
        for worker in ("a", "b"):
            if (unit := assignments.next(worker)) is not None:
                order[worker].append(unit)
        for worker in list(assignments.running):
            assignments.finished(worker)
    assert [Counter(unit.multiplier for unit in order[worker]) for worker in "ab"] == [
        {multiplier: count} for multiplier, count in groups.items()
    ]
    # With one group left, nobody waits.
    assignments = Assignments(units[:4])
    assert {assignments.next(worker) for worker in "abcd"} == set(units[:4])
    assert assignments.next("e") is None
    # What a dead worker had comes first.
    lost = assignments.running["b"]
    assignments.lost("b")
    assert assignments.next("f") == lost


def test_workers_keep_the_faults_that_multipliers_of_one_function_share(ways):
    twins = ("v2022/mul8s_1L2J", "v1/mul8s_1L2H")
    units = plan(replace(ways.SMALL, multipliers=twins, maps=4))
    assignments, order = Assignments(units), {"a": [], "b": []}
    while len(assignments):
        for worker, given in order.items():
            given.append(assignments.next(worker))
        for worker in order:
            assignments.finished(worker)
    assert sorted(map(row_keys, order["a"] + order["b"])) == sorted(map(row_keys, units))
    for given in order.values():
        assert [unit.multiplier for unit in given] == list(twins) * 4
        assert [unit.fault for unit in given[::2]] == [unit.fault for unit in given[1::2]]
    # At the end a worker rather takes half of a pair than waits.
    assignments = Assignments(units[:2])
    assert [assignments.next("a"), assignments.next("b")] == units[:2]
    # One that dies costs its own unit, which comes first again.
    assignments = Assignments(units)
    first, second = assignments.next("a"), assignments.next("b")
    assert first.fault != second.fault
    assignments.lost("a")
    assert [assignments.next("c"), assignments.finished("c")] == [first, first]
    assert assignments.next("c") == replace(first, multiplier=twins[1])


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as found:
        yield found


@pytest.mark.filterwarnings("default")  # Dask tells of the workers that this test kills
def test_a_dask_cluster_of_processes_one_killed(tmp_path, units, ways, expected, cluster):
    from epsilon.campaign.dask_workers import DaskWorkers, connected

    path = tmp_path / "r.sqlite"
    with (
        connected(cluster.scheduler_address) as client,
        ResultStore(path) as store,
        DaskWorkers(client, run=ways.run_or_fail, data=tmp_path) as workers,
    ):
        execute(units, workers, store)
    assert (tmp_path / "died").exists()
    require_rows(path, expected)


def test_no_scheduler_answers(monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra `cluster`")
    from epsilon.campaign import dask_workers

    monkeypatch.setattr(dask_workers, "CONNECT_S", 0.5)
    with pytest.raises(OSError, match="No Dask scheduler answers at tcp://127"), dask_workers.connected("tcp://127.0.0.1:1"):
        pass
    with pytest.raises(ValueError, match="no address of a Dask scheduler"), dask_workers.connected("nowhere://x"):
        pass


def test_what_a_job_asks_slurm_for():
    pytest.importorskip("dask_jobqueue", reason="needs the extra `cluster`")
    from epsilon.campaign import dask_workers

    # Without jobs: there is no SLURM here to ask.
    with dask_workers.slurm_cluster("long", 0) as found:
        script = found.job_script()
    assert "#SBATCH -p long" in script
    assert "--nthreads 1" in script
    assert "#SBATCH --mem=4G" in script


def test_a_cluster_needs_its_packages(monkeypatch):
    from epsilon.campaign import dask_workers

    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ValueError, match=r"needs the package distributed: pip install '\.\[cluster\]'"),
        dask_workers.connected("x"),
    ):
        pass
