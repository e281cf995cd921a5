"""The cocotb benches pass under every simulator that is installed, and fail when the hardware and the golden model differ."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sim.benches.runner import BENCHES, SIMULATORS, BenchResult, require_simulator, run_bench
from sim.toolchain import ToolError

ROOT = Path(__file__).parents[2]
#: How many tests each bench has.
TESTS = {"multiplier": 1, "pe": 4, "array": 4, "accelerator": 19, "controller": 3}


def need(simulator: str) -> None:
    """Skip the test where the simulator is missing."""
    try:
        require_simulator(simulator)
    except ToolError as error:
        pytest.skip(f"{simulator}: {error}")


def report(result: BenchResult) -> str:
    return "\n".join(f"{test}: {message}" for test, message in result.failed.items())


def benches(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sim.benches", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def test_every_bench_is_expected():
    assert set(TESTS) == set(BENCHES)


@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("name", tuple(TESTS))
def test_bench_passes(simulator, name, tmp_path):
    need(simulator)
    result = run_bench(BENCHES[name], simulator, tmp_path)
    assert not result.failed, report(result)
    assert len(result.tests) == TESTS[name]
    assert not result.warnings
    assert not list(tmp_path.rglob("*.vcd")) + list(tmp_path.rglob("*.fst")), "a waveform that nobody asked for"


@pytest.mark.parametrize("name", ["multiplier", "pe", "array", "accelerator"])
def test_another_multiplier_in_the_golden_model_fails_every_test(name, tmp_path):
    need("icarus")
    bench = BENCHES[name]
    result = run_bench(bench, "icarus", tmp_path, golden=replace(bench.config, multiplier="L2N"))
    assert len(result.tests) == TESTS[name]
    assert set(result.failed) == set(result.tests)


def test_waves_on_request(tmp_path):
    need("icarus")
    result = run_bench(BENCHES["array"], "icarus", tmp_path, waves=True)
    assert not result.failed, report(result)
    assert result.waves.stat().st_size > 1000


def test_verilog_that_does_not_compile_is_one_error_with_the_compiler_message(tmp_path):
    need("icarus")
    broken = replace(BENCHES["pe"], generate=lambda config: "module processing_element(; endmodule\n")
    with pytest.raises(ToolError, match=r"icarus cannot build the bench pe: .*syntax error"):
        run_bench(broken, "icarus", tmp_path)


def test_simulation_without_tests_is_a_failure(tmp_path):
    need("icarus")
    result = run_bench(replace(BENCHES["pe"], name="nothing"), "icarus", tmp_path)
    assert result.tests == ()
    assert "No module named 'sim.benches.nothing'" in result.failed["bench"]


def test_environment_is_as_before(tmp_path):
    need("icarus")
    before = dict(os.environ)
    run_bench(BENCHES["pe"], "icarus", tmp_path)
    assert dict(os.environ) == before


def test_command_runs_the_chosen_bench(tmp_path):
    need("icarus")
    done = benches("--sim", "icarus", "--bench", "pe", "--build", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("icarus pe ")
    assert "4 of 4 tests passed" in done.stdout
    assert [folder.name for folder in (tmp_path / "icarus").iterdir()] == ["pe"]


def test_command_names_a_missing_simulator_and_skips(tmp_path):
    done = benches("--sim", "icarus", PATH=str(tmp_path))
    assert done.returncode == 0
    assert done.stdout == "Skipped the benches with icarus: No iverilog on PATH: install Icarus Verilog\n"


def test_command_refuses_an_unknown_bench():
    done = benches("--bench", "board")
    assert done.returncode == 2
    assert "invalid choice: 'board'" in done.stderr
