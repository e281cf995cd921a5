"""Every kernel of every level that runs here against the golden table, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epsilon import multipliers
from epsilon.engine import native
from epsilon.engine.native_path import KERNELS
from epsilon.engine.reference import reference_sums
from epsilon.engine.selftest import failing_kernel
from epsilon.engine.shapes import LayerShape
from tests.epsilon.engine.conftest import Foreign, mapped

KEYS = list(multipliers.catalogue())
CODES = np.arange(-128, 128)
RANDOM = np.random.default_rng(0).integers(-(2**15), 2**15, (256, 256)).astype(np.int16)
#: 8x8 unsigned: the codes' bits read as 0..255.
UNSIGNED = np.multiply.outer(np.roll(np.arange(256), 128), np.roll(np.arange(256), 128)).astype(np.int32)
FOREIGN = {
    "random table": Foreign(RANDOM),
    "unsigned": Foreign(UNSIGNED),
    "beyond int8": Foreign.of_terms(mapped(CODES * 2 + 1, CODES * 4), mapped(CODES**2 // 50, CODES - 3, sign=-1)),
    "beyond Winograd": Foreign.of_terms(mapped(CODES * 9, CODES * 2 + 1), mapped(abs(CODES), 5 * CODES + 7)),
}
#: Tables of the greatest products, side by side, and of ones that need all 16 bits of an unsigned number.
ADVERSARIAL = {
    "random": FOREIGN["random table"],
    "extremes": Foreign(np.where(RANDOM % 2, 2**15 - 1, -(2**15)).astype(np.int16)),
    "greatest": Foreign(np.full((256, 256), 2**15 - 1, np.int16)),
    "16 bits": Foreign(RANDOM.astype(np.int32) + 2**15),
}
SMALL = {
    "direct": LayerShape(channels=7, outputs=19, kernel=(2, 3), stride=(2, 1), padding=(1, 2), groups=2),
    "winograd": LayerShape(channels=21, outputs=19, kernel=(3, 3), padding=(1, 1)),
    "depthwise": LayerShape(channels=1, outputs=1, kernel=(3, 3), stride=(2, 2), padding=(1, 1), groups=21),
    "table": LayerShape(channels=6, outputs=35, kernel=(3, 3), padding=(1, 1)),
    "table_sparse": LayerShape(channels=2, outputs=3, kernel=(3, 2), padding=(0, 1), groups=3),
}


def codes(rng, *shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def drawn(shape, rng, batch, height=6, width=7):
    seen = codes(rng, shape.groups * shape.outputs, shape.reduction)
    sides = () if shape.linear else (height, width)
    return seen, codes(rng, batch, shape.groups * shape.channels, *sides)


def check(native_path, shape, seen, multiplier, activations, kernel):
    wanted = reference_sums(shape, seen, multiplier.table(), activations)
    sums = native_path(shape, seen, multiplier, kernel).run(torch.from_numpy(activations))
    assert sums.dtype == torch.int32
    assert np.array_equal(sums.numpy(), wanted)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_multiplier_of_the_catalogue(native_path, kernel):
    rng = np.random.default_rng(1)
    seen, activations = drawn(SMALL[kernel], rng, 2, 5, 6)
    for key in KEYS:
        check(native_path, SMALL[kernel], seen, multipliers.get(key), activations, kernel)


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_multipliers_and_padding_that_is_not_zero(native_path, name):
    rng = np.random.default_rng(2)
    for shape in SMALL.values():
        seen, activations = drawn(shape, rng, 3)
        check(native_path, shape, seen, FOREIGN[name], activations, None)


def test_maps_beyond_16_bits_are_looked_up(native_path):
    wide = Foreign.of_terms(mapped(np.where(CODES > 0, 40000, 0), np.ones(256)))
    path = native_path(SMALL["direct"], drawn(SMALL["direct"], np.random.default_rng(3), 1)[0], wide)
    assert path.kernel_for(6, 7) == "table"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("weight_code", "activation_code"), [(-128, -128), (-128, 127), (127, 127)])
def test_extremes(native_path, kernel, weight_code, activation_code):
    shape = SMALL[kernel]
    seen, activations = drawn(shape, np.random.default_rng(4), 2)
    seen[1:], activations[1:] = weight_code, activation_code
    check(native_path, shape, seen, multipliers.get("KV6"), activations, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("batch", [0, 1, 17])
def test_batches(native_path, kernel, batch):
    shape = SMALL[kernel]
    seen, activations = drawn(shape, np.random.default_rng(5), batch)
    check(native_path, shape, seen, multipliers.get("KVP"), activations, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_threads_and_batches_do_not_change_a_sum(native_path, kernel, monkeypatch):
    monkeypatch.setattr(native, "PRODUCTS_PER_THREAD", 1)
    seen, activations = drawn(SMALL[kernel], np.random.default_rng(8), 7)
    path, images = native_path(SMALL[kernel], seen, multipliers.get("KVP"), kernel), torch.from_numpy(activations)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        apart = torch.cat([path.run(image) for image in images.split(1)])
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(path.run(images), apart)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("batch", [0, 1, 5, 200])
def test_linear(native_path, batch):
    shape = LayerShape(channels=37, outputs=33, linear=True)
    seen, activations = drawn(shape, np.random.default_rng(6), batch)
    for multiplier in (multipliers.get("KVP"), FOREIGN["random table"]):
        check(native_path, shape, seen, multiplier, activations, None)


def test_large_images_are_cut_into_bands(native_path):
    rng = np.random.default_rng(7)
    for kernel, channels in (("winograd", 64), ("direct", 64), ("table", 4), ("table_sparse", 4)):
        shape = LayerShape(channels=channels, outputs=2 if channels > 4 else 9, kernel=(3, 3), padding=(1, 1))
        seen, activations = drawn(shape, rng, 1, 50, 61)
        check(native_path, shape, seen, multipliers.get("KV6"), activations, kernel)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.integers(1, 3),
    channels=st.integers(1, 20),
    outputs=st.integers(1, 20),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    sides=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    batch=st.integers(1, 4),
    key=st.sampled_from(["KV6", "KVP", "adapt/mul8s_1L2H_adapt_table"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_shapes(native_path, groups, channels, outputs, kernel, stride, padding, sides, batch, key, seed):
    shape = LayerShape(channels=channels, outputs=outputs, kernel=kernel, stride=stride, padding=padding, groups=groups)
    seen, activations = drawn(shape, np.random.default_rng(seed), batch, *sides)
    check(native_path, shape, seen, multipliers.get(key), activations, None)
    check(native_path, shape, seen, FOREIGN["random table"], activations, None)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    channels=st.integers(8, 40),
    outputs=st.integers(1, 40),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    sides=st.tuples(st.integers(3, 13), st.integers(3, 13)),
    batch=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_winograd_random_shapes(native_path, channels, outputs, padding, sides, batch, seed):
    shape = LayerShape(channels=channels, outputs=outputs, kernel=(3, 3), padding=padding)
    seen, activations = drawn(shape, np.random.default_rng(seed), batch, *sides)
    check(native_path, shape, seen, multipliers.get("KVP"), activations, "winograd")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.integers(1, 18),
    channels=st.integers(1, 2),
    outputs=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 9)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 4)),
    sides=st.tuples(st.integers(3, 9), st.integers(9, 17)),
    batch=st.integers(1, 5),
    codes=st.sampled_from([(-128, 127), (0, 127), (-9, 5), (0, 0), (127, 127), (-128, -128)]),
    weights=st.sampled_from([range(-128, 128), (-128, 127), (0,)]),
    name=st.sampled_from(list(ADVERSARIAL)),
    seed=st.integers(0, 2**32 - 1),
)
def test_few_outputs_of_any_table(
    native_path, groups, channels, outputs, kernel, stride, padding, sides, batch, codes, weights, name, seed
):
    """More results than codes among the activations, and fewer: products are spread out for runs of taps, or are not."""
    shape = LayerShape(channels=channels, outputs=outputs, kernel=kernel, stride=stride, padding=padding, groups=groups)
    rng = np.random.default_rng(seed)
    seen = rng.choice(weights, (groups * outputs, shape.reduction)).astype(np.int8)
    activations = rng.integers(codes[0], codes[1] + 1, (batch, groups * channels, *sides)).astype(np.int8)
    check(native_path, shape, seen, ADVERSARIAL[name], activations, "table_sparse")


def test_kernel_choice(native_path):
    seen = np.ones((64, 64 * 9), np.int8)
    square = LayerShape(channels=64, outputs=64, kernel=(3, 3), padding=(1, 1))
    path = native_path(square, seen, multipliers.get("KVP"))
    assert (path.kernel_for(32, 32), path.kernel_for(1, 1)) == ("winograd", "direct")
    strided = LayerShape(channels=64, outputs=64, kernel=(3, 3), stride=(2, 2))
    assert native_path(strided, seen, multipliers.get("KVP")).kernel_for(32, 32) == "direct"
    with pytest.raises(ValueError, match="kernel winograd cannot run this layer; direct, table_sparse, table can"):
        native_path(strided, seen, multipliers.get("KVP"), "winograd")


def test_self_test_finds_a_wrong_kernel(library, monkeypatch):
    assert failing_kernel(library) is None
    right = native.Library.convolve

    def wrong(self, kernel, *args, **options):
        sums = right(self, kernel, *args, **options)
        sums[(-1,) * sums.dim()] += kernel == "depthwise"
        return sums

    monkeypatch.setattr(native.Library, "convolve", wrong)
    assert failing_kernel(library) == "depthwise"


def test_without_a_compiler_torch_computes(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("EPSILON_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(native.NativeError, match="No C\\+\\+ compiler"):
        native.Library(native.LEVELS["sse2"])


def test_a_level_that_the_processor_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: [])
    native.library.cache_clear()
    with pytest.raises(native.NativeError, match="cannot run the kernels for avx512"):
        native.library("avx512")
