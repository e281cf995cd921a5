"""The commands that simulate in bit lanes: what they print and write, and what they refuse."""

from __future__ import annotations

import csv
import json
import os

import pytest
from command_line import epsilon, refused

from epsilon.config import ArrayConfig
from sim.bench_simulators import SIMULATORS, bench, jobs
from sim.bench_workers import FIRST_CYCLES, REDUCTION, Pace, work_of
from sim.lanes.backend import available

SMALL = ("--rows", 4, "--cols", 3, "--level", "gates", "--lanes", 64, "--threads", 1)


def test_run_gives_the_emulators_result(tmp_path):
    results = []
    for place, options in (("emulator", ()), ("lanes", ("--lanes", 64, "--threads", 2))):
        array = ("--rows", 4, "--cols", 3, "--level", "gates", "--images", 70, "--faults", 0.3, "--seed", 2)
        result = epsilon("run", "--on", place, *array, *options, "--json", tmp_path / "run.json")
        assert result.exit_code == 0, result.output
        results.append(json.loads((tmp_path / "run.json").read_text()))
    emulator, lanes = results
    assert emulator.pop("on") == "emulator"
    assert lanes.pop("on") == "lanes"
    assert emulator == lanes
    assert len(lanes["predictions"]) == 70


def test_crosscheck_on_lanes():
    result = epsilon("crosscheck", "--on", "lanes", *SMALL, "--images", 70, "--repair", "nearest")
    assert result.exit_code == 0, result.output
    assert "EQUAL" in result.stdout


@pytest.mark.skipif(not os.environ.get("EPSILON_SLOW_TESTS"), reason="takes minutes: set EPSILON_SLOW_TESTS=1")
@pytest.mark.parametrize(("rows", "cols"), [(64, 64), (1, 64), (64, 1)])
def test_crosscheck_of_the_largest_arrays_on_lanes(rows, cols):
    """Faults, records and repair included, against the emulator."""
    array = ("--rows", rows, "--cols", cols, "--level", "gates", "--lanes", 64, "--threads", 1)
    result = epsilon("crosscheck", "--on", "lanes", *array, "--images", 2, "--faults", 0.3, "--repair", "nearest")
    assert result.exit_code == 0, result.output
    assert "EQUAL" in result.stdout


def test_faultsim_prints_coverage_and_writes_every_fault(tmp_path):
    arguments = ("faultsim", *SMALL, "--images", 1, "--store", tmp_path / "d.sqlite", "--json", tmp_path / "d.json")
    result = epsilon(*arguments)
    assert result.exit_code == 0, result.output
    lines = list(csv.DictReader((tmp_path / "d.csv").read_text().splitlines()))
    assert len(lines) == 4 * 3 * 8 * 2
    described = json.loads((tmp_path / "d.json").read_text())
    total = described["coverage"][-1]
    assert total["group"] == "all"
    assert total["faults"] == len(lines)
    assert total["top1"] == sum(line["changed_top1"] != "0" for line in lines)
    written = (tmp_path / "d.csv").read_bytes()
    assert epsilon(*arguments).exit_code == 0
    assert (tmp_path / "d.csv").read_bytes() == written
    sentence = refused("faultsim", *SMALL, "--images", 2, "--store", tmp_path / "d.sqlite")
    assert sentence == f"{tmp_path / 'd.sqlite'} was begun with another set of images: choose another file"


def test_testset_compares_every_logit(tmp_path):
    arguments = ("bench", "testset", "--network", "digits", *SMALL, "--images", 70, "--maps", 65, "--json", tmp_path / "t.json")
    result = epsilon(*arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "t.json").read_text())
    exits = 3
    for what, runs in (("images, one fault map", 70), ("fault maps, one image", 65)):
        assert (found[what]["runs"], found[what]["logits"], found[what]["different"]) == (runs, 10 * exits * runs, 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("run", "--on", "rtl", "--lanes", 8),
            "Only the bit lanes have a number of lanes, not the rtl: use --on lanes with --lanes",
        ),
        (("crosscheck", "--on", "moon"), "The emulator is compared with one of rtl, lanes, not with 'moon'"),
        (
            ("bench", "simulators", "--simulator", "abacus"),
            "The simulators are amaranth, icarus, cocotb, verilator, lanes, not 'abacus'",
        ),
    ],
)
def test_refusals(arguments, sentence):
    assert refused(*arguments) == sentence


def test_bench_of_simulators(tmp_path):
    """A worker of each kind that needs no long build, on a tiny array; each checks its own sums, or says what the machine lacks."""
    result = epsilon(
        "bench", "simulators", "--side", 2, "--level", "gates", "--simulator", "amaranth", "--simulator", "lanes",
        "--span", 0.1, "--cached", "--json", tmp_path / "b.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    runnable = {"", "auto", *available()}
    assert {"", "auto", "plain"} < {row["backend"] for row in rows}
    assert {name for name in ("avx2", "neon", "avx512") if name in runnable} <= {row["backend"] for row in rows}
    lacking = [row for row in rows if row["backend"] not in runnable]
    for row in lacking:
        assert row["problem"].startswith(f"This processor cannot run the back end {row['backend']}; it can run ")
        assert row["problem"] in result.stdout
    rows = [row for row in rows if row not in lacking]
    for row in rows:
        assert row["problem"] is None, row
        # Only loading and draining costs cycles without work.
        assert 0 < row["mac_per_s"] <= row["cycles_per_s"] * row["lanes"] * 4
        assert row["build_s"] > 0
        assert row["memory_mb"] > 10
    assert all((row["transposition"] is not None) == (row["worker"] == "lanes" and row["cores"] == 1) for row in rows)


def test_a_job_is_given_up():
    (todo,) = jobs([ArrayConfig(rows=2, cols=2)], ["amaranth"])
    (measured,) = bench([todo], span_s=60, limit_s=0.5)
    assert measured.problem == "not done after 0.5 s"
    assert measured.mac_per_s is None
    assert set(SIMULATORS) == {job.kind.worker for job in jobs([todo.config])}


def test_the_bench_has_every_simulator_and_says_what_the_machine_lacks(monkeypatch, tmp_path):
    """By default 8x8 and 16x16 at both levels, and lanes of 64, 256 and 512 where the processor is an x86-64."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    configs = [ArrayConfig(rows=n, cols=n, level=level) for n in (8, 16) for level in ("words", "gates")]
    kinds = [job.kind for job in jobs(configs[:1])]
    assert [kind.worker for kind in kinds if kind.worker != "lanes"] == ["amaranth", "icarus", "cocotb", "verilator"]
    assert [kind.lanes for kind in kinds if kind.worker == "lanes" and kind.cores == 1] == [64, 256, 512]
    assert len(jobs(configs)) == len(configs) * len(kinds)
    monkeypatch.setenv("PATH", str(tmp_path))
    (measured,) = bench(jobs([ArrayConfig(rows=2, cols=2)], ["icarus"]), span_s=0.1, limit_s=300)
    assert measured.problem == "No iverilog on PATH: install Icarus Verilog"


def test_programs_grow_until_they_can_be_timed():
    config = ArrayConfig(rows=2, cols=2)
    pace = Pace(lambda target: work_of(config, target), 1.0, most_cycles=5000)
    lengths = []
    for work in pace:
        lengths.append(work.cycles)
        pace.took(work.cycles / 10_000)
    assert lengths[0] == lengths[1]
    assert lengths[0] >= FIRST_CYCLES
    assert lengths == sorted(lengths)
    assert pace.figures(lanes=3)["cycles_per_s"] == pytest.approx(10_000)
    assert pace.figures(lanes=3)["mac_per_s"] == pytest.approx(3 * pace.work.macs / (lengths[-1] / 10_000))


def test_wrong_sums_are_noticed():
    config = ArrayConfig(rows=2, cols=2)
    work = work_of(config, 3000)
    assert len(work.weights) > REDUCTION
    with pytest.raises(RuntimeError, match="not those of the multiplier's table"):
        work.require_equal(config, work.program.activations[:1].repeat(8 * work.program.results, axis=1)[0])
