"""The simulated RTL and the emulator, operation by operation: every sum, record, word, stuck bit and cycle is the same."""

import numpy as np
import pytest
import torch

from epsilon.accelerator import Accelerator, Counters, WeightWords
from epsilon.emulator import Emulator
from epsilon.faults import FaultMap
from sim.rtl import RtlAccelerator

SITES = (None, "storage", "array")


class Pair:
    """The emulator and the RTL, told the same."""

    def __init__(self, config, network):
        self.emulator = Emulator(config)
        self.rtl = RtlAccelerator(config)
        self.both(lambda accelerator: accelerator.load(network))

    def both(self, operation):
        """Do an operation on either; return the emulator's result and the RTL's."""
        results = operation(self.emulator), operation(self.rtl)
        assert self.emulator.counters() == self.rtl.counters()
        return results

    def run(self, layer, activations):
        emulated, simulated = self.both(lambda accelerator: accelerator.run_layer(layer, activations))
        assert emulated.dtype == simulated.dtype == torch.int32
        assert torch.equal(emulated, simulated), layer
        return simulated

    def records(self):
        emulated, simulated = self.both(lambda accelerator: accelerator.read_records())
        assert list(emulated) == list(simulated)
        for layer, record in emulated.items():
            for field, values in vars(record).items():
                assert np.array_equal(values, getattr(simulated[layer], field)), (layer, field)
        return simulated

    def weights(self, layer):
        emulated, simulated = self.both(lambda accelerator: accelerator.read_weights(layer))
        assert np.array_equal(emulated, simulated), layer
        return simulated

    def probe(self, layer):
        emulated, simulated = self.both(lambda accelerator: accelerator.probe(layer))
        assert np.array_equal(emulated.sa0, simulated.sa0), layer
        assert np.array_equal(emulated.sa1, simulated.sa1), layer
        return simulated


@pytest.fixture(params=["1x1", "3x5", "2x3-gates"])
def pair(request, arrays, layers_network):
    made = Pair(arrays[request.param], layers_network)
    yield made
    made.rtl.close()


def activations(rng, shape, batch=2):
    return torch.from_numpy(rng.integers(-128, 128, (batch, *shape)).astype(np.int8))


def faults_of(site, network, config, seed=1):
    if site is None:
        return None
    return FaultMap.sample(network, config, site=site, rate=0.6, polarity="both", seed=seed)


@pytest.mark.parametrize("site", SITES)
def test_every_operation(pair, layers_network, layer_shapes, site):
    """A check as the controller does it: run, records, readback, probe, rewrite with flags, records, run again."""
    rng = np.random.default_rng(2)
    faults = faults_of(site, layers_network, pair.rtl.config)
    pair.both(lambda accelerator: accelerator.set_faults(faults))
    for layer, shape in layer_shapes.items():
        pair.run(layer, activations(rng, shape))
    pair.records()
    for layer in layer_shapes:
        pair.weights(layer)
        stuck = pair.probe(layer)
        assert (stuck.sa0.any() or stuck.sa1.any()) == (site is not None)
        code = rng.integers(-128, 128, stuck.sa0.shape).astype(np.int8)
        words = WeightWords(code, rng.random(code.shape) < 0.2, rng.random(code.shape) < 0.2)
        pair.both(lambda accelerator, layer=layer, words=words: accelerator.write_weights(layer, words))
    pair.records()
    for layer, shape in layer_shapes.items():
        pair.run(layer, activations(rng, shape, batch=1))
        pair.weights(layer)
    pair.records()


@pytest.mark.parametrize("seed", range(4))
def test_random_operations(arrays, layers_network, layer_shapes, seed):
    """Operations in any order, faults coming and going in between."""
    rng = np.random.default_rng(seed)
    pair = Pair(arrays["3x5"], layers_network)
    for _ in range(25):
        layer = str(rng.choice(list(layer_shapes)))
        match rng.integers(7):
            case 0 | 1:
                pair.run(layer, activations(rng, layer_shapes[layer], batch=int(rng.integers(0, 3))))
            case 2:
                pair.records()
            case 3:
                pair.weights(layer)
            case 4:
                pair.probe(layer)
            case 5:
                shape = layers_network[layer].matrix.shape
                code = rng.integers(-128, 128, shape).astype(np.int8)
                words = WeightWords(code, rng.random(shape) < 0.1, rng.random(shape) < 0.1)
                pair.both(lambda accelerator, layer=layer, words=words: accelerator.write_weights(layer, words))
            case 6:
                faults = faults_of(rng.choice(SITES), layers_network, pair.rtl.config, seed=int(rng.integers(100)))
                pair.both(lambda accelerator, faults=faults: accelerator.set_faults(faults))
    pair.records()
    pair.rtl.close()


def test_without_fault_injection_and_repair(arrays, layers_network, layer_shapes):
    pair = Pair(arrays["4x2-plain"], layers_network)
    rng = np.random.default_rng(3)
    for layer, shape in layer_shapes.items():
        pair.run(layer, activations(rng, shape))
        assert np.array_equal(pair.weights(layer), layers_network[layer].matrix)
        assert not pair.probe(layer).sa0.any()
    pair.records()
    pair.rtl.close()


def test_empty_batch(pair, layer_shapes):
    """Without images no weights go through the array: nothing is counted, and the next check still has to load the layer."""
    for layer, shape in layer_shapes.items():
        assert len(pair.run(layer, activations(np.random.default_rng(0), shape, batch=0))) == 0
    pair.records()
    assert pair.rtl.counters().run == 0
    assert pair.rtl.counters().scan > 0


def test_faults_change_sums(arrays, layers_network, layer_shapes):
    """The equality above is not that of two accelerators without faults."""
    rtl = RtlAccelerator(arrays["3x5"])
    rtl.load(layers_network)
    inputs = activations(np.random.default_rng(4), layer_shapes["padded"])
    healthy = rtl.run_layer("padded", inputs)
    for site in ("storage", "array"):
        rtl.set_faults(faults_of(site, layers_network, rtl.config))
        assert not torch.equal(rtl.run_layer("padded", inputs), healthy)
    rtl.set_faults(None)
    assert torch.equal(rtl.run_layer("padded", inputs), healthy)
    rtl.close()


def test_counters(arrays, layers_network, layer_shapes):
    """Every kind of operation counts in its own place; faults are set for nothing."""
    rtl: Accelerator = RtlAccelerator(arrays["3x5"])
    rtl.load(layers_network)
    rtl.set_faults(faults_of("array", layers_network, rtl.config))
    assert rtl.counters() == Counters()
    rtl.run_layer("full", activations(np.random.default_rng(5), layer_shapes["full"]))
    run = rtl.counters()
    assert run.run > 0
    assert run.scan == run.probe == 0
    rtl.probe("full")
    assert rtl.counters().probe > 0
    rtl.reset_counters()
    assert rtl.counters() == Counters()
    rtl.close()


@pytest.mark.parametrize(
    ("layer", "shape", "dtype", "sentence"),
    [
        (
            "padded",
            (1, 3, 5, 5),
            torch.int8,
            r"^The activations of layer padded must be \(batch, 2, height, width\), not \(1, 3, 5, 5\)$",
        ),
        ("full", (1, 63), torch.int8, r"^The activations of layer full must be \(batch, 64\), not \(1, 63\)$"),
        ("full", (1, 64), torch.float32, r"^The activations of layer full must be int8, not torch.float32$"),
    ],
)
def test_run_layer_wrong_activations(arrays, layers_network, layer, shape, dtype, sentence):
    rtl = RtlAccelerator(arrays["3x5"])
    rtl.load(layers_network)
    with pytest.raises(ValueError, match=sentence):
        rtl.run_layer(layer, torch.zeros(shape, dtype=dtype))
    rtl.close()
