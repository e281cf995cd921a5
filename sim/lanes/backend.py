"""Back ends: widths of the vectors, the instructions that they need, and the compiled library for each."""

from __future__ import annotations

import ctypes
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

from sim.toolchain import ToolError, built_once, cache_folder, cxx_compiler, processor_features, run_tool, tool_version

__all__ = ["BACKENDS", "Backend", "available", "build", "choose"]

HERE = Path(__file__).parent
FLAGS = ["-std=gnu++17", "-O2", "-fPIC", "-shared", "-fno-plt", "-fno-semantic-interposition", "-fno-strict-aliasing", "-w"]
# In straight-line code of hundreds of gates it halves the number of vectors that do not fit into registers.
FLAGS += ["-flive-range-shrinkage"]
# Else it takes loops of copies for memcpy and memset again.
FLAGS += ["-fno-tree-loop-distribute-patterns"]
X86, ARM = ("x86_64", "AMD64"), ("aarch64", "arm64")


@dataclass(frozen=True)
class Backend:
    """Vectors of ``lanes`` bits; ``flags`` make the compiler use instructions that need all of the processor's ``features``."""

    name: str
    lanes: int
    machines: tuple[str, ...]
    features: frozenset[str]
    flags: tuple[str, ...]


#: The fastest first.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            "avx512",
            512,
            X86,
            frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2"}),
            ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
        ),
        Backend("avx2", 256, X86, frozenset({"avx2"}), ("-mavx2",)),
        Backend("neon", 128, ARM, frozenset(), ()),
        Backend("sse2", 128, X86, frozenset(), ()),
        Backend("plain", 64, (), frozenset(), ()),
    )
}


def available() -> list[str]:
    """Return the names of the back ends that this processor can run, the fastest first."""
    features, machine = processor_features(), platform.machine()
    return [
        name
        for name, backend in BACKENDS.items()
        if (not backend.machines or machine in backend.machines) and backend.features <= features
    ]


def choose(name: str = "auto") -> Backend:
    """Return a back end by name, or the fastest.

    Raises
    ------
    ValueError
        For a name that is not known, and one whose instructions this processor lacks.
    """
    possible = available()
    if name == "auto":
        return BACKENDS[possible[0]]
    if name not in BACKENDS:
        raise ValueError(f"The back end must be auto or one of {', '.join(BACKENDS)}, not {name!r}")
    if name not in possible:
        raise ValueError(f"This processor cannot run the back end {name}; it can run {', '.join(possible)}")
    return BACKENDS[name]


def build(source: str, backend: Backend, *, driver: str | None = None) -> ctypes.CDLL:
    """Return the compiled library of a generated simulation, from the cache or newly built.

    Parameters
    ----------
    driver : str or None
        Name of a C++ file of this folder that is compiled with it.

    Raises
    ------
    ToolError
        When the C++ compiler is missing or fails.
    """
    compiler = cxx_compiler()
    text = source + (f'#include "{driver}"\n' if driver else "")
    flags = [*FLAGS, *backend.flags, f"-DLANES={backend.lanes}"]
    state = hashlib.sha256()
    for part in (text, tool_version(compiler), platform.machine(), " ".join(flags)):
        state.update(part.encode() + b"\0")
    for file in sorted(HERE.iterdir()):
        if file.suffix in (".h", ".cpp"):
            state.update(file.read_bytes())

    def compile_into(work: Path) -> None:
        (work / "lanes.cpp").write_text(text)
        command = [*compiler.split(), *flags, f"-I{HERE}", "lanes.cpp", "-o", "lanes.so", "-pthread"]
        run_tool(command, cwd=work, what="Compiling the lanes")

    library = built_once(cache_folder() / "lanes" / state.hexdigest()[:24], compile_into) / "lanes.so"
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise ToolError(f"Cannot load {library}: {error}") from None
