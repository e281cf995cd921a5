"""Every example runs, and says what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from epsilon.multipliers import catalogue

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_no_example_is_forgotten():
    tested = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_faulty_array():
    lines = run("faulty_array.py").splitlines()
    accuracy = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert list(accuracy) == ["none", "quartile", "zero", "nearest", "invert"]
    assert accuracy["nearest"] > accuracy["none"] + 10
    assert accuracy["invert"] > accuracy["none"] + 10


def test_multipliers_on_digits():
    lines = run("multipliers_on_digits.py").splitlines()
    assert [line.split(":")[0] for line in lines] == [m.short_name for m in catalogue().values() if m.release == "v2022"]
    right = {line.split(":")[0]: float(line.split()[-2].rstrip("%")) for line in lines}
    assert right["KV6"] > 90
    assert right["KVP"] > 90
    assert right["KV6"] > right["L12"]
