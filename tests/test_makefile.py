"""The Makefile: its help is complete, missing prerequisites get a sentence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = ("help", "setup", "demo", "test", "sim", "lint", "bench", "verilog", "clean")


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | environment
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """Return a PATH with what the Makefile itself runs, and neither a compiler nor a Python that is new enough."""
    for name in ("make", "bash", "sh", "sed", "awk"):
        (tmp_path / name).symlink_to(shutil.which(name))
    return str(tmp_path)


def test_help_lists_every_target_with_its_variables():
    shown = make("help").stdout
    assert re.findall(r"^  ([a-z]+) ", shown, flags=re.MULTILINE) == list(TARGETS)
    for variable in ("PYTHON", "PIP_FLAGS", "EPSILON_DATA", "SIM=", "ROWS", "COLS", "MULTIPLIER", "OUT"):
        assert variable in shown


def test_help_is_the_default_target():
    assert make().stdout == make("help").stdout


def test_every_variable_that_help_names_is_used():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\b[A-Z]+_?[A-Z]+\b", " ".join(re.findall(r"\[(.*)\]$", text, flags=re.MULTILINE))))
    assert {"PIP_FLAGS", "PYTEST_FLAGS", "LEVEL"} <= named
    for variable in named - {"EPSILON_DATA", "MNIST"}:
        assert f"$({variable})" in text or f"$(if $({variable})" in text, variable


def test_setup_without_python_is_one_sentence_and_makes_nothing(tmp_path, bare_path):
    venv = tmp_path / "venv"
    done = make("setup", f"VENV={venv}", PATH=bare_path, CXX="")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("Python 3.11 or newer is needed, but 'python3' is not there")
    assert not venv.exists()


def test_setup_with_an_old_python_says_which(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    done = make("setup", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}")
    assert done.returncode != 0
    assert f"'{old}' is Python 3.9.2" in done.stderr


def test_demo_without_a_compiler_is_one_sentence_before_anything_is_installed(tmp_path, bare_path):
    venv = tmp_path / "venv"
    done = make("demo", f"VENV={venv}", PATH=bare_path, CXX="")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == (
        "A C++ compiler is needed to build the simulated array, but there is none on PATH; install g++ or set CXX."
    )
    assert not venv.exists()
