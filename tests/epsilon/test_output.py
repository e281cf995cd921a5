"""Tables in a narrow terminal: every number whole, in its line."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from command_line import epsilon, narrow_terminal

from epsilon.cli.demonstration import _table
from epsilon.cli.output import new_table, print_table

#: A number with its interval, or alone.
NUMBER = re.compile(r"[-+]?\d[\d,.]*(?: %)?(?: \[[-+\d., ]+\])?")


@pytest.fixture
def narrow(monkeypatch):
    narrow_terminal(monkeypatch)


def numbers(text: str) -> list[str]:
    return NUMBER.findall(text)


def test_a_run_stands_upright(narrow, monkeypatch):
    command = ("run", "--network", "digits", "--images", 60, "--faults", 0.3, "--repair", "nearest")
    shown = epsilon(*command).stdout.splitlines()
    monkeypatch.delenv("TTY_COMPATIBLE")
    wide = epsilon(*command).stdout.splitlines()
    assert max(map(len, shown)) <= 80 < max(map(len, wide))
    (row,) = [line for line in wide if line.strip().startswith("nearest")]
    found = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in shown[1:] if "  " in line.strip())
    assert list(found)[:3] == ["technique", "images", "accuracy [95 %]"]
    assert list(found)[-2:] == ["energy, nJ per image", "images/s of wall clock"]
    # All but the speed, which is another in each run.
    assert re.split(r"   +", row.strip())[:-1] == [*found.values()][:-1]


def outcome() -> SimpleNamespace:
    stream = SimpleNamespace(repairs=[SimpleNamespace(image=1), SimpleNamespace(image=16)], rewritten=5222)
    shown = {"accuracy": "99.0 % [97.8, 99.5]", "exits_taken": (542, 16, 39), "cycles_per_image": 1412.2}
    return SimpleNamespace(stream=stream, **shown)


def test_the_demo_fits(narrow, capsys, monkeypatch):
    labels = ("fault-free", "faulty, no EPSILON", "faulty, EPSILON, quartile (paper)")
    result = SimpleNamespace(rows=[SimpleNamespace(label=label, rtl=outcome(), emulator=outcome()) for label in labels])
    least = ("at image", "weights\nrewritten", "repairs")
    print_table(_table(result, "title"), least=least)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    expected = ["99.0 % [97.8, 99.5]", "542", "16", "39", "2", "1,412.2"]
    assert [numbers(line) for line in lines if "RTL" in line or "PyTorch" in line] == [expected] * 6
    assert lines[-2] == "In a wider terminal also: at image; weights rewritten"
    assert all(word in " ".join(lines) for label in labels for word in label.split())
    monkeypatch.delenv("TTY_COMPATIBLE")
    print_table(_table(result, "title"), least=least)
    wide = capsys.readouterr().out
    assert [len(numbers(line)) for line in wide.splitlines() if "RTL" in line] == [9] * 3
    assert "wider" not in wide


def test_what_cannot_be_left_out_is_never_folded(narrow, capsys):
    table = new_table("title", "name", "first", "second")
    row = ("a/name/without/any/blank/in/it", "12345678.9 [1234567.8, 23456789.0]", "98765432.1 [8765432.1, 99999999.9]")
    for _ in range(2):
        table.add_row(*row)
    print_table(table, least=("no such head",))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("a/name")]
    assert [re.split(r"  +", line) for line in lines] == [list(row)] * 2
