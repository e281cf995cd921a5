"""Verilator's own library, which takes longer to compile than any bench's device, compiled once for all of them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sim.toolchain import cache_folder, cxx_compiler, find_verilator, run_tool, tool_version

__all__ = ["verilator_library"]

LIBRARY = "verilated_library.o"
SOURCES = ("verilated", "verilated_dpi", "verilated_vpi", "verilated_threads")
#: As in the makefile that Verilator generates.
DEFINES = ("VERILATOR=1", "VM_COVERAGE=0", "VM_SC=0", "VM_TIMING=0", "VM_TRACE_FST=0", "VM_TRACE_SAIF=0")


def verilator_library(*, trace: bool) -> Path:
    """Return the object file of the whole library, from the cache or newly built.

    Parameters
    ----------
    trace : bool
        For models that record waveforms (VCD).

    Raises
    ------
    ToolError
        When Verilator or the C++ compiler is missing or fails.
    """
    verilator, compiler = find_verilator(), cxx_compiler()
    facts = [verilator.version, str(verilator.root), tool_version(compiler), compiler, trace, SOURCES, DEFINES]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    folder = cache_folder() / "verilator-library" / key
    library = folder / LIBRARY
    if library.exists():
        return library
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "lock", "w") as lock:
        # Whoever comes while it is being built waits for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _compile(compiler, verilator.root / "include", folder, trace=trace)
    return library


def _compile(compiler: str, include: Path, folder: Path, *, trace: bool) -> None:
    flags = ["-O1", f"-I{include}", f"-I{include / 'vltstd'}", *(f"-D{define}" for define in DEFINES)]
    flags += [f"-DVM_TRACE={int(trace)}", f"-DVM_TRACE_VCD={int(trace)}"]
    names = [*SOURCES, *(["verilated_vcd_c"] if trace else [])]
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder.parent) as temporary:
        work = Path(temporary)

        def compile_one(name: str) -> None:
            command = [*compiler.split(), *flags, "-c", str(include / f"{name}.cpp"), "-o", f"{name}.o"]
            run_tool(command, cwd=work, what=f"Compiling {name}.cpp")

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(compile_one, names))
        # One relocatable object: an archive's order on the linker's command line would matter.
        objects = [f"{name}.o" for name in names]
        run_tool([*compiler.split(), "-r", "-nostdlib", *objects, "-o", LIBRARY], cwd=work, what="Linking Verilator's library")
        folder.mkdir(exist_ok=True)
        os.replace(work / LIBRARY, folder / LIBRARY)
