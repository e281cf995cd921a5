"""Fault maps: how many faults there are and where, that a seed means the same for ever, and that a damaged file is refused."""

import json

import numpy as np
import pytest

from epsilon.config import ArrayConfig
from epsilon.faults import FaultMap, FaultMapError, Registers
from epsilon.network import Convolution, Linear, QuantizedNetwork

CONFIG = ArrayConfig(rows=5, cols=3)


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    weights = {"conv": (6, 2, 3, 3), "grouped": (8, 3, 2, 2), "fc": (10, 33)}
    layers = tuple(
        (Linear if len(shape) == 2 else Convolution)(
            name=name,
            inputs=("input",),
            weight=rng.integers(-128, 128, shape, dtype=np.int8),
            bias=np.zeros(shape[0], np.int32),
            **({"groups": 2} if name == "grouped" else {}),
        )
        for name, shape in weights.items()
    )
    return QuantizedNetwork(name="n", input_shape=(2, 5, 5), input_table=np.zeros((2, 256), np.int8), layers=layers, classes=10)


@pytest.mark.parametrize("rate", [0, 0.001, 0.1, 0.3, 0.5, 0.999, 1])
@pytest.mark.parametrize("bits", ["uniform", "lsb-weighted"])
def test_storage_count_is_exact_and_places_are_distinct(network, rate, bits):
    faults = FaultMap.sample(network, CONFIG, rate=rate, bits=bits, seed=1)
    for layer in network.weighted:
        wanted = round(rate * layer.matrix.size)
        registers = faults.storage.get(layer.name)
        assert (0 if registers is None else len(registers)) == wanted
        if wanted:
            assert len(np.unique(registers.index)) == wanted
            stuck = faults.stuck_bits(layer, CONFIG)
            assert not stuck.sa0.any()
            # One stuck bit per faulty weight.
            assert np.count_nonzero(stuck.sa1) == np.bitwise_count(stuck.sa1).sum() == wanted
    assert faults.has_storage == (rate * 72 >= 0.5)
    assert not faults.has_array


@pytest.mark.parametrize("rate", [0, 0.1, 0.5, 1])
def test_array_count_is_exact(network, rate):
    faults = FaultMap.sample(network, CONFIG, site="array", rate=rate, polarity=0, seed=1)
    sa0, sa1 = faults.array_masks(5, 3)
    assert np.bitwise_count(sa0).sum() == np.count_nonzero(sa0) == round(rate * 15)
    assert not sa1.any()
    assert faults.has_array == (rate > 0)
    assert not faults.has_storage


def test_both_polarities_and_all_bits_occur(network):
    faults = FaultMap.sample(network, CONFIG, rate=1, polarity="both", seed=2)
    fc = faults.storage["fc"]
    assert np.bincount(fc.stuck_at, minlength=2).min() > 100
    assert np.bincount(fc.bit, minlength=8).min() > 20


def test_lsb_weighted_bits_halve_in_frequency(network):
    faults = FaultMap.sample(network, CONFIG, rate=1, bits="lsb-weighted", seed=3)
    bit = np.concatenate([registers.bit for registers in faults.storage.values()])
    share = np.bincount(bit, minlength=8) / len(bit)
    assert share[:3] == pytest.approx(0.5 ** np.arange(1, 4), rel=0.25)
    assert share[4:].sum() < 0.1


def test_same_seed_same_map_other_seed_other_map(network):
    def sample(seed):
        return FaultMap.sample(network, CONFIG, rate=0.3, polarity="both", seed=seed)

    assert sample(4) == sample(4)
    assert sample(4).digest == sample(4).digest != sample(5).digest
    # The meaning of a seed is part of every saved result.
    assert sample(4).digest == "b815aa5c2ea38c94"


def test_a_layers_faults_do_not_depend_on_the_other_layers(network):
    everywhere = FaultMap.sample(network, CONFIG, rate=0.3, seed=6)
    alone = FaultMap.sample(network, CONFIG, rate=0.3, seed=6, layers=["fc"])
    assert list(alone.storage) == ["fc"]
    assert np.array_equal(alone.storage["fc"].index, everywhere.storage["fc"].index)


@pytest.mark.parametrize("site", ["storage", "array"])
def test_maps_of_one_seed_are_nested(network, site):
    few, many = (FaultMap.sample(network, CONFIG, site=site, rate=rate, polarity="both", seed=7) for rate in (0.2, 0.6))
    assert len(few) < len(many)
    assert few | many == many


def test_array_faults_under_a_weight(network):
    faults = FaultMap.sample(network, CONFIG, site="array", rate=0.6, polarity="both", seed=8)
    pe0, pe1 = faults.array_masks(5, 3)
    for layer in network.weighted:
        stuck = faults.stuck_bits(layer, CONFIG)
        outputs, reduction = layer.matrix.shape
        for n in range(outputs):
            for k in range(reduction):
                inside = n % (outputs // getattr(layer, "groups", 1))
                pe = (k % 5, inside % 3)
                assert (stuck.sa0[n, k], stuck.sa1[n, k]) == (pe0[pe], pe1[pe])


def test_both_sites_join_under_a_weight(network):
    storage = FaultMap.sample(network, CONFIG, rate=0.5, polarity="both", seed=9)
    array = FaultMap.sample(network, CONFIG, site="array", rate=0.5, polarity="both", seed=9)
    layer = network["fc"]
    own, pes, both = (faults.stuck_bits(layer, CONFIG) for faults in (storage, array, storage | array))
    assert np.array_equal(both.sa1, own.sa1 | pes.sa1)
    # A bit stuck at both is stuck at 1.
    assert np.array_equal(both.sa0, (own.sa0 | pes.sa0) & ~both.sa1)


def test_healthy_layers_have_no_stuck_bits(network):
    faults = FaultMap.sample(network, CONFIG, rate=0.5, seed=1, layers=["conv"])
    assert faults.stuck_bits(network["fc"], CONFIG) is None
    assert FaultMap.empty().stuck_bits(network["fc"], CONFIG) is None
    assert len(FaultMap.empty()) == 0


def test_union(network):
    one, two = (FaultMap.sample(network, CONFIG, rate=0.4, polarity="both", seed=seed) for seed in (1, 2))
    both = one | two
    for name in both.storage:
        (zeros, ones), (other_zeros, other_ones) = one.storage[name].masks(), two.storage[name].masks()
        sa0, sa1 = both.storage[name].masks()
        assert np.array_equal(sa1, ones | other_ones)
        assert np.array_equal(sa0, (zeros | other_zeros) & ~sa1)
    assert one | FaultMap.empty() == one == FaultMap.empty() | one
    assert both | one == both
    assert len(both.recipe) == 2
    small = FaultMap.sample(network, ArrayConfig(rows=2, cols=2), site="array", rate=1, seed=0)
    large = FaultMap.sample(network, CONFIG, site="array", rate=1, seed=0)
    with pytest.raises(FaultMapError, match="2x2 and 5x3 registers in the array"):
        small | large


@pytest.fixture
def mixed(network):
    storage = FaultMap.sample(network, CONFIG, rate=0.3, polarity="both", seed=10, layers=["fc", "conv"])
    return storage | FaultMap.sample(network, CONFIG, site="array", rate=0.5, polarity=0, seed=10)


def test_file_round_trip(mixed, network, tmp_path):
    path = tmp_path / "faults.json"
    mixed.save(path)
    loaded = FaultMap.load(path)
    assert loaded == mixed
    assert loaded.digest == mixed.digest
    assert loaded.recipe == mixed.recipe
    for layer in network.weighted:
        for one, two in zip(*(vars(faults.stuck_bits(layer, CONFIG)).values() for faults in (mixed, loaded)), strict=True):
            assert one.dtype == two.dtype == np.uint8
            assert np.array_equal(one, two)
    assert [entry.name for entry in tmp_path.iterdir()] == ["faults.json"]


def set_in(*path):
    *parents, last = path

    def change(values, new):
        for step in parents:
            values = values[step]
        values[last] = new

    return change


@pytest.mark.parametrize(
    ("change", "new", "message"),
    [
        (set_in("format"), "something", "is not a fault map"),
        (set_in("version"), 2, "version 2, this program reads 1"),
        (set_in("storage"), None, "lacks its faults"),
        (set_in("recipe"), {}, "lacks its faults or its recipe"),
        (set_in("storage", "fc"), {"index": []}, "need exactly shape"),
        (set_in("storage", "fc", "shape"), [10, -33], "two integers from 1"),
        (set_in("storage", "fc", "bit", 0), 8, "bit of layer fc must lie from 0 to 7"),
        (set_in("storage", "fc", "index", -1), 330, "index of layer fc must lie from 0 to 329"),
        (set_in("storage", "fc", "index", 1), 0.5, "must be a list of integers"),
        (set_in("storage", "fc", "bit"), [1], "as long as the list of places"),
        (set_in("array", "stuck_at", 0), True, "must be a list of integers"),
        (set_in("array", "stuck_at", 0), 1, "was changed or damaged"),
        (set_in("digest"), "0" * 16, "was changed or damaged"),
    ],
)
def test_changed_file_is_refused(mixed, tmp_path, change, new, message):
    path = tmp_path / "faults.json"
    mixed.save(path)
    values = json.loads(path.read_text())
    change(values, new)
    path.write_text(json.dumps(values))
    with pytest.raises(FaultMapError, match=message) as error:
        FaultMap.load(path)
    assert "\n" not in str(error.value)


def test_repeated_fault_in_a_file_is_refused(mixed, tmp_path):
    path = tmp_path / "faults.json"
    mixed.save(path)
    values = json.loads(path.read_text())
    for column in values["storage"]["fc"].values():
        column[1:1] = column[:1]
    values["storage"]["fc"]["shape"] = [10, 33]
    path.write_text(json.dumps(values))
    with pytest.raises(FaultMapError, match="distinct and sorted"):
        FaultMap.load(path)


def test_truncated_missing_or_foreign_file_is_refused(mixed, tmp_path):
    path = tmp_path / "faults.json"
    mixed.save(path)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FaultMapError, match="is not a fault map"):
            FaultMap.load(path)
    path.write_bytes(b"\x00\xff\xfe" * 100)
    with pytest.raises(FaultMapError, match="is not a fault map"):
        FaultMap.load(path)
    with pytest.raises(FaultMapError, match="cannot be read: No such file"):
        FaultMap.load(tmp_path / "missing.json")
    with pytest.raises(FaultMapError, match="cannot be written"):
        mixed.save(tmp_path / "missing" / "faults.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.01}, "from 0 to 1, not 1.01"),
        ({"rate": -0.1}, "from 0 to 1, not -0.1"),
        ({"rate": float("nan")}, "from 0 to 1, not nan"),
        ({"rate": "half"}, "from 0 to 1, not 'half'"),
        ({"site": "cloud"}, "one of storage, array, not 'cloud'"),
        ({"polarity": 2}, "0, 1 or 'both', not 2"),
        ({"bits": "msb"}, "one of uniform, lsb-weighted, not 'msb'"),
        ({"seed": -1}, "at least 0, not -1"),
        ({"seed": 1.5}, "at least 0, not 1.5"),
        ({"layers": ["fc", "nope"]}, "no weighted layer 'nope'; it has conv, grouped, fc"),
        ({"site": "array", "layers": ["fc"]}, "cannot be limited to some layers"),
    ],
)
def test_wrong_sampling_is_refused(network, options, message):
    with pytest.raises(FaultMapError, match=message):
        FaultMap.sample(network, CONFIG, **{"rate": 0.5, "seed": 0, **options})


def test_map_of_another_network_or_array_is_refused(network, mixed):
    with pytest.raises(FaultMapError, match="array of 5x3 PEs, not of 8x8"):
        mixed.require_fit(network, ArrayConfig())
    fewer = QuantizedNetwork(
        name="n", input_shape=(2, 5, 5), input_table=network.input_table, layers=network.layers[:1], classes=10
    )
    with pytest.raises(FaultMapError, match="no weighted layer 'fc'"):
        mixed.require_fit(fewer, CONFIG)
    reshaped = Linear(name="fc", inputs=("input",), weight=np.zeros((5, 66), np.int8), bias=np.zeros(5, np.int32))
    with pytest.raises(FaultMapError, match="10x33 weights in layer fc, the network 5x66"):
        mixed.stuck_bits(reshaped, CONFIG)


def test_masks_and_registers_are_inverse():
    rng = np.random.default_rng(11)
    sa0, sa1 = rng.integers(0, 256, (2, 7, 9), dtype=np.uint8)
    back = Registers.from_masks(sa0, sa1).masks()
    assert np.array_equal(back[0], sa0 & ~sa1)
    assert np.array_equal(back[1], sa1)


def test_one_chosen_bit_strikes_the_registers_that_a_random_one_would(tiny_network):
    drawn = FaultMap.sample(tiny_network, CONFIG, rate=0.3, polarity="both", seed=6)
    chosen = FaultMap.sample(tiny_network, CONFIG, rate=0.3, polarity="both", bit=5, seed=6)
    more = FaultMap.sample(tiny_network, CONFIG, rate=0.6, polarity="both", bit=5, seed=6)
    for name, registers in chosen.storage.items():
        assert set(registers.bit) == {5}
        assert np.array_equal(registers.index, drawn.storage[name].index)
        assert np.array_equal(registers.stuck_at, drawn.storage[name].stuck_at)
        assert set(registers.index) < set(more.storage[name].index)
    assert chosen.recipe[0]["bit"] == 5
    assert "bits" not in chosen.recipe[0]


@pytest.mark.parametrize("bit", [-1, 8, True, 1.0, "3"])
def test_a_bit_outside_the_register_is_refused(tiny_network, bit):
    with pytest.raises(FaultMapError, match="The stuck bit must be an integer from 0 to 7"):
        FaultMap.sample(tiny_network, CONFIG, rate=0.3, bit=bit, seed=1)
