"""The emulator against the golden definition: every product from the multiplier's table, summed in 64-bit integers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epsilon import multipliers
from epsilon.accelerator import Accelerator, WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.faults import FaultMap, FaultMapError
from epsilon.network import Convolution, Linear, QuantizedNetwork
from epsilon.signatures import count_records, golden_quartiles, same_records

KEYS = list(multipliers.catalogue())


def network_of(*layers):
    """Return a network that only holds these layers; the emulator runs them one by one."""
    return QuantizedNetwork(name="layers", input_shape=(1, 1, 1), input_table=np.zeros((1, 256), np.int8), layers=layers, classes=2)


def convolution(weight, **options):
    bias = np.zeros(len(weight), np.int32)
    return Convolution(name="conv", inputs=("input",), weight=weight, bias=bias, **options)


def linear(weight):
    return Linear(name="fc", inputs=("input",), weight=weight, bias=np.zeros(len(weight), np.int32))


def emulate(layer, multiplier, activations, *, faults=None, engine="auto"):
    accelerator = Emulator(ArrayConfig(rows=4, cols=4, multiplier=multiplier), engine=engine)
    accelerator.load(network_of(layer))
    accelerator.set_faults(faults)
    result = accelerator.run_layer(layer.name, torch.from_numpy(activations))
    assert result.dtype == torch.int32
    return result.numpy()


def golden_linear(weight, multiplier, activations):
    products = multipliers.get(multiplier).multiply(activations[:, None, :], weight[None])
    return products.astype(np.int64).sum(axis=-1).astype(np.int32)


def golden_convolution(layer, multiplier, activations):
    """Slide the kernel in plain numpy: no torch, no term, no float."""
    outputs, channels, height, width = layer.weight.shape
    pad_y, pad_x = layer.padding
    padded = np.pad(activations, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    per_group = outputs // layer.groups
    rows = range(0, padded.shape[2] - height + 1, layer.stride[0])
    cols = range(0, padded.shape[3] - width + 1, layer.stride[1])
    result = np.zeros((len(activations), outputs, len(rows), len(cols)), dtype=np.int64)
    for oy, y in enumerate(rows):
        for ox, x in enumerate(cols):
            patch = padded[:, :, y : y + height, x : x + width].reshape(len(activations), layer.groups, channels * height * width)
            for group in range(layer.groups):
                own = slice(group * per_group, (group + 1) * per_group)
                result[:, own, oy, ox] = golden_linear(layer.matrix[own], multiplier, patch[:, group])
    return result.astype(np.int32)


def codes(rng, *shape):
    return rng.integers(-128, 128, shape, dtype=np.int8)


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("key", KEYS)
def test_linear_every_multiplier(key, engine):
    rng = np.random.default_rng(1)
    weight, activations = codes(rng, 5, 37), codes(rng, 6, 37)
    assert np.array_equal(emulate(linear(weight), key, activations, engine=engine), golden_linear(weight, key, activations))


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("key", KEYS)
def test_convolution_every_multiplier(key, engine):
    rng = np.random.default_rng(2)
    layer = convolution(codes(rng, 6, 2, 3, 2), stride=(2, 1), padding=(1, 2), groups=2)
    activations = codes(rng, 17, 4, 5, 6)
    assert np.array_equal(emulate(layer, key, activations, engine=engine), golden_convolution(layer, key, activations))


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("weight_code", "activation_code"), [(-128, -128), (-128, 127), (127, 127), (-1, -128), (127, -1)])
def test_linear_extremes_beyond_float32(key, weight_code, activation_code, engine):
    # 1300 products of up to 2**14 pass 2**24; one odd product among them would be lost by a float32 sum.
    weight = np.full((2, 1300), weight_code, np.int8)
    activations = np.full((1, 1300), activation_code, np.int8)
    weight[1, 640], activations[0, 640] = 101, 91
    assert np.array_equal(emulate(linear(weight), key, activations, engine=engine), golden_linear(weight, key, activations))


def test_batches_threads_and_engines_give_the_same_integers():
    rng = np.random.default_rng(4)
    layer, activations = convolution(codes(rng, 20, 16, 3, 3), padding=(1, 1)), codes(rng, 33, 16, 12, 12)
    whole = emulate(layer, "KVP", activations)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for engine in ("auto", "torch"):
                assert np.array_equal(emulate(layer, "KVP", activations, engine=engine), whole)
    finally:
        torch.set_num_threads(threads)
    split = [emulate(layer, "KVP", part) for part in np.split(activations, [0, 1, 18])]
    assert np.array_equal(np.concatenate(split), whole)


def test_refuses_an_unknown_engine():
    with pytest.raises(ValueError, match=r"engine must be one of auto, torch, .*, not 'gpu'"):
        Emulator(ArrayConfig(), engine="gpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("key", ["KV6", "KVP", "adapt/mul8s_1L2H_adapt_table"])
def test_cuda_gives_the_same_integers(key):
    rng = np.random.default_rng(5)
    layer, activations = convolution(codes(rng, 20, 16, 3, 3), padding=(1, 1)), codes(rng, 9, 16, 12, 12)
    accelerator = Emulator(ArrayConfig(rows=4, cols=4, multiplier=key), "cuda")
    accelerator.load(network_of(layer))
    on_device = accelerator.run_layer(layer.name, torch.from_numpy(activations).cuda())
    assert on_device.device.type == "cuda"
    assert np.array_equal(on_device.cpu().numpy(), golden_convolution(layer, key, activations))


@settings(max_examples=40, deadline=None)
@given(
    key=st.sampled_from(KEYS),
    groups=st.integers(1, 3),
    channels=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    batch=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_convolution_random_shapes_with_faults(key, groups, channels, outputs, kernel, stride, padding, batch, seed):
    rng = np.random.default_rng(seed)
    layer = convolution(codes(rng, groups * outputs, channels, *kernel), stride=stride, padding=padding, groups=groups)
    network, config = network_of(layer), ArrayConfig(rows=4, cols=4, multiplier=key)
    faults = FaultMap.sample(network, config, rate=0.5, polarity="both", seed=seed)
    faults |= FaultMap.sample(network, config, site="array", rate=0.4, polarity="both", seed=seed)
    activations = codes(rng, batch, groups * channels, 5, 4)
    seen = seen_by_multiplier(WeightWords.plain(layer.matrix), faults.stuck_bits(layer, config))
    faulty = convolution(seen.reshape(layer.weight.shape), stride=stride, padding=padding, groups=groups)
    expected = golden_convolution(faulty, key, activations)
    assert np.array_equal(emulate(layer, key, activations, faults=faults), expected)


@pytest.mark.parametrize("key", [key for key in KEYS if multipliers.get(key).used_weight_bits != 0xFF])
def test_faults_in_ignored_weight_bits_change_nothing(key):
    rng = np.random.default_rng(5)
    layer, activations = linear(codes(rng, 8, 24)), codes(rng, 9, 24)
    network, config = network_of(layer), ArrayConfig(rows=4, cols=4, multiplier=key)
    drawn = FaultMap.sample(network, config, rate=1.0, polarity="both", seed=6).storage["fc"]
    ignored = ((~multipliers.get(key).used_weight_bits & 0xFF) >> drawn.bit) & 1 == 1
    assert ignored.any()
    harmless = type(drawn)(drawn.shape, drawn.index[ignored], drawn.bit[ignored], drawn.stuck_at[ignored])
    healthy = emulate(layer, key, activations)
    assert np.array_equal(emulate(layer, key, activations, faults=FaultMap({"fc": harmless})), healthy)


@pytest.fixture
def loaded():
    rng = np.random.default_rng(7)
    layers = (convolution(codes(rng, 6, 2, 3, 3)), linear(codes(rng, 5, 24)))
    accelerator = Emulator(ArrayConfig(rows=4, cols=4, multiplier="KVP"))
    accelerator.load(network_of(*layers))
    return accelerator


def test_implements_every_operation_of_the_protocol():
    wanted = {name for name in vars(Accelerator) if not name.startswith("_")}
    assert wanted <= set(dir(Emulator))


@pytest.mark.parametrize("site", ["storage", "array"])
def test_read_back_probe_and_records_agree_with_the_registers(loaded, site):
    faults = FaultMap.sample(loaded.network, loaded.config, site=site, rate=0.5, polarity="both", seed=8)
    loaded.set_faults(faults)
    rng = np.random.default_rng(9)
    records = loaded.read_records()
    for layer in loaded.network.weighted:
        stuck = loaded.probe(layer.name)
        zeros, ones = np.zeros(layer.matrix.shape, np.int8), np.full(layer.matrix.shape, -1, np.int8)
        loaded.write_weights(layer.name, WeightWords.plain(zeros))
        assert np.array_equal(loaded.read_weights(layer.name).view(np.uint8), stuck.sa1)
        loaded.write_weights(layer.name, WeightWords.plain(ones))
        assert np.array_equal(~loaded.read_weights(layer.name).view(np.uint8), stuck.sa0)
        flags = rng.random((2, *layer.matrix.shape)) < 0.2
        words = WeightWords(layer.matrix.copy(), flags[0], flags[1])
        loaded.write_weights(layer.name, words)
        assert np.array_equal(loaded.read_weights(layer.name), seen_by_multiplier(words, stuck))
        faulty = seen_by_multiplier(WeightWords.plain(layer.matrix), stuck)
        assert same_records(records[layer.name], count_records(faulty, golden_quartiles(layer)))


def test_faults_stay_when_a_network_is_loaded_and_go_when_cleared(loaded):
    golden = loaded.read_weights("fc")
    loaded.set_faults(FaultMap.sample(loaded.network, loaded.config, rate=0.5, seed=10))
    faulty = loaded.read_weights("fc")
    assert not np.array_equal(golden, faulty)
    loaded.load(loaded.network)
    assert np.array_equal(loaded.read_weights("fc"), faulty)
    loaded.set_faults(None)
    assert np.array_equal(loaded.read_weights("fc"), golden)


def test_written_weights_are_copied(loaded):
    code = loaded.network["fc"].matrix.copy()
    loaded.write_weights("fc", WeightWords.plain(code))
    before = loaded.read_weights("fc")
    code[:] = 0
    assert np.array_equal(loaded.read_weights("fc"), before)


def test_cycles_grow_with_every_operation(loaded):
    loaded.run_layer("fc", torch.zeros((3, 24), dtype=torch.int8))
    run = loaded.counters().run
    loaded.run_layer("fc", torch.zeros((6, 24), dtype=torch.int8))
    assert loaded.counters().run == 3 * run > 0
    loaded.read_records()
    scan = loaded.counters().scan
    loaded.read_weights("fc")
    assert loaded.counters().scan > scan > 0
    loaded.probe("fc")
    assert loaded.counters().probe > 0
    loaded.reset_counters()
    assert loaded.counters().total == 0


def test_refuses_what_does_not_fit(loaded):
    with pytest.raises(ValueError, match=r"must be int8, not torch\.int32"):
        loaded.run_layer("fc", torch.zeros((1, 24), dtype=torch.int32))
    with pytest.raises(ValueError, match=r"must be \(batch, 24\), not \(1, 23\)"):
        loaded.run_layer("fc", torch.zeros((1, 23), dtype=torch.int8))
    with pytest.raises(ValueError, match=r"must be \(batch, 2, height, width\)"):
        loaded.run_layer("conv", torch.zeros((1, 3, 5, 5), dtype=torch.int8))
    with pytest.raises(ValueError, match="no weighted layer 'nope'; it has conv, fc"):
        loaded.read_weights("nope")
    with pytest.raises(ValueError, match="code of layer fc's words"):
        loaded.write_weights("fc", WeightWords.plain(np.zeros((5, 23), np.int8)))
    with pytest.raises(FaultMapError, match="array of 8x8 PEs, not of 4x4"):
        loaded.set_faults(FaultMap.sample(loaded.network, ArrayConfig(), site="array", rate=0.5, seed=0))
    with pytest.raises(ValueError, match="holds no network"):
        Emulator(ArrayConfig()).run_layer("fc", torch.zeros((1, 24), dtype=torch.int8))


def test_refuses_what_the_accelerator_is_built_without(loaded):
    network = loaded.network
    plain = Emulator(ArrayConfig(rows=4, cols=4, fault_injection=False, repair=False))
    plain.load(network)
    with pytest.raises(ValueError, match="without fault injection"):
        plain.set_faults(FaultMap.sample(network, plain.config, rate=0.5, seed=0))
    plain.set_faults(FaultMap.empty())
    words = WeightWords.plain(network["fc"].matrix)
    flagged = WeightWords(words.code, np.ones_like(words.invert), words.bypass)
    with pytest.raises(ValueError, match="without the repair flags"):
        plain.write_weights("fc", flagged)
    plain.write_weights("fc", words)
