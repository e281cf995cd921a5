"""Training: reproducible to the byte, refusals, and the networks that come with the project."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from epsilon import data, models, multipliers
from epsilon.checkpoint import Checkpoint, CheckpointError
from epsilon.data import DataError
from epsilon.measurement import evaluate, measured_multipliers
from epsilon.network_io import load, network_digest
from epsilon.recipes import recipe_of
from epsilon.thresholds import exits_taken, fit_gamma, multi_exit_accuracy
from epsilon.train import _Training, train
from epsilon.validation import macs

GAMMA_KEYS = {key for key in multipliers.catalogue() if key.startswith("v2022/")} | {"v1/mul8s_1L2H"}


def test_equal_seeds_give_equal_bytes(tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    files = []
    for number, seed in enumerate((5, 5, 6)):
        path = tmp_path / f"{number}.safetensors"
        train("digits", epochs=1, tuning_epochs=1, seed=seed, out=path)
        files.append(path.read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]
    # Neither the threads nor the random numbers of the caller are touched.
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_and_metadata(tmp_path):
    seen = []
    path = tmp_path / "network.safetensors"
    made = train("digits", epochs=2, tuning_epochs=1, tuned_for=["L2N"], seed=1, out=path, progress=lambda *step: seen.append(step))
    assert [step[:3] for step in seen[:3]] == [("train", 20, 40), ("train", 40, 40), ("tune", 20, 20)]
    functions = len({multiplier.terms for multiplier in measured_multipliers()})
    assert [step[:3] for step in seen[3:]] == [("measure", number, functions) for number in range(1, functions + 1)]
    again = load(path)
    assert network_digest(again) == network_digest(made)
    metadata = again.metadata
    assert metadata["made"]["seed"] == 1
    assert metadata["made"]["recipe"]["epochs"] == 2
    assert metadata["made"]["recipe"]["tuned_for"] == ["v2022/mul8s_1L2N"]
    assert set(metadata["accuracy"]["test"]["by_multiplier"]) == set(metadata["tau"]) == GAMMA_KEYS
    assert all(len(tau) == 3 for tau in metadata["tau"].values())
    assert metadata["dataset"] == "digits"
    assert metadata["made"]["data"] == {"train": 1000, "validation": 200, "test": 597}
    assert set(metadata["gamma"]) == GAMMA_KEYS
    assert metadata["macs_per_image"] == macs(again)


class Killed(Exception):
    """What a test throws where a training is to stop."""


@pytest.mark.parametrize(
    "moment", [("train", 14), ("train", 20), ("train", 34), ("train", 40), ("tune", 7), ("tune", 20), ("measure", 3)]
)
def test_killed_training_goes_on_to_the_same_bytes(tmp_path, monkeypatch, moment):
    """Killed in the middle of an epoch, between epochs, between phases, and while the network is measured."""
    monkeypatch.setattr("epsilon.train.REPORT_STEPS", 7)
    straight, resumed, checkpoint = (tmp_path / name for name in ("straight", "resumed", "checkpoint"))
    arguments = {"epochs": 2, "tuning_epochs": 2, "seed": 3}
    train("digits", out=straight, **arguments)

    def kill(phase, done, total, figures):
        if (phase, done) == moment:
            raise Killed

    with pytest.raises(Killed):
        train("digits", out=resumed, checkpoint=checkpoint, progress=kill, **arguments)
    assert not resumed.exists()
    if moment != ("train", 14):
        with pytest.raises(CheckpointError, match="belongs to another training"):
            train("digits", checkpoint=checkpoint, **{**arguments, "seed": 4})
    seen = []
    train("digits", out=resumed, checkpoint=checkpoint, progress=lambda *step: seen.append(step[:2]), **arguments)
    phase, done = moment
    whole = 20 * (done // 20)
    # Work goes on behind the last whole epoch; what was measured is not measured again.
    first = {("train", 40): ("tune", 7), ("measure", 3): ("measure", 1)}.get(moment, (phase, whole + 7))
    assert seen[0] == first
    assert resumed.read_bytes() == straight.read_bytes()
    assert sorted(tmp_path.iterdir()) == [resumed, straight]


@pytest.mark.parametrize("moment", [("train", 40), ("train", 60), ("tune", 20)])
def test_cycles_and_distillation_go_on_to_the_same_bytes(tmp_path, monkeypatch, moment):
    recipe = replace(recipe_of("digits"), epochs=4, cycles=2, tuning_epochs=2, distillation=0.5)
    monkeypatch.setattr("epsilon.train.recipe_of", lambda name: recipe)
    straight, resumed, checkpoint = (tmp_path / name for name in ("straight", "resumed", "checkpoint"))
    train("digits", out=straight, seed=3)

    def kill(phase, done, total, figures):
        if (phase, done) == moment:
            raise Killed

    with pytest.raises(Killed):
        train("digits", out=resumed, checkpoint=checkpoint, seed=3, progress=kill)
    train("digits", out=resumed, checkpoint=checkpoint, seed=3)
    assert resumed.read_bytes() == straight.read_bytes()


def test_each_cycle_raises_the_rate_again(monkeypatch):
    recipe = replace(recipe_of("digits"), epochs=4, cycles=2, tuning_epochs=0)
    monkeypatch.setattr("epsilon.train.recipe_of", lambda name: recipe)
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *rest: (rates.append(self.param_groups[0]["lr"]), step(self, *rest))
    )
    train("digits", seed=3)
    assert len(rates) == 80
    assert rates[:40] == rates[40:]
    assert max(rates[:40]) == pytest.approx(recipe.learning_rate, rel=0.05)
    assert rates[39] < 0.01 * max(rates)


def test_cycles_must_divide_the_epochs():
    with pytest.raises(ValueError, match="5 epochs are no 2 cycles"):
        replace(recipe_of("digits"), epochs=5, cycles=2)


def test_distillation_mixes_what_the_floating_point_network_says_with_the_label():
    model = models.build("digits", seed=1).eval()
    splits = {"train": data.load("digits", "train")}
    run = _Training(
        recipe=replace(recipe_of("digits"), distillation=0.25),
        splits=splits,
        generator=torch.Generator(),
        state=Checkpoint(None, ""),
        device=torch.device("cpu"),
        report=lambda *_: None,
    )
    images, labels = torch.from_numpy(splits["train"].images[:5]) / 255, torch.from_numpy(splits["train"].labels[:5])
    targets = run._targets(images, labels, model)
    taught = model(images)[-1].softmax(dim=1)
    for row, label, probabilities in zip(targets, labels, taught, strict=True):
        expected = 0.25 * probabilities
        expected[label] += 0.75
        assert torch.allclose(row, expected)
    run.recipe = replace(run.recipe, distillation=0.0)
    assert run._targets(images, labels, model) is labels


def test_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    for content in (b"", b"nonsense", bytes(64)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a readable checkpoint") as caught:
            train("digits", epochs=1, checkpoint=path)
        assert "\n" not in str(caught.value)


def test_no_tuning_is_plain_quantisation():
    assert network_digest(train("digits", epochs=1, tuning_epochs=0)) != network_digest(train("digits", epochs=1, tuning_epochs=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar"}, "digits, mnist"),
        ({"epochs": 0}, "epochs must be an integer of at least 1"),
        ({"epochs": 1.5}, "epochs must be an integer"),
        ({"tuning_epochs": -1}, "tuning epochs must be an integer of at least 0"),
        ({"tuned_for": ["KVX"]}, "Unknown multiplier 'KVX'"),
        ({"tuned_for": []}, "at least one multiplier"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    path = tmp_path / "network.safetensors"
    with pytest.raises(ValueError, match=message):
        train(arguments.pop("name", "digits"), out=path, **arguments)
    assert not path.exists()


def test_missing_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="no MNIST file"):
        train("mnist", tmp_path, epochs=1)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_shipped_network_has_thresholds_for_every_multiplier(name):
    network = load(name)
    assert network.name == name
    assert set(network.metadata["gamma"]) == GAMMA_KEYS
    assert all(0.5 <= gamma < 1 for gamma in network.metadata["gamma"].values())
    assert network.metadata["macs_per_image"] == macs(network)
    assert len(network.exits) == {"digits": 3, "mnist": 4}[name]


def check_stated_accuracy(name, multiplier, folder=None):
    """Measure again what the file states, and return the test accuracies: each exit's, and the multi-exit one."""
    network = load(name)
    key = multipliers.get(multiplier).key
    gamma = network.metadata["gamma"][key]
    validation = data.load(name, "validation", folder)
    assert fit_gamma(evaluate(network, validation.images, multiplier), validation.labels) == gamma
    test = data.load(name, "test", folder)
    stated = network.metadata["accuracy"]["test"]
    assert stated["images"] == len(test)
    logits = evaluate(network, test.images, multiplier)
    found = stated["by_multiplier"][key]
    assert found["exits"] == [float((part.argmax(axis=1) == test.labels).mean()) for part in logits]
    assert found["multi_exit"] == multi_exit_accuracy(logits, test.labels, gamma)
    _, exits, sure = exits_taken(logits, gamma)
    assert found["taken"] == np.bincount(exits, minlength=len(logits)).tolist()
    assert found["unsure"] == int((~sure).sum())
    return found["exits"], found["multi_exit"]


@pytest.mark.parametrize("multiplier", ["KV6", "KVP"])
def test_shipped_digits_reaches_its_stated_accuracy(multiplier):
    exits, multi_exit = check_stated_accuracy("digits", multiplier)
    assert exits[-1] >= 0.98
    assert multi_exit >= 0.98


@pytest.mark.parametrize("multiplier", ["KV6", "KVP"])
def test_shipped_mnist_reaches_its_stated_accuracy(multiplier, data_folder):
    exits, multi_exit = check_stated_accuracy("mnist", multiplier, data_folder)
    assert exits[-1] >= 0.985
    assert multi_exit >= 0.985
