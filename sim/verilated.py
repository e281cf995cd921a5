"""The Verilated accelerator in process: built once per configuration, whole programs per call."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from epsilon.config import ArrayConfig
from sim.program import Program, Run, beat_bytes
from sim.toolchain import ToolError, Verilator, built_once, cache_folder, cxx_compiler, find_verilator, run_tool, tool_version

__all__ = ["FAILURES", "SimulationError", "VerilatedModel", "build"]

INPUTS = ("commands", "weights", "activations", "faults")
OUTPUTS = ("results", "readback", "signatures")
SOURCE = Path(__file__).parents[1]
HARNESS = Path(__file__).with_name("harness.cpp")
VERILATOR_FLAGS = ["-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--no-timing", "-Wno-fatal", "-Wno-lint"]
CXX_FLAGS = ["-std=gnu++20", "-march=native", "-fPIC", "-fno-plt", "-w"]
#: On the generated code -O1 is both faster to build and faster to run than -O2; what runs once needs no optimisation.
HOT, COLD = "-O1", "-O0"


class SimulationError(RuntimeError):
    """A program that the simulated accelerator could not finish."""


class _Job(ctypes.Structure):
    """Mirror of ``struct Job`` in harness.cpp."""

    _fields_ = [
        ("input", ctypes.c_void_p * 4),
        ("input_beats", ctypes.c_uint64 * 4),
        ("input_taken", ctypes.c_uint64 * 4),
        ("output", ctypes.c_void_p * 3),
        ("output_capacity", ctypes.c_uint64 * 3),
        ("output_beats", ctypes.c_uint64 * 3),
        ("images", ctypes.c_uint64),
        ("max_cycles", ctypes.c_uint64),
        ("busy_cycles", ctypes.c_uint64),
        ("clock_cycles", ctypes.c_uint64),
        ("input_pause", ctypes.c_uint32 * 4),
        ("output_pause", ctypes.c_uint32 * 3),
        ("seed", ctypes.c_uint64),
    ]


#: What the numbers that a harness returns mean.
FAILURES = {
    1: "did not finish within {max_cycles} cycles",
    2: "put out more beats than the program asks for",
    3: "left beats of an input stream that no command takes",
}


class VerilatedModel:
    """One simulated accelerator, reset and idle.

    Parameters
    ----------
    config : ArrayConfig
    waves : path or None
        Record a VCD of everything the model does into this file (a build of its own, slower).
    """

    def __init__(self, config: ArrayConfig, *, waves: str | os.PathLike | None = None) -> None:
        self.config = config
        self._bytes = beat_bytes(config)
        library = build(config, trace=waves is not None)
        self._library = ctypes.CDLL(str(library))
        self._library.epsilon_new.restype = ctypes.c_void_p
        self._library.epsilon_run.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Job)]
        for function in (self._library.epsilon_delete, self._library.epsilon_reset):
            function.argtypes = [ctypes.c_void_p]
            function.restype = None
        self._handle = self._library.epsilon_new()
        if waves is not None:
            self._library.epsilon_trace.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
            if self._library.epsilon_trace(self._handle, os.fsencode(waves)):
                self.close()
                raise ToolError(f"Cannot write waves to {os.fspath(waves)!r}")
        self.reset()

    def reset(self) -> None:
        """Reset the accelerator."""
        self._library.epsilon_reset(self._handle)

    def close(self) -> None:
        """Free the model (and finish its waves)."""
        if self._handle:
            self._library.epsilon_delete(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def run(self, program: Program, *, max_cycles: int, pauses: dict[str, float] | None = None, seed: int = 1) -> Run:
        """Run a program, every image until the accelerator is idle again.

        Parameters
        ----------
        max_cycles : int
            For each image; more is an error.
        pauses : dict or None
            Probability, by stream, that it rests in a cycle in which it could move (tests of the handshakes).
        seed : int
            Of the pauses.

        Raises
        ------
        SimulationError
            When the program does not end, or puts out another number of beats than it says.
        """
        job = _Job(images=program.images, max_cycles=max_cycles, seed=seed)
        inputs = [self._checked(name, getattr(program, name)) for name in INPUTS]
        for index, beats in enumerate(inputs):
            job.input[index] = beats.ctypes.data
            job.input_beats[index] = len(beats)
        if len(program.activations) % program.images:
            raise ValueError(f"{len(program.activations)} activation beats cannot be shared by {program.images} images")
        job.input_beats[INPUTS.index("activations")] = len(program.activations) // program.images
        outputs = []
        for index, name in enumerate(OUTPUTS):
            capacity = getattr(program, name)
            outputs.append(np.empty((capacity, self._bytes[name]), dtype=np.uint8))
            job.output[index] = outputs[-1].ctypes.data
            job.output_capacity[index] = capacity
        for streams, target in ((INPUTS, job.input_pause), (OUTPUTS, job.output_pause)):
            for index, name in enumerate(streams):
                target[index] = round(65536 * (pauses or {}).get(name, 0))

        status = self._library.epsilon_run(self._handle, ctypes.byref(job))
        if status:
            raise SimulationError("The accelerator " + FAILURES[status].format(max_cycles=max_cycles))
        for name, beats, written in zip(OUTPUTS, outputs, job.output_beats, strict=True):
            if written != len(beats):
                raise SimulationError(f"The accelerator put out {written} beats of {name}, not {len(beats)}")
        accepted = dict(zip(INPUTS, job.input_taken, strict=True))
        return Run(*outputs, busy_cycles=job.busy_cycles, clock_cycles=job.clock_cycles, accepted=accepted)

    def _checked(self, name: str, beats: np.ndarray) -> np.ndarray:
        width = self._bytes[name]
        if beats.dtype != np.uint8 or beats.ndim != 2 or beats.shape[1] != width:
            raise ValueError(f"Beats of {name} must be uint8 (beats, {width}), not {beats.dtype} {beats.shape}")
        return np.ascontiguousarray(beats)


def build(config: ArrayConfig, *, trace: bool = False) -> Path:
    """Return the shared library of a configuration, from the cache or newly built (seconds to minutes).

    Raises
    ------
    ToolError
        When Verilator or the C++ compiler is missing or fails; nothing is left in the cache then.
    """
    compiler = cxx_compiler()
    verilator = find_verilator()
    key = _key(config, trace, compiler, verilator.version)

    def make(work: Path) -> None:
        _compile(config, trace, compiler, verilator, work)
        (work / "config.json").write_text(json.dumps(config.describe(), indent=1))

    return built_once(cache_folder() / "verilated" / key, make) / "accelerator.so"


def _key(config: ArrayConfig, trace: bool, compiler: str, verilator_version: str) -> str:
    """Return a hash of everything that the library depends on."""
    sources = (*sorted((SOURCE / "hdl").glob("*.py")), SOURCE / "epsilon" / "multipliers.py", Path(__file__), HARNESS)
    return _hash([config.describe(), *_compilation(trace, compiler, verilator_version)], sources)


def _compilation(trace: bool, compiler: str, verilator_version: str) -> list:
    """Return what the result of compiling the same source depends on."""
    return [trace, tool_version(compiler), verilator_version, VERILATOR_FLAGS, CXX_FLAGS, HOT, COLD, _processor()]


def _hash(facts: list, sources: Iterable[Path] = ()) -> str:
    state = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for source in sources:
        state.update(source.read_bytes())
    return state.hexdigest()[:24]


def _processor() -> str:
    """Return what -march=native depends on."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return ""


def _compile(config: ArrayConfig, trace: bool, compiler: str, verilator: Verilator, work: Path) -> None:
    from hdl import verilog

    (work / "accelerator.v").write_text(verilog.generate(config))
    constants = [f"#define {name}_BYTES {size}" for name, size in beat_bytes(config).items()]
    constants.append(f"#define HAVE_FAULTS {int(config.fault_injection)}")
    (work / "ports.h").write_text("\n".join(constants) + "\n")
    shutil.copy(HARNESS, work)

    flags = [*VERILATOR_FLAGS, *(["--trace-vcd"] if trace else [])]
    if config.is_netlist:
        # Thousands of small assignments per PE: one function for all PEs instead of one per PE keeps the build short.
        (work / "pe.vlt").write_text('`verilator_config\nno_inline -module "processing_element"\n')
        flags.append("pe.vlt")
    target = ["--prefix", "Vtop", "--top-module", verilog.TOP_MODULE, "--Mdir", "."]
    run_tool(
        [str(verilator.program), "--cc", *target, *flags, "accelerator.v"],
        cwd=work,
        what="Verilator",
        env={"VERILATOR_ROOT": str(verilator.root)},
    )
    runtime = built_once(
        cache_folder() / "verilated" / f"runtime-{_hash(_compilation(trace, compiler, verilator.version))}",
        lambda folder: _compile_cxx(folder, _runtime_sources(trace, verilator), trace, compiler, verilator),
    )
    objects = _compile_cxx(work, [*sorted(work.glob("Vtop*.cpp")), work / "harness.cpp"], trace, compiler, verilator)
    objects += map(str, sorted(runtime.glob("*.o")))
    run_tool([*compiler.split(), "-shared", "-pthread", *objects, "-o", "accelerator.so"], cwd=work, what="Linking the model")
    for leftover in work.iterdir():
        if leftover.suffix in (".o", ".cpp", ".h", ".d", ".mk", ".dat", ".vlt"):
            leftover.unlink()


def _runtime_sources(trace: bool, verilator: Verilator) -> list[Path]:
    """Return Verilator's own sources, the same for every configuration: they take longer to compile than a small array."""
    names = ["verilated.cpp", "verilated_threads.cpp", *(["verilated_vcd_c.cpp"] if trace else [])]
    return [verilator.root / "include" / name for name in names]


def _compile_cxx(work: Path, sources: list[Path], trace: bool, compiler: str, verilator: Verilator) -> list[str]:
    """Compile in a folder, on every core; return the names of the objects."""
    include = verilator.root / "include"
    defines = [f"-DVM_TRACE={int(trace)}", f"-DVM_TRACE_VCD={int(trace)}", "-DVM_TRACE_FST=0", "-DVM_TRACE_SAIF=0"]
    defines += ["-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0", "-DVL_IGNORE_UNKNOWN_ARCH"]
    base = [*compiler.split(), *CXX_FLAGS, *defines, "-I.", f"-I{include}", f"-I{include / 'vltstd'}"]

    def compile_one(source: Path) -> None:
        optimisation = COLD if source.stem.endswith("__Slow") else HOT
        run_tool([*base, optimisation, "-c", str(source), "-o", source.stem + ".o"], cwd=work, what=f"Compiling {source.name}")

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(compile_one, sources))
    return [source.stem + ".o" for source in sources]
