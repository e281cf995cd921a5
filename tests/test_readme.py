"""The README keeps its word: its code runs, its commands, targets and pictures exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from epsilon.cards import OVERVIEW, overview_row
from epsilon.cli import app
from epsilon.network_io import builtin_names, load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_the_library_example_runs(capsys):
    (code,) = blocks("python")
    statements = [line for line in code.splitlines() if line and not line.startswith(("from ", "import ", " ", "#"))]
    assert len(statements) <= 10
    space: dict = {}
    exec(compile(code, "README.md", "exec"), space)
    printed = capsys.readouterr().out
    assert re.search(r"\d\d\.\d %", printed)
    assert space["result"].repairs


@pytest.mark.parametrize(
    "line", [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.startswith("epsilon ")]
)
def test_every_command_and_option_exists(line):
    words = line.split()[1:]
    command = words[: 2 if words[0] in ("bench", "data", "energy") else 1]
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for option in re.findall(r"(?<=\s)--?[a-z-]+", line):
        assert option in shown.stdout


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, flags=re.MULTILINE))
    assert {"demo", "test", "help"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_picture_and_link_exists():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len([link for link in links if link.endswith((".svg", ".png"))]) >= 3
    for link in links:
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link


def test_the_output_shown_is_what_the_demo_prints(tmp_path, monkeypatch):
    """All but the folder and the time; the picture over fault rates, tested elsewhere, is left out."""
    monkeypatch.setattr("epsilon.demo._draw_rates", lambda *arguments: arguments[-2])
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 0, result.output
    (shown,) = blocks("text")
    printed = [line.rstrip() for line in result.stdout.strip().splitlines()]
    assert re.fullmatch(r"\d+ s", printed.pop())
    assert printed == shown.splitlines()


def test_the_table_of_networks_says_what_their_files_say():
    assert f"| {' | '.join(OVERVIEW)} |" in TEXT
    for name in builtin_names():
        assert f"| {' | '.join(overview_row(load(name)))} |" in TEXT
