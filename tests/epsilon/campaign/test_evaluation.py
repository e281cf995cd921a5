"""Remembered logits: whatever is remembered, a stream gives what the plain run gives, to the cycle and the check."""

import dataclasses

import numpy as np
import pytest
import torch

from epsilon import data, network_io
from epsilon.campaign import evaluation
from epsilon.campaign.evaluation import Evaluations
from epsilon.config import ArrayConfig
from epsilon.controller import StreamResult
from epsilon.emulator import Emulator
from epsilon.executor import Execution, encode
from epsilon.fault_points import fault_points
from epsilon.faults import FaultMap
from epsilon.repair import golden_weights
from epsilon.techniques import TECHNIQUES, gamma_of, run_technique

CONFIG = ArrayConfig(rows=8, cols=8, multiplier="KVP")
#: Its products with 0 are not 0, so idle rows of faulty arrays add to the sums.
L12 = ArrayConfig(rows=8, cols=8, multiplier="L12")
PAIRS = [(technique, None) for technique in TECHNIQUES] + [("nearest", "expected"), ("nearest", "map"), ("invert", "map")]


def assert_equal(one: StreamResult, two: StreamResult):
    for field in dataclasses.fields(StreamResult):
        left, right = getattr(one, field.name), getattr(two, field.name)
        assert np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right, field.name


@pytest.fixture(scope="module")
def digits():
    network = network_io.load("digits")
    test = data.load("digits", "test").first(60)
    return network, encode(network, test.images), test.labels


@pytest.fixture(scope="module")
def mnist(data_folder):
    network = network_io.load("mnist")
    test = data.load("mnist", "test", data_folder).first(60)
    return network, encode(network, test.images), test.labels


def maps(network, config):
    points = fault_points(network)
    for seed, layers in enumerate(([points["FP1"]], [points["FP2"]], [points["FP4"]], None)):
        yield FaultMap.sample(network, config, rate=0.4, polarity="both" if seed % 2 else 1, seed=seed, layers=layers)
    yield FaultMap.sample(network, config, site="array", rate=0.3, seed=5)


def compare(loaded, config, pairs, faults_of=maps, **options):
    network, codes, labels = loaded
    options = {"gamma": gamma_of(network, config), **options}
    shared, emulator, plain = Evaluations(network, config, codes), Emulator(config), Emulator(config)
    checks = 0
    for faults in faults_of(network, config):
        for index, (technique, target) in enumerate(pairs):
            known = run_technique(
                technique, emulator, network, shared.stream(), labels, faults=faults, target=target, lookahead=37 + index, **options
            )
            expected = run_technique(technique, plain, network, codes, labels, faults=faults, target=target, **options)
            assert_equal(known.stream, expected.stream)
            checks += len(known.stream.repairs)
        shared.forget()
    return checks


def test_every_technique_on_digits(digits):
    assert compare(digits, CONFIG, PAIRS) > 10


def test_an_array_whose_idle_rows_count(digits):
    assert compare(digits, L12, [("last-exit", None), ("none", None), ("zero", None)], gamma=0.9, detector="exact") > 1


def test_two_techniques_on_mnist(mnist):
    assert compare(mnist, CONFIG, [("none", None), ("nearest", None)]) > 2


def test_activations_that_are_not_kept_are_computed_again(digits, monkeypatch):
    network, codes, labels = digits
    faults = FaultMap.sample(network, CONFIG, rate=0.4, seed=3, layers=[fault_points(network)["FP1"]])
    monkeypatch.setattr(evaluation, "BATCH", 40)
    results = []
    for kept_bytes in (0, 1 << 30):
        shared = Evaluations(network, CONFIG, codes, kept_bytes=kept_bytes)
        results.append(
            run_technique("nearest", Emulator(CONFIG), network, shared.stream(), labels, faults=faults, gamma=0.9).stream
        )
        assert bool(shared._kept) == bool(kept_bytes)
    assert_equal(*results)


def count_products(monkeypatch):
    """Return the list of layers and images that are multiplied from now on."""
    found, multiply = [], Emulator.multiply

    def counted(self, layer, activations):
        found.append((layer, len(activations)))
        return multiply(self, layer, activations)

    monkeypatch.setattr(Emulator, "multiply", counted)
    return found


def test_nothing_is_computed_twice(digits, monkeypatch):
    network, codes, labels = digits
    last = fault_points(network)["FP1"]
    shared, emulator = Evaluations(network, CONFIG, codes), Emulator(CONFIG)
    faults = FaultMap.sample(network, CONFIG, rate=0.4, seed=3, layers=[last])
    run = lambda technique, faults: run_technique(  # noqa: E731
        technique, emulator, network, shared.stream(), labels, faults=faults, gamma=0.9
    )
    products = count_products(monkeypatch)
    run("last-exit", None)
    assert sum(images for _, images in products) == len(codes) * len(network.weighted)
    # The code corrects every single stuck bit, and exits in front of the fault are those of the golden network.
    del products[:]
    run("secded", faults), run("none", None), run("mendnet", None)
    assert not products
    run("last-exit", faults)
    prefix = len(codes) * (len(network.weighted) - len(network.exits))
    assert sum(images for _, images in products) == prefix + len(codes)
    del products[:]
    run("none", faults), run("mendnet", faults), run("quartile", FaultMap.empty())
    assert not products


def test_a_repair_that_restores_the_golden_weights_computes_nothing(digits, monkeypatch):
    network, codes, labels = digits
    shared, emulator = Evaluations(network, CONFIG, codes), Emulator(CONFIG)
    faults = FaultMap.sample(network, CONFIG, site="array", rate=0.5, seed=1)
    for given in (faults, None):
        run_technique("last-exit", emulator, network, shared.stream(), labels, faults=given, gamma=0.9)
    products = count_products(monkeypatch)
    # Either a weight or its complement fits any single stuck bit.
    outcome = run_technique("invert", emulator, network, shared.stream(), labels, faults=faults, gamma=0.9)
    assert outcome.stream.rewritten > 0
    assert all(np.array_equal(emulator.seen(name), golden) for name, golden in golden_weights(network).items())
    assert not products


def test_a_run_goes_on_where_another_stopped(digits):
    network, codes, _ = digits
    accelerator = Emulator(CONFIG)
    accelerator.load(network)
    whole = Execution(accelerator, codes)
    for layer in network.layers[1:]:
        values = Execution(accelerator, codes).before(layer.name)
        assert set(values) == {
            name
            for later in network.layers[network.layers.index(layer) :]
            for name in later.inputs
            if name == "input" or network.layers.index(network[name]) < network.layers.index(layer)
        }
        assert torch.equal(Execution.resumed(accelerator, layer.name, values).exit(-1), whole.exit(-1))
