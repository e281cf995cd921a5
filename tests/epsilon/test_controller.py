"""Algorithm 1 on a stream: the plain sequential definition, and what a user relies on when faults come and are repaired."""

import dataclasses

import numpy as np
import pytest
import torch

from epsilon.accelerator import Accelerator
from epsilon.confidence import confidences, energies
from epsilon.config import ArrayConfig
from epsilon.controller import Controller, repair_all, vanilla
from epsilon.emulator import Emulator
from epsilon.executor import Execution, encode
from epsilon.faults import FaultMap
from epsilon.repair import REPAIRS, get_repair, golden_weights

GAMMA = 0.6
CONFIG = ArrayConfig(rows=4, cols=4, multiplier="KVP")


@pytest.fixture
def accelerator(tiny_network):
    emulator = Emulator(CONFIG)
    emulator.load(tiny_network)
    return emulator


def faults_of(network, *, rate=0.3, seed=2, site="storage", **options):
    return FaultMap.sample(network, CONFIG, site=site, rate=rate, seed=seed, **options)


def equal(one, two):
    lists = {"checks", "events"}
    return all(getattr(one, name) == getattr(two, name) for name in lists) and all(
        np.array_equal(getattr(one, field.name), getattr(two, field.name))
        for field in dataclasses.fields(one)
        if field.name not in lists
    )


class OnlyTheProtocol:
    """Passes on what the protocol has, to show that the controller needs nothing else and never touches the faults."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        allowed = {name for name in vars(Accelerator) if not name.startswith("_")} | set(Accelerator.__annotations__)
        if name not in allowed - {"set_faults", "load", "reset_counters"}:
            raise AssertionError(f"the controller used {name}")
        return getattr(self._inner, name)


@pytest.mark.parametrize("repair", [None, *REPAIRS])
@pytest.mark.parametrize("site", ["storage", "array"])
@pytest.mark.parametrize("detector", ["pattern", "exact"])
def test_results_are_the_same_for_every_lookahead(tiny_network, tiny_images, repair, site, detector):
    results = []
    for lookahead in (1, 2, 7, 64, 1000):
        accelerator = Emulator(CONFIG)
        accelerator.load(tiny_network)
        accelerator.set_faults(faults_of(tiny_network, site=site, polarity="both"))
        controller = Controller(
            OnlyTheProtocol(accelerator),
            gamma=GAMMA,
            repair=None if repair is None else get_repair(repair),
            detector=detector,
            golden=golden_weights(tiny_network) if site == "array" else None,
            offset=0.0,
        )
        results.append(controller.stream(tiny_images, lookahead=lookahead))
    assert all(equal(results[0], result) for result in results[1:])
    assert len(results[0].repairs) == (0 if repair is None else 1)


def sequential(accelerator, codes, gamma):
    """Algorithm 1, lines 3 to 9, image by image: prediction and exit, -1 where no exit is sure."""
    found = []
    for code in codes:
        execution = Execution(accelerator, code[None])
        for index in range(len(accelerator.network.exits)):
            prediction, confidence = (values[0] for values in confidences(execution.exit(index)))
            if confidence > gamma:
                break
        found.append((prediction, index if confidence > gamma else -1))
    return np.array(found)


def test_images_before_the_trigger_see_the_fault_and_those_after_it_the_repair(tiny_network, tiny_images, accelerator):
    codes = encode(tiny_network, tiny_images)
    faults = faults_of(tiny_network)
    accelerator.set_faults(faults)
    controller = Controller(accelerator, gamma=GAMMA, repair=get_repair("nearest"), detector="exact")
    result = controller.stream(tiny_images, lookahead=16)

    reference = Emulator(CONFIG)
    reference.load(tiny_network)
    reference.set_faults(faults)
    faulty = sequential(reference, codes, GAMMA)
    trigger = int(np.flatnonzero(faulty[:, 1] == -1)[0])
    assert [check.image for check in result.repairs] == [trigger]
    repair_all(reference, get_repair("nearest"))
    repaired = sequential(reference, codes, GAMMA)

    expected = np.concatenate([faulty[:trigger], repaired[trigger:]])
    assert 0 < trigger < len(codes) - 1
    assert np.array_equal(result.predictions[np.arange(len(codes)) != trigger], np.delete(expected[:, 0], trigger))
    assert np.array_equal(result.sure[np.arange(len(codes)) != trigger], np.delete(expected[:, 1] != -1, trigger))
    # The trigger itself is predicted again, by the last exit.
    last = confidences(Execution(reference, codes[trigger : trigger + 1]).exit(-1))
    assert (result.predictions[trigger], result.confidences[trigger]) == (last[0][0], last[1][0])
    assert result.exits[trigger] == 1
    assert not result.sure[trigger]


@pytest.mark.parametrize("detector", ["pattern", "exact"])
@pytest.mark.parametrize("repair", REPAIRS)
def test_without_faults_every_score_is_zero_and_nothing_is_repaired(accelerator, tiny_images, detector, repair):
    controller = Controller(accelerator, gamma=GAMMA, repair=get_repair(repair), detector=detector, offset=0.0)
    result = controller.stream(tiny_images)
    assert len(result.checks) == np.count_nonzero(~result.sure) > 10
    assert {layer.score for check in result.checks for layer in check.layers} == {0.0}
    assert not result.repairs
    unchecked = Controller(accelerator, gamma=GAMMA, repair=None).stream(tiny_images)
    assert np.array_equal(result.predictions, unchecked.predictions)
    assert np.array_equal(result.run, unchecked.run)


@pytest.mark.parametrize("repair", ["nearest", "invert", "zero", "quartile"])
def test_a_fault_is_repaired_once_and_a_new_one_again(tiny_network, tiny_images, accelerator, repair):
    controller = Controller(accelerator, gamma=GAMMA, repair=get_repair(repair), detector="exact")
    first = faults_of(tiny_network, rate=0.2)
    accelerator.set_faults(first)
    result = controller.stream(tiny_images)
    assert len(result.repairs) == 1
    assert len(result.checks) > 1
    assert all(not check.flagged for check in result.checks[1:])
    assert not controller.stream(tiny_images).repairs

    accelerator.set_faults(first | faults_of(tiny_network, rate=0.2, seed=3, polarity=0))
    again = controller.stream(tiny_images)
    assert len(again.repairs) == 1
    assert again.repairs[0].flagged == ("conv1", "fc1", "conv2", "fc2")
    assert not controller.stream(tiny_images).repairs


def test_a_flagged_layer_that_no_repair_can_better_raises_no_second_alarm(tiny_network, tiny_images, accelerator):
    # Only the lowest bit, and thresholds so far out that `clip` leaves every weight as it is.
    drawn = faults_of(tiny_network, rate=1.0).storage["conv2"]
    lowest = type(drawn)(drawn.shape, drawn.index, np.zeros_like(drawn.bit), drawn.stuck_at)
    accelerator.set_faults(FaultMap({"conv2": lowest}))
    controller = Controller(accelerator, gamma=GAMMA, repair=get_repair("clip"), detector="exact", offset=20.0)
    result = controller.stream(tiny_images)
    assert [check.flagged for check in result.checks[:2]] == [("conv2",), ()]
    assert not result.repairs


def test_only_flagged_layers_are_touched(tiny_network, tiny_images, accelerator):
    accelerator.set_faults(faults_of(tiny_network, rate=0.5, layers=["conv2"]))
    result = Controller(accelerator, gamma=GAMMA, repair=get_repair("nearest"), detector="exact").stream(tiny_images)
    check = result.repairs[0]
    assert check.flagged == ("conv2",)
    assert {layer.layer: layer.rewritten > 0 for layer in check.layers} == {
        "conv1": False,
        "fc1": False,
        "conv2": True,
        "fc2": False,
    }
    assert result.rewritten == check.rewritten


def test_pattern_detector_compares_with_equation_3(tiny_network, tiny_images, accelerator):
    accelerator.set_faults(faults_of(tiny_network, rate=0.5))
    controller = Controller(accelerator, gamma=GAMMA, repair=get_repair("nearest"), detector="pattern")
    check = controller.stream(tiny_images).checks[0]
    for layer in check.layers:
        assert layer.threshold == controller.importances[layer.layer].threshold
        assert layer.score > 0
        assert layer.flagged == (layer.score > layer.threshold)


def test_exact_repair_gives_back_the_fault_free_predictions(tiny_network, tiny_images, accelerator):
    healthy = vanilla(accelerator, tiny_images)
    accelerator.set_faults(faults_of(tiny_network, rate=0.5, site="array"))
    assert not np.array_equal(vanilla(accelerator, tiny_images).predictions, healthy.predictions)
    controller = Controller(
        accelerator, gamma=1.0, repair=get_repair("invert"), detector="exact", golden=golden_weights(tiny_network)
    )
    result = controller.stream(tiny_images)
    # At gamma 1 no exit is ever sure, so the first image triggers the repair.
    assert [check.image for check in result.repairs] == [0]
    assert np.array_equal(result.predictions, healthy.predictions)
    assert np.array_equal(vanilla(accelerator, tiny_images).predictions, healthy.predictions)


def test_without_repair_no_check_is_made(tiny_network, tiny_images, accelerator):
    accelerator.set_faults(faults_of(tiny_network, rate=0.5))
    result = Controller(accelerator, gamma=GAMMA, repair=None).stream(tiny_images)
    assert result.checks == ()
    assert accelerator.counters().scan == accelerator.counters().probe == 0
    assert np.array_equal(result.cycles, result.run)
    found = sequential(accelerator, encode(tiny_network, tiny_images), GAMMA)
    assert np.array_equal(result.predictions, found[:, 0])
    assert np.array_equal(np.where(result.sure, result.exits, -1), found[:, 1])


def test_cycles_are_those_of_the_accelerator_when_nothing_is_evaluated_ahead(tiny_network, tiny_images, accelerator):
    accelerator.set_faults(faults_of(tiny_network))
    accelerator.reset_counters()
    result = Controller(accelerator, gamma=GAMMA, repair=get_repair("nearest"), detector="exact").stream(tiny_images, lookahead=1)
    spent = accelerator.counters()
    assert (result.run.sum(), result.scan.sum(), result.probe.sum()) == (spent.run, spent.scan, spent.probe)
    assert result.events == spent.events
    assert result.events.weight_writes == result.rewritten > 0
    trigger = result.repairs[0].image
    assert np.flatnonzero(result.probe).tolist() == [trigger]
    assert np.array_equal(result.scan > 0, ~result.sure)
    # An early exit saves the layers behind it.
    assert result.run[result.exits == 0].max() < result.run[result.exits == 1].min()


def test_vanilla_runs_only_the_last_exit(tiny_network, tiny_images, accelerator):
    codes = encode(tiny_network, tiny_images)
    result = vanilla(accelerator, tiny_images, lookahead=32)
    execution = Execution(accelerator, codes)
    assert np.array_equal(result.predictions, confidences(execution.exit(-1))[0])
    assert set(result.exits) == {1}
    assert (result.run == execution.cycles).all()
    assert equal(result, vanilla(accelerator, codes, lookahead=1))


def test_images_and_codes_are_the_same_stream(tiny_network, tiny_images, accelerator):
    controller = Controller(accelerator, gamma=GAMMA, repair=None)
    codes = encode(tiny_network, tiny_images)
    by_images = controller.stream(tiny_images)
    assert equal(by_images, controller.stream(codes))
    assert equal(by_images, controller.stream(torch.from_numpy(tiny_images)))


def test_progress_and_empty_stream(tiny_network, tiny_images, accelerator):
    accelerator.set_faults(faults_of(tiny_network))
    controller = Controller(accelerator, gamma=GAMMA, repair=get_repair("nearest"), detector="exact")
    seen = []
    controller.stream(tiny_images, lookahead=20, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (90, 90)
    assert len(controller.stream(tiny_images[:0]).predictions) == 0


def test_accuracy(tiny_images, accelerator):
    result = vanilla(accelerator, tiny_images)
    labels = result.predictions.copy()
    labels[:9] += 1
    assert result.correct(labels) == 81
    assert result.accuracy(labels) == 0.9
    with pytest.raises(ValueError, match="90 predictions, but labels of shape"):
        result.accuracy(labels[:-1])


def test_wrong_settings_are_refused(tiny_network, tiny_images, accelerator):
    with pytest.raises(ValueError, match=r"gamma must be a number from 0 to 1, not 1\.5"):
        Controller(accelerator, gamma=1.5, repair=None)
    with pytest.raises(ValueError, match="one of pattern, exact"):
        Controller(accelerator, gamma=0.5, repair=None, detector="other")
    with pytest.raises(ValueError, match="lookahead must be an integer of at least 1, not 0"):
        Controller(accelerator, gamma=0.5, repair=None).stream(tiny_images, lookahead=0)
    with pytest.raises(ValueError, match="8-bit unsigned"):
        Controller(accelerator, gamma=0.5, repair=None).stream(tiny_images.astype(np.float32))
    plain = Emulator(ArrayConfig(rows=4, cols=4, repair=False))
    plain.load(tiny_network)
    with pytest.raises(ValueError, match="invert needs the repair flags"):
        Controller(plain, gamma=0.5, repair=get_repair("invert"))
    Controller(plain, gamma=0.5, repair=get_repair("nearest"))


def test_an_exit_is_taken_when_its_energy_is_low_enough_too(tiny_network, tiny_images, accelerator):
    codes = encode(tiny_network, tiny_images)
    execution = Execution(accelerator, codes)
    logits = [execution.exit(index) for index in range(2)]
    tau = [float(np.median(energies(exit_logits))) for exit_logits in logits]
    result = Controller(accelerator, gamma=0.3, repair=None, tau=tau).stream(codes)
    taken = [(confidences(values)[1] > 0.3) & (energies(values) <= limit) for values, limit in zip(logits, tau, strict=True)]
    assert np.array_equal(result.exits, np.where(taken[0], 0, 1))
    assert np.array_equal(result.sure, taken[0] | taken[1])
    assert 0 < np.count_nonzero(result.sure) < len(codes)
    unlimited = Controller(accelerator, gamma=0.3, repair=None, tau=[np.inf] * 2).stream(codes)
    assert equal(unlimited, Controller(accelerator, gamma=0.3, repair=None).stream(codes))


def test_init_wrong_tau(accelerator):
    with pytest.raises(ValueError, match="The network has 2 exits, but there are 3 thresholds tau"):
        Controller(accelerator, gamma=0.5, repair=None, tau=[0.0] * 3)


def test_a_given_importance_takes_the_place_of_the_computed_one(accelerator):
    of_layer = {alpha: Controller(accelerator, gamma=0.5, repair=None, alpha=alpha).importances for alpha in (None, 0.0, 1.0)}
    for name, importance in of_layer[None].items():
        assert of_layer[0.0][name].threshold == pytest.approx(3 * importance.sigma)
        assert of_layer[1.0][name].threshold == pytest.approx(4 * importance.sigma)
        assert of_layer[1.0][name].alpha == 1.0 != importance.alpha


@pytest.mark.parametrize("alpha", [-0.1, 1.1, True, "1", float("nan")])
def test_init_wrong_alpha(accelerator, alpha):
    with pytest.raises(ValueError, match="The importance alpha must be a number from 0 to 1"):
        Controller(accelerator, gamma=0.5, repair=None, alpha=alpha)


@pytest.mark.parametrize("patrol", [1, 7, 64])
def test_patrol_checks_at_every_so_many_images_for_every_lookahead(tiny_network, tiny_images, patrol):
    results = []
    for lookahead in (1, 5, 1000):
        accelerator = Emulator(CONFIG)
        accelerator.load(tiny_network)
        accelerator.set_faults(faults_of(tiny_network))
        # Every exit is sure of everything, so nothing but the patrol can find the faults.
        controller = Controller(accelerator, gamma=0.0, repair=get_repair("nearest"), detector="exact", patrol=patrol)
        results.append(controller.stream(tiny_images, lookahead=lookahead))
    assert all(equal(results[0], result) for result in results[1:])
    assert [check.image for check in results[0].checks] == list(range(0, len(tiny_images), patrol))
    assert results[0].repairs[0].image == 0
    assert results[0].scan[::patrol].all()


def test_what_is_confidently_wrong_is_found_on_patrol_alone(tiny_network, tiny_images, accelerator):
    accelerator.set_faults(faults_of(tiny_network))
    assert not Controller(accelerator, gamma=0.0, repair=get_repair("nearest"), detector="exact").stream(tiny_images).checks
    with pytest.raises(ValueError, match="from one patrol to the next must be an integer of at least 1, not 0"):
        Controller(accelerator, gamma=0.0, repair=get_repair("nearest"), patrol=0)


def test_patrol_changes_no_answer_of_a_healthy_network(tiny_network, tiny_images):
    results = []
    for patrol in (None, 3):
        accelerator = Emulator(CONFIG)
        accelerator.load(tiny_network)
        controller = Controller(accelerator, gamma=GAMMA, repair=get_repair("nearest"), detector="exact", patrol=patrol)
        results.append(controller.stream(tiny_images))
    for name in ("predictions", "exits", "confidences", "sure", "run"):
        assert np.array_equal(*(getattr(result, name) for result in results))
    assert not results[1].repairs
