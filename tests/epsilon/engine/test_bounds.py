"""Bounds from the actual weights: what cannot be exact is split or refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from epsilon import multipliers
from epsilon.engine import AccumulatorError, float_path, native, pack
from epsilon.engine.bounds import WINOGRAD_EXACT, largest_sum
from epsilon.engine.float_path import FloatPath, convolve_by_products, float32_is_exact
from epsilon.engine.native_path import NativePath
from epsilon.engine.operands import operands
from epsilon.engine.reference import reference_sums
from epsilon.engine.shapes import LayerShape
from epsilon.engine.table_path import TablePath
from epsilon.network import Convolution, Linear
from tests.epsilon.engine.conftest import Foreign, mapped

CPU = torch.device("cpu")
CODES = np.arange(-128, 128)
KEYS = ["KV6", "KVP", "L2N", "adapt/mul8s_1L2H_adapt_table"]


def linear(weight):
    return Linear(name="fc", inputs=("input",), weight=weight, bias=np.zeros(len(weight), np.int32))


def parts_of(weight, key, most):
    """Return how the reduction of a linear layer is cut for activations up to ``most``."""
    terms = operands(multipliers.get(key))
    path = FloatPath(LayerShape.of(linear(weight)), weight, terms, CPU)
    return path.plan(np.full(len(terms), most))


def test_bound_decides_where_float32_stops():
    # 127 * 127 * 1040 < 2**24 <= 127 * 127 * 1041.
    assert len(parts_of(np.full((1, 1040), 127, np.int8), "KV6", 127)) == 1
    assert len(parts_of(np.full((1, 1041), 127, np.int8), "KV6", 127)) == 2
    assert len(parts_of(np.full((1, 1041), 127, np.int8), "KV6", 126)) == 1
    assert len(parts_of(np.full((1, 1041), -3, np.int8), "KV6", 128)) == 1
    # L2N ignores three bits of both operands: its products are multiples of 64, so the bound is 64 times as far.
    assert len(parts_of(np.full((1, 40000), 127, np.int8), "L2N", 127)) == 1


def test_parts_cover_the_reduction_once():
    parts = parts_of(np.random.default_rng(3).integers(-128, 128, (3, 9000)).astype(np.int8), "KVP", 128)
    assert len(parts) > 1
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == 9000


@settings(max_examples=25, deadline=None)
@given(
    key=st.sampled_from(KEYS),
    reduction=st.integers(1000, 1200),
    code=st.sampled_from([-128, -127, 127]),
    activation=st.sampled_from([-128, 127]),
    odd=st.lists(st.tuples(st.integers(0, 999), st.integers(-128, 127), st.integers(-128, 127)), max_size=5),
)
def test_sums_around_two_to_the_24_lose_nothing(key, reduction, code, activation, odd):
    weight = np.full((2, reduction), code, np.int8)
    activations = np.full((2, reduction), activation, np.int8)
    for place, w, a in odd:
        weight[1, place], activations[1, place] = w, a
    multiplier, shape = multipliers.get(key), LayerShape.of(linear(weight))
    wanted = reference_sums(shape, weight, multiplier.table(), activations)
    for path in (FloatPath(shape, weight, operands(multiplier), CPU), TablePath(shape, weight, multiplier.table(), CPU)):
        assert np.array_equal(path.run(torch.from_numpy(activations)).numpy(), wanted)
    assert np.array_equal(pack(linear(weight), weight, multiplier, CPU).run(torch.from_numpy(activations)).numpy(), wanted)


def test_one_channel_beyond_float32_is_summed_in_float64():
    shape = LayerShape(channels=2, outputs=1, kernel=(33, 33))
    weight = np.full((1, 2 * 33 * 33), -127, np.int8)
    weight[0, 1] = -126
    activations = np.full((1, 2, 33, 33), -127, np.int8)
    activations[0, 0, 0, 0] = 93
    multiplier = multipliers.get("KV6")
    path = FloatPath(shape, weight, operands(multiplier), CPU)
    assert [part.double for part in path.parts] == [True]
    wanted = reference_sums(shape, weight, multiplier.table(), activations)
    assert np.array_equal(path.run(torch.from_numpy(activations)).numpy(), wanted)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KEYS))
def test_largest_sum_is_reached_by_no_activations_and_almost_by_some(seed, key):
    rng = np.random.default_rng(seed)
    seen, table = rng.integers(-128, 128, (3, 11)).astype(np.int8), multipliers.get(key).table()
    largest = largest_sum(seen, table)
    shape = LayerShape(channels=11, outputs=3, linear=True)
    # Against each output, the activations that make its sum greatest and least.
    columns = table.astype(np.int64)[:, seen.astype(np.int64) + 128]
    worst = np.concatenate([columns.argmax(axis=0), columns.argmin(axis=0)]) - 128
    sums = np.abs(reference_sums(shape, seen, table, worst.astype(np.int8)))
    assert sums.max() <= largest
    assert largest == sums.max() or (table[128] != 0).any()


@settings(max_examples=20, deadline=None)
@given(st.integers(-3, 3), st.sampled_from([-128, 127]))
def test_sums_that_could_pass_int32_are_refused(more, code):
    multiplier = Foreign(np.multiply.outer(np.roll(np.arange(256), 128), np.roll(np.arange(256), 128)).astype(np.int32))
    unit = 255 * (code & 0xFF)
    reduction = 2**31 // unit + more
    weight = np.full((1, reduction), code, np.int8)
    if reduction * unit >= 2**31:
        with pytest.raises(AccumulatorError, match=r"sums of layer 'fc' could reach .* more than 32 bits hold"):
            pack(linear(weight), weight, multiplier, CPU)
    else:
        activations = torch.full((1, reduction), -1, dtype=torch.int8)
        assert pack(linear(weight), weight, multiplier, CPU).run(activations).item() == reduction * unit


@pytest.mark.parametrize("channels", [229, 230])
def test_winograd_only_where_its_sums_fit(channels):
    if native.best() is None:
        pytest.skip("no compiled kernels here")
    # 127 * 128 * 9 * 229 < 2**25 <= 127 * 128 * 9 * 230.
    seen, multiplier = np.full((1, channels * 9), 127, np.int8), multipliers.get("KV6")
    shape = LayerShape(channels=channels, outputs=1, kernel=(3, 3), padding=(1, 1))
    largest = largest_sum(seen, multiplier.table())
    path = NativePath(shape, seen, operands(multiplier), multiplier.table(), largest, native.best())
    assert (path.kernel_for(8, 8) == "winograd") == (largest < WINOGRAD_EXACT) == (channels == 229)
    activations = np.full((1, channels, 8, 8), -128, np.int8)
    wanted = reference_sums(shape, seen, multiplier.table(), activations)
    assert np.array_equal(path.run(torch.from_numpy(activations)).numpy(), wanted)


@pytest.mark.parametrize("key", KEYS)
def test_float64_where_float32_is_not_exact(key, monkeypatch):
    monkeypatch.setattr(float_path, "float32_is_exact", lambda device: False)
    rng = np.random.default_rng(4)
    shape = LayerShape(channels=3, outputs=4, kernel=(3, 3))
    seen, activations = (rng.integers(-128, 128, size).astype(np.int8) for size in ((4, 27), (2, 3, 6, 6)))
    path = FloatPath(shape, seen, operands(multipliers.get(key)), CPU)
    assert [part.double for part in path.parts] == [True]
    wanted = reference_sums(shape, seen, multipliers.get(key).table(), activations)
    assert np.array_equal(path.run(torch.from_numpy(activations)).numpy(), wanted)


def test_float32_self_test_passes_here():
    assert float32_is_exact(CPU)


def test_convolution_by_products_is_torchs(monkeypatch):
    monkeypatch.setattr(float_path, "ELEMENTS", 1000)
    generator = torch.Generator().manual_seed(1)
    x, w = (torch.randint(-9, 9, size, generator=generator).double() for size in ((17, 4, 9, 8), (6, 2, 3, 2)))
    shape = LayerShape(channels=2, outputs=3, kernel=(3, 2), stride=(2, 1), groups=2)
    assert torch.equal(convolve_by_products(x, w, shape), functional.conv2d(x, w, stride=(2, 1), groups=2))


def test_torch_paths_agree_with_the_table_for_foreign_multipliers(monkeypatch):
    monkeypatch.setattr(float_path, "ELEMENTS", 500)
    rng = np.random.default_rng(5)
    shape = LayerShape(channels=3, outputs=4, kernel=(2, 3), stride=(1, 2), padding=(1, 1), groups=2)
    seen, activations = (rng.integers(-128, 128, size).astype(np.int8) for size in ((8, 18), (5, 6, 6, 7)))
    foreign = Foreign.of_terms(mapped(CODES * 300 + 1, CODES * 4), mapped(CODES**2, CODES - 3, sign=-1))
    wanted = reference_sums(shape, seen, foreign.table(), activations)
    for path in (FloatPath(shape, seen, operands(foreign), CPU), TablePath(shape, seen, foreign.table(), CPU)):
        assert np.array_equal(path.run(torch.from_numpy(activations)).numpy(), wanted)


def test_pack_without_kernels_uses_torch(monkeypatch):
    monkeypatch.setattr(native, "best", lambda: None)
    weight = np.ones((2, 3), np.int8)
    assert isinstance(pack(linear(weight), weight, multipliers.get("KVP"), CPU), FloatPath)
    assert isinstance(pack(linear(weight), weight, Foreign(np.zeros((256, 256), np.int16)), CPU), TablePath)
    with pytest.raises(ValueError, match="engine avx2 runs on the CPU, not on meta"):
        pack(linear(weight), weight, multipliers.get("KVP"), torch.device("meta"), engine="avx2")


def test_reference_is_the_multipliers_definition():
    rng = np.random.default_rng(6)
    layer = Convolution(
        name="conv", inputs=("input",), weight=rng.integers(-128, 128, (4, 2, 2, 3)).astype(np.int8), bias=np.zeros(4, np.int32),
        stride=(2, 1), padding=(1, 2), groups=2,
    )  # fmt: skip
    activations, multiplier = rng.integers(-128, 128, (2, 4, 5, 4)).astype(np.int8), multipliers.get("KVP")
    sums = reference_sums(LayerShape.of(layer), layer.matrix, multiplier.table(), activations)
    padded = np.pad(activations, ((0, 0), (0, 0), (1, 1), (2, 2)))
    for image, output, y, x in np.ndindex(sums.shape):
        first = 2 * (output // 2)
        window = padded[image, first : first + 2, 2 * y : 2 * y + 2, x : x + 3]
        assert sums[image, output, y, x] == multiplier.multiply(window, layer.weight[output]).sum()


def test_packing_chooses_the_kernels_where_they_work():
    if native.best() is None:
        pytest.skip("no compiled kernels here")
    weight = np.ones((2, 3), np.int8)
    assert isinstance(pack(linear(weight), weight, multipliers.get("KVP"), CPU), NativePath)
    assert native.reason() == ""
