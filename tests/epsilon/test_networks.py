"""The networks that come with the project: size, cards, stated accuracy, and the RTL on one image of each architecture."""

import math
from importlib import resources

import pytest
from typer.testing import CliRunner

from epsilon import data, multipliers
from epsilon.cards import card
from epsilon.cli import app
from epsilon.config import ArrayConfig
from epsilon.crosscheck import crosscheck
from epsilon.emulator import Emulator
from epsilon.executor import encode
from epsilon.fault_points import fault_points
from epsilon.faults import FaultMap
from epsilon.measurement import evaluate, measured_multipliers
from epsilon.network_io import builtin_names, load
from epsilon.repair import get_repair
from sim.rtl import RtlAccelerator

FOLDER = resources.files("epsilon").joinpath("networks")
SMALL = ("digits", "mnist")
LARGE = tuple(name for name in builtin_names() if name not in SMALL)
MOST_BYTES = 40_000_000
IMAGES = 500
#: A figure measured on a part of the test split lies this many standard deviations from the whole's at most.
DEVIATIONS = 4


def test_all_networks_together_stay_small():
    files = [entry for entry in FOLDER.iterdir() if entry.name.endswith(".safetensors")]
    assert len(files) == len(builtin_names())
    assert sum(len(entry.read_bytes()) for entry in files) < MOST_BYTES


def test_every_data_set_and_architecture_is_there():
    made = {(name.split("-")[0], load(name).metadata["dataset"]) for name in LARGE}
    assert {
        ("vgg16", "cifar10"),
        ("wideresnet", "cifar10"),
        ("mobilenet", "cifar10"),
        ("vgg16", "cifar100"),
        ("vgg16", "mnist"),
    } <= made


@pytest.mark.parametrize("name", builtin_names())
def test_card_is_what_the_file_says(name):
    network = load(name)
    text = card(network)
    assert FOLDER.joinpath(f"{name}.md").read_text(encoding="utf-8") == text
    assert f"# {name}" in text
    assert all(multiplier.key in text for multiplier in measured_multipliers())
    shown = CliRunner().invoke(app, ["networks", name])
    assert shown.exit_code == 0
    assert text.splitlines()[2] in shown.output


def test_overview_names_every_network():
    shown = CliRunner().invoke(app, ["networks"])
    assert shown.exit_code == 0, shown.output
    assert all(name in shown.output for name in builtin_names())


@pytest.mark.parametrize("name", builtin_names())
def test_thresholds_of_both_techniques_are_there_for_every_multiplier(name):
    network = load(name)
    keys = {multiplier.key for multiplier in measured_multipliers()}
    assert set(network.metadata["gamma"]) == set(network.metadata["tau"]) == keys
    assert all(len(tau) == len(network.exits) for tau in network.metadata["tau"].values())
    assert set(fault_points(network)) == {"FP1", "FP2", "FP3", "FP4"}


@pytest.mark.parametrize("multiplier", ["KV6", "KVP", "L2N"])
@pytest.mark.parametrize("name", LARGE)
def test_stated_accuracy_holds_on_a_part_of_the_test_split(name, multiplier, real_set):
    network = load(name)
    real_set(network.metadata["dataset"])
    test = data.load(network.metadata["dataset"], "test").first(IMAGES)
    stated = network.metadata["accuracy"]["test"]["by_multiplier"][multipliers.get(multiplier).key]["exits"]
    for logits, expected in zip(evaluate(network, test.images, multiplier), stated, strict=True):
        found = float((logits.argmax(axis=1) == test.labels).mean())
        assert abs(found - expected) <= DEVIATIONS * math.sqrt(expected * (1 - expected) / IMAGES) + 1 / IMAGES


@pytest.mark.parametrize("name", [name for name in LARGE if name.endswith("cifar10")])
def test_rtl_equals_the_emulator_on_an_image_of_cifar10(name, real_set):
    """The whole network on a 16x16 array with faulty PEs, and once more after their repair: every accumulator, every cycle."""
    real_set("cifar10")
    network = load(name)
    config = ArrayConfig(rows=16, cols=16, multiplier="KVP")
    codes = encode(network, data.load("cifar10", "test").first(1).images)
    faults = FaultMap.sample(network, config, site="array", rate=0.3, polarity=1, seed=1)
    device = RtlAccelerator(config)
    try:
        report = crosscheck(
            Emulator(config), device, network, codes, fault_maps={"array": faults}, repairs=[get_repair("nearest")], batch=1
        )
    finally:
        device.close()
    assert report.equal, report.first
