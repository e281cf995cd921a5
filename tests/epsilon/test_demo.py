"""The demo on a few images: its table, its comparison, its pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from epsilon.cli import app
from epsilon.config import ArrayConfig
from epsilon.demo import DemoSettings, best_repair, run_demo, weight_errors
from epsilon.emulator import Emulator
from epsilon.faults import FaultMap
from epsilon.network_io import load
from epsilon.techniques import gamma_of


class StandIn(Emulator):
    """In the place of the Verilated array, where only the command around it is tested."""

    def __init__(self, config, waves):
        super().__init__(config)

    def close(self):
        pass


@pytest.fixture(scope="module")
def small() -> DemoSettings:
    config = ArrayConfig(rows=4, cols=3, multiplier="KV6")
    return DemoSettings(images=60, config=config, rate=0.5, seed=2, rates=(0.0, 0.5), maps=2)


def test_demo_compares_everything_and_saves_its_pictures(tmp_path, small):
    told = []
    result = run_demo(small, tmp_path / "new" / "folder", lambda *progress: told.append(progress))
    assert result.equal, result.first
    labels = [row.label for row in result.rows]
    assert labels[:3] == ["fault-free", "faulty, no EPSILON", "faulty, EPSILON, quartile (paper)"]
    assert labels[-1] == f"faulty, EPSILON, {result.best} (best)"
    assert result.compared["accumulators"] > 60 * 4
    assert min(result.compared.values()) > 0
    for row in result.rows:
        assert sum(row.rtl.exits_taken) == 60
        np.testing.assert_array_equal(row.rtl.stream.cycles, row.emulator.stream.cycles)
    assert len(result.pictures) == 3
    for picture in result.pictures:
        with Image.open(picture) as image:
            assert min(image.size) > 500
            assert len(image.getcolors(maxcolors=1_000_000)) > 20
    assert told[-1] == ("accuracy by fault rate (PyTorch)", 4, 4)
    assert {text for text, _, _ in told if text.startswith("RTL")} == {f"RTL: {label}" for label in labels}


def test_best_repair_is_chosen_on_the_validation_images(small, monkeypatch):
    network = load("digits")
    splits = []
    from epsilon import data

    real = data.load
    monkeypatch.setattr(data, "load", lambda name, split: splits.append(split) or real(name, split))
    faults = FaultMap.sample(network, small.config, site="array", rate=0.5, seed=2)
    best = best_repair(network, small, faults, gamma_of(network, small.config), lambda *_: None)
    assert best in ("nearest", "invert")
    assert splits == ["validation"]


def test_without_faults_the_repair_that_needs_least_hardware_wins(small):
    network = load("digits")
    assert best_repair(network, small, FaultMap.empty(), gamma_of(network, small.config), lambda *_: None) == "quartile"


def test_weight_errors_are_those_of_the_stuck_bits(small):
    network = load("digits")
    faults = FaultMap.sample(network, small.config, site="array", rate=0.25, seed=1)
    accelerator = Emulator(small.config)
    accelerator.load(network)
    assert not weight_errors(accelerator, network).any()
    accelerator.set_faults(faults)
    errors = weight_errors(accelerator, network)
    _, ones = faults.array_masks(4, 3)
    assert ((errors > 0) == (ones > 0)).all()
    # A bit stuck at 1 changes a weight by its worth where it was 0.
    assert (errors <= np.where(ones == 128, 128, ones)).all()


def test_command_shows_the_table_and_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("sim.rtl.RtlAccelerator", StandIn)
    monkeypatch.setattr("epsilon.demo._draw_rates", lambda *arguments: arguments[-2])
    result = CliRunner().invoke(
        app, ["demo", "--images", "40", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "demo.json")]
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "demo.json").read_text())
    assert found["equal"]
    assert f"RTL = PyTorch on {sum(found['compared'].values()):,} integers" in result.stdout
    for row in found["rows"]:
        assert row["label"] in result.stdout
        assert row["rtl"]["predictions"] == row["emulator"]["predictions"]


def test_command_fails_when_anything_differs(tmp_path, monkeypatch):
    class Wrong(StandIn):
        def run_layer(self, layer, activations):
            sums = super().run_layer(layer, activations)
            sums[0, 0] += layer == "conv1"
            return sums

    monkeypatch.setattr("sim.rtl.RtlAccelerator", Wrong)
    monkeypatch.setattr("epsilon.demo._draw_rates", lambda *arguments: arguments[-2])
    result = CliRunner().invoke(app, ["demo", "--images", "10", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "RTL and PyTorch DIFFER, first at stage 'fault-free', layer 'conv1'" in result.stdout
    assert "RTL = PyTorch" not in result.stdout
