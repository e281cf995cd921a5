"""Commands `campaign`, `reproduce` and `export`, from the configuration to the rows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from command_line import epsilon, narrow_terminal, refused

from epsilon.campaign import config
from epsilon.campaign.plan import not_golden
from epsilon.campaign.store import ResultStore, metadata, read

SMALL = """\
name: small
networks: digits
multipliers: [KVP, L2N]
images: 20
array: {rows: 8, cols: 8}
faults: {points: [FP1, FP4], rates: [0.3], maps: 2}
techniques: [vanilla, mendnet, epsilon: {repair: nearest, target: expected}]
"""


@pytest.fixture
def small(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def engine():
    """Skip where there is nothing to compute rows, or to show them."""
    pytest.importorskip("epsilon.campaign.unit", reason="needs epsilon.campaign.unit, which computes rows")
    pytest.importorskip("epsilon.report.tables", reason="needs epsilon.report.tables, which makes the league table")


def test_the_example_runs_as_it_is(tmp_path):
    shown = epsilon("campaign", "--example")
    assert shown.exit_code == 0
    (tmp_path / "example.yaml").write_text(shown.stdout)
    assert config.load(tmp_path / "example.yaml") == config.parse(config.EXAMPLE, "")


def test_presets_can_be_shown_and_changed():
    shown = epsilon("reproduce", "table1", "--show")
    assert config.parse(shown.stdout, "shown") == config.preset("table1")
    listed = epsilon("reproduce", "--help").stdout
    assert all(name in listed for name in config.preset_names())


def test_what_a_user_can_get_wrong(tmp_path, small):
    out = tmp_path / "r.sqlite"
    assert "needs CONFIG.yaml and -o" in refused("campaign")
    assert "needs CONFIG.yaml and -o" in refused("campaign", small)
    assert "No such file" in refused("campaign", tmp_path / "missing.yaml", "-o", out)
    assert "not on both" in refused("campaign", small, "-o", out, "--scheduler", "tcp://x:1", "--slurm", "long")
    assert "does not go with --scheduler" in refused("campaign", small, "-o", out, "--scheduler", "tcp://x:1", "--workers", 2)
    assert "There is no folder" in refused("campaign", small, "-o", tmp_path / "missing" / "r.sqlite")
    assert "only array, bits, figure1" in refused("reproduce", "table9", "-o", out)
    small.write_text(SMALL.replace("rates: [0.3]", "rates: [30]"))
    assert refused("campaign", small, "-o", out) == f"{small}, line 6: faults.rates must be a number from 0 to 1, not '30'"
    assert "There is no file of results" in refused("export", out, tmp_path / "r.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"small.yaml"}


def test_a_file_in_use_is_refused(tmp_path, small):
    with ResultStore(tmp_path / "r.sqlite"):
        assert "Another campaign is writing" in refused("campaign", small, "-o", tmp_path / "r.sqlite")


def test_not_golden_finds_what_shows():
    healthy = {"correct_fault_free": 9, "correct": 9, "correct_faulty": 9, "repairs": None, "words_written": 0}
    healthy |= dict.fromkeys(("faults", "weights_wrong", "weights_wrong_after", "sdc"), 0)
    changes = [{name: 1} for name in ("faults", "weights_wrong", "weights_wrong_after", "sdc", "repairs", "words_written")]
    changes += [{"correct": 8}, {"correct_faulty": 10}]
    rows = pandas.DataFrame([healthy, *(healthy | change for change in changes)])
    rows["repairs"] = rows["repairs"].astype("Int64")
    assert not_golden(rows).index.tolist() == list(range(1, len(changes) + 1))


def test_a_campaign_from_its_configuration_to_its_rows(tmp_path, small, engine, monkeypatch):
    out = tmp_path / "r.sqlite"
    result = epsilon("campaign", small, "-o", out, "--workers", 2)
    assert result.exit_code == 0, result.output
    rows = read(out)
    assert len(rows) == 2 * 2 * 2 * 3
    assert metadata(out)["campaign"]["name"] == "small"
    assert "24 rows of 8 units" in result.stdout
    # The same command again computes nothing, and one worker gives what two gave.
    before = out.read_bytes()
    again = epsilon("campaign", small, "-o", out)
    assert "8 of the 8 units were there before" in again.stdout
    pandas.testing.assert_frame_equal(read(out), rows)
    assert len(out.read_bytes()) == len(before)
    assert epsilon("campaign", small, "-o", tmp_path / "one.sqlite", "--workers", 1).exit_code == 0
    pandas.testing.assert_frame_equal(read(tmp_path / "one.sqlite"), rows)
    # In a narrow terminal, too, every number is in its line.
    narrow_terminal(monkeypatch)
    league = [line for line in epsilon("campaign", small, "-o", out).stdout.splitlines()[1:] if line]
    assert max(map(len, league)) <= 80
    assert [line.split()[0] for line in league if line.count("[") == 2] == ["mendnet", "epsilon/nearest/expected"] * 2
    assert all(re.search(r"^vanilla +[\d.]+ \[[\d.]+, [\d.]+\] +-( +4)?$", line) for line in league if "vanilla  " in line)
    assert sum(line.startswith("In a wider terminal also: to fault-free, points") for line in league) == 2
    monkeypatch.undo()
    # Another campaign in the same file adds its rows, and is the current one.
    small.write_text(SMALL.replace("maps: 2", "maps: 1").replace("[KVP, L2N]", "[KVP, KV6]"))
    assert epsilon("campaign", small, "-o", out).exit_code == 0
    assert (len(read(out)), len(read(out, current=True))) == (24 + 6, 12)
    assert epsilon("export", out, tmp_path / "r.csv", "--current").stdout.strip().endswith("r.csv: 12 rows")


def test_a_campaign_of_chosen_bits_alone_has_no_league(tmp_path, engine):
    chosen = tmp_path / "bits.yaml"
    chosen.write_text(
        "networks: digits\nimages: 20\nfaults: {points: FP1, rates: 0.1, maps: 1, bit: [0, 7]}\ntechniques: vanilla\n"
    )
    result = epsilon("campaign", chosen, "-o", tmp_path / "bits.sqlite", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "sweeps alone" in result.stdout
    assert read(tmp_path / "bits.sqlite").bit.tolist() == [0, 7]


def test_a_dry_run_is_golden(tmp_path, small, engine):
    result = epsilon("campaign", small, "-o", tmp_path / "r.sqlite", "--dry-run", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "Without faults all 12 rows equal golden" in result.stdout
    assert not (tmp_path / "r.sqlite").exists()
    rows = read(tmp_path / "r.dry-run.sqlite")
    assert (rows.correct == rows.correct_fault_free).all()
    # A row that is not golden does not pass.
    with ResultStore(tmp_path / "r.dry-run.sqlite") as store:
        store._file.execute("UPDATE runs SET correct = correct - 1 WHERE rowid = 1")
    result = epsilon("campaign", small, "-o", tmp_path / "r.sqlite", "--dry-run")
    assert result.exit_code == 1
    assert "1 of 12 rows without faults differ from golden" in result.stdout


def test_a_campaign_killed_at_any_moment_goes_on(tmp_path, small, engine):
    out, whole = tmp_path / "r.sqlite", tmp_path / "whole.sqlite"
    command = [sys.executable, "-m", "epsilon", "campaign", str(small), "--workers", "1", "-o"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([*command, str(out)], env=environment, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("small: 2 of 8"):
                break
        process.kill()
    assert 2 * 3 <= len(read(out)) < 24
    assert epsilon("campaign", small, "-o", out, "--workers", 1).exit_code == 0
    assert epsilon("campaign", small, "-o", whole, "--workers", 1).exit_code == 0
    pandas.testing.assert_frame_equal(read(out), read(whole))
