"""Integer arithmetic against plain Python integers and torch's own operators."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from epsilon import integer
from epsilon.engine import native
from epsilon.network import Add, Requantization

INT32 = st.integers(-(2**31), 2**31 - 1)


def plain(value: int, multiplier: int, shift: int, low: int, high: int) -> int:
    """The definition of ``epsilon.network``, in integers without a width."""
    return max(low, min(high, (value * multiplier + (1 << (shift - 1))) >> shift))


@st.composite
def cases(draw):
    channels = draw(st.integers(1, 4))
    per_channel = draw(st.booleans())
    count = channels if per_channel else 1
    multipliers = draw(st.lists(st.integers(0, 2**31 - 1), min_size=count, max_size=count))
    shifts = draw(st.lists(st.integers(1, 62), min_size=count, max_size=count))
    low = draw(st.integers(-128, 126))
    high = draw(st.integers(low + 1, 127))
    # Sums next to a tie of the rounding and to the ends of int32 beside arbitrary ones.
    near_tie = st.builds(
        lambda k, d: max(-(2**31), min(2**31 - 1, ((2 * k + 1) << shifts[0]) // (2 * max(1, multipliers[0])) + d)),
        st.integers(-200, 200),
        st.integers(-1, 1),
    )
    value = st.one_of(INT32, near_tie, st.sampled_from([-(2**31), 2**31 - 1, 0, -1, 1]))
    rows = draw(st.lists(st.lists(value, min_size=channels, max_size=channels), min_size=1, max_size=5))
    return rows, multipliers, shifts, low, high


@settings(deadline=None, max_examples=300)
@given(cases())
def test_requantize_is_the_plain_definition(case):
    rows, multipliers, shifts, low, high = case
    requantization = Requantization(np.array(multipliers, np.int32), np.array(shifts, np.int8), low, high)
    codes = integer.requantize(torch.tensor(rows, dtype=torch.int32), requantization)
    pick = (lambda values, n: values[n]) if len(multipliers) > 1 else (lambda values, n: values[0])
    expected = [[plain(v, pick(multipliers, n), pick(shifts, n), low, high) for n, v in enumerate(row)] for row in rows]
    assert codes.dtype == torch.int8
    assert codes.tolist() == expected


def test_requantize_rounds_half_up():
    half = Requantization(np.array([1], np.int32), np.array([1], np.int8))
    assert integer.requantize(torch.tensor([[-3], [-2], [-1], [0], [1], [2], [3]], dtype=torch.int32), half).flatten().tolist() == [
        -1, -1, 0, 0, 1, 1, 2,
    ]  # fmt: skip


def test_zero_is_added_after_rounding_and_before_the_clamp():
    half = Requantization(np.array([1], np.int32), np.array([1], np.int8), low=-7, high=3, zero=-5)
    found = integer.requantize(torch.tensor([[-9], [-3], [0], [1], [14], [15], [40]], dtype=torch.int32), half).flatten().tolist()
    assert found == [-7, -6, -5, -4, 2, 3, 3]


def test_requantize_extremes_do_not_overflow():
    largest = Requantization(np.array([2**31 - 1], np.int32), np.array([62], np.int8))
    sums = torch.tensor([[-(2**31)], [2**31 - 1]], dtype=torch.int32)
    assert integer.requantize(sums, largest).flatten().tolist() == [
        plain(v, 2**31 - 1, 62, -128, 127) for v in (-(2**31), 2**31 - 1)
    ]


def test_requantize_by_torch_in_chunks_equals_the_kernels(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    sums = torch.randint(-(2**20), 2**20, (7, 3, 5, 4), generator=generator, dtype=torch.int32)
    requantization = Requantization(np.array([2**30, 2**29, 2**28], np.int32), np.array([43, 42, 40], np.int8), 0, 100)
    whole = integer.requantize(sums, requantization)
    monkeypatch.setattr(integer, "CHUNK_ELEMENTS", 61)
    monkeypatch.setattr(native, "best", lambda: None)
    assert torch.equal(integer.requantize(sums, requantization), whole)
    assert integer.requantize(sums[:0], requantization).shape == (0, 3, 5, 4)
    for channel in range(3):
        multiplier, shift = int(requantization.multiplier[channel]), int(requantization.shift[channel])
        assert int(whole[2, channel, 1, 1]) == plain(int(sums[2, channel, 1, 1]), multiplier, shift, 0, 100)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(0, 6), st.integers(0, 6)),
    st.integers(0, 2**32 - 1),
)
def test_pooling_is_torchs(kernel, stride, extra, seed):
    size = (kernel[0] + extra[0], kernel[1] + extra[1])
    codes = torch.from_numpy(np.random.default_rng(seed).integers(-128, 128, (2, 3, *size)).astype(np.int8))
    wide = codes.to(torch.float64)
    assert torch.equal(integer.max_pool2d(codes, kernel, stride).double(), functional.max_pool2d(wide, kernel, stride))
    sums = integer.window_sum2d(codes, kernel, stride)
    assert sums.dtype == torch.int32
    assert torch.equal(sums.double(), (functional.avg_pool2d(wide, kernel, stride) * (kernel[0] * kernel[1])).round())


def test_avg_pool_divides_by_its_requantisation():
    codes = torch.tensor([[[[1, 2], [3, 5]]]], dtype=torch.int8)
    quarter = Requantization(np.array([1], np.int32), np.array([2], np.int8))
    assert integer.avg_pool2d(codes, (2, 2), (2, 2), quarter).tolist() == [[[[3]]]]


def test_avg_pool_adds_its_bias_before_it_rounds():
    codes = torch.tensor([[[[1, 2], [3, 5]]]], dtype=torch.int8)
    quarter = Requantization(np.array([1], np.int32), np.array([2], np.int8))
    found = [integer.avg_pool2d(codes, (2, 2), (2, 2), quarter, bias).item() for bias in (-14, -13, -12, 2, 3)]
    assert found == [-1, 0, 0, 3, 4]


@st.composite
def additions(draw):
    """An addition within its 64 bits, and codes for it."""
    multipliers = draw(st.lists(st.one_of(st.integers(0, 2**31 - 1), st.integers(0, 99)), min_size=2, max_size=2))
    shift = draw(st.integers(1, 62))
    room = 2**63 - 1 - 128 * sum(multipliers) - 2 ** (shift - 1)
    bias = draw(st.one_of(st.integers(-room, room), st.integers(-(2**10), 2**10), st.sampled_from([-room, room, 0])))
    low = draw(st.integers(-128, 126))
    codes = st.lists(st.integers(-128, 127), min_size=3, max_size=3)
    pairs = draw(st.lists(st.tuples(codes, codes), min_size=1, max_size=4))
    high = draw(st.integers(low + 1, 127))
    return Add(
        name="sum", inputs=("a", "b"), multiplier=np.array(multipliers, np.int32), shift=shift, bias=bias, low=low, high=high
    ), pairs


@settings(deadline=None, max_examples=300)
@given(additions())
def test_addition_is_the_plain_definition(case):
    layer, pairs = case
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    found = integer.add(torch.tensor(first, dtype=torch.int8), torch.tensor(second, dtype=torch.int8), layer)
    one, other = map(int, layer.multiplier)

    def expected(a, b):
        return max(layer.low, min(layer.high, (a * one + b * other + layer.bias + (1 << (layer.shift - 1))) >> layer.shift))

    assert found.dtype == torch.int8
    assert found.tolist() == [[expected(a, b) for a, b in zip(*rows, strict=True)] for rows in pairs]


def test_addition_rounds_half_up_and_goes_in_chunks(monkeypatch):
    half = Add(name="sum", inputs=("a", "b"), multiplier=np.array([1, 1], np.int32), shift=1)
    first = torch.tensor([-3, -2, -1, 0, 1, 2, 127], dtype=torch.int8).reshape(7, 1, 1, 1)
    for chunk in (1 << 20, 3, 1):
        monkeypatch.setattr(integer, "CHUNK_ELEMENTS", chunk)
        assert integer.add(first, torch.zeros_like(first), half).flatten().tolist() == [-1, -1, 0, 0, 1, 1, 64]
        assert integer._add_by_torch(first, torch.zeros_like(first), half, 1).flatten().tolist() == [-1, -1, 0, 0, 1, 1, 64]


def test_addition_is_the_same_in_every_memory_format():
    layer = Add(
        name="sum", inputs=("a", "b"), multiplier=np.array([1_500_000_000, 900_000_000], np.int32), shift=31, bias=-(5 << 31)
    )
    generator = torch.Generator().manual_seed(4)
    first, second = torch.randint(-128, 128, (2, 3, 5, 4, 6), generator=generator, dtype=torch.int8)
    wanted = integer._add_by_torch(first, second, layer, layer.bias + (1 << 30))
    formats = (torch.contiguous_format, torch.channels_last)
    for one in formats:
        for other in formats:
            found = integer.add(first.contiguous(memory_format=one), second.contiguous(memory_format=other), layer)
            assert torch.equal(found, wanted)
            assert found.is_contiguous(memory_format=one)


def test_padding_is_with_the_value_on_each_side():
    codes = torch.arange(-2, 2, dtype=torch.int8).reshape(1, 1, 2, 2)
    found = integer.pad2d(codes, (1, 0, 0, 2), -128)
    assert found.dtype == torch.int8
    assert found.tolist() == [[[[-128] * 4, [-2, -1, -128, -128], [0, 1, -128, -128]]]]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32])
def test_relu(dtype):
    codes = torch.tensor([-128, -1, 0, 1, 127], dtype=dtype)
    assert integer.relu(codes).tolist() == [0, 0, 0, 1, 127]
    assert integer.relu(codes).dtype == dtype
