"""Repair policies: what the multipliers see afterwards, against brute force over every code that could be written."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epsilon import compensation, multipliers
from epsilon.accelerator import StuckBits, WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from epsilon.controller import repair_all
from epsilon.emulator import Emulator
from epsilon.estimation import expected, most_probable
from epsilon.faults import FaultMap
from epsilon.repair import (
    REPAIRS,
    RepairContext,
    get_repair,
    golden_totals,
    golden_weights,
    input_grid,
    placed,
    useful_bits,
)
from epsilon.signatures import Signature

BYTE = st.integers(0, 255)
CODE = st.integers(-128, 127)


def context_of(golden, sa0, sa1, *, words=None, known=None, tell=True, threshold=3 * 28.0):
    """Return what the controller would know of a layer with these stuck bits."""
    words = words or WeightWords.plain(golden)
    stuck = StuckBits(sa0 & ~sa1, sa1)
    return RepairContext(
        words=words,
        seen=seen_by_multiplier(words, stuck),
        signature=Signature.of(golden),
        totals=golden_totals(golden, 0xFF),
        threshold=threshold,
        stuck=stuck,
        known=known,
        golden=golden if tell else None,
    )


def layer(seed, shape=(24, 60), bits=1, rate=0.5):
    """Return bell-shaped golden codes and the stuck bits of half of their registers."""
    rng = np.random.default_rng(seed)
    golden = np.clip(np.rint(rng.normal(2, 28, shape)), -127, 127).astype(np.int8)
    sa0, sa1 = np.zeros((2, *shape), np.uint8)
    for _ in range(bits):
        mask = np.where(rng.random(shape) < rate, np.uint8(1) << rng.integers(0, 8, shape).astype(np.uint8), 0).astype(np.uint8)
        ones = rng.random(shape) < 0.5
        sa0, sa1 = sa0 | np.where(ones, 0, mask).astype(np.uint8), sa1 | np.where(ones, mask, 0).astype(np.uint8)
    return golden, sa0 & ~sa1, sa1


def after(words, context):
    return seen_by_multiplier(words, context.stuck).astype(int)


@given(CODE, BYTE, BYTE)
def test_nearest_is_optimal(target, sa0, sa1):
    golden, stuck = np.array([[target]], np.int8), StuckBits(np.array([[sa0]], np.uint8), np.array([[sa1]], np.uint8))
    every = np.arange(-128, 128, dtype=np.int8)[:, None]
    best = np.abs(seen_by_multiplier(WeightWords.plain(every), stuck).astype(int) - target).min()
    code, invert = placed(golden, stuck, invert=False)
    assert not invert.any()
    assert abs(int(seen_by_multiplier(WeightWords.plain(code), stuck)[0, 0]) - target) == best
    # What is written is what comes back.
    assert np.array_equal(seen_by_multiplier(WeightWords.plain(code), stuck), code)


@given(CODE, BYTE, BYTE)
def test_invert_is_optimal(target, sa0, sa1):
    stuck = StuckBits(np.array([[sa0]], np.uint8), np.array([[sa1]], np.uint8))
    every = WeightWords.plain(np.arange(-128, 128, dtype=np.int8)[:, None])
    complement = WeightWords(every.code, ~every.invert, every.bypass)
    best = min(np.abs(seen_by_multiplier(words, stuck).astype(int) - target).min() for words in (every, complement))
    code, invert = placed(np.array([[target]], np.int8), stuck, invert=True)
    got = seen_by_multiplier(WeightWords(code, invert, np.zeros_like(invert)), stuck)
    assert abs(int(got[0, 0]) - target) == best


@pytest.mark.parametrize("polarity", [0, 1])
def test_invert_is_exact_for_any_single_stuck_bit(polarity):
    golden = np.tile(np.arange(-128, 128, dtype=np.int8), (8, 1))
    mask = np.repeat(np.uint8(1) << np.arange(8, dtype=np.uint8)[:, None], 256, axis=1)
    none = np.zeros_like(mask)
    context = context_of(golden, none if polarity else mask, mask if polarity else none)
    assert np.array_equal(after(get_repair("invert").repair_layer(context), context), golden)


@given(st.lists(st.integers(0, 30), min_size=256, max_size=256), CODE, BYTE)
def test_most_probable_code_by_brute_force(histogram, seen, uncertain):
    histogram = np.array(histogram)
    found = most_probable(np.array([[seen]], np.int8), np.array([[uncertain]], np.uint8), histogram)[0, 0]
    agreeing = [code for code in range(-128, 128) if (code ^ seen) & 0xFF & ~uncertain == 0]
    assert found == min(agreeing, key=lambda code: (-histogram[code + 128], abs(code), code))


def test_expected_code_by_hand():
    # Twenty at 4, sixty at 68: a reading of 4 with bit 6 unknown is one of them.
    histogram = np.zeros(256, np.int64)
    histogram[[128 + 4, 128 + 68]] = 20, 60
    seen, uncertain = np.array([[4, 4, 7]], np.int8), np.array([[64, 64, 0]], np.uint8)
    expectation = 4 + 64 * 0.75
    found = expected(seen, uncertain, histogram, np.array([round(2 * expectation) + 7]))
    assert found[0] == pytest.approx([expectation, expectation, 7], abs=1)
    # The known sum of the output decides; what is certain stays.
    assert expected(seen, uncertain, histogram, np.array([4 + 4 + 7])).tolist() == [[4, 4, 7]]
    assert expected(seen, uncertain, histogram, np.array([68 + 68 + 7])).tolist() == [[68, 68, 7]]


@given(st.integers(0, 2**32 - 1), BYTE)
def test_expected_codes_lie_among_what_agrees_and_add_up(seed, used):
    golden, sa0, sa1 = layer(seed, shape=(6, 40))
    uncertain = (sa0 | sa1) & np.uint8(used)
    keep = np.uint8(used).view(np.int8)
    seen = ((golden.view(np.uint8) & ~sa0) | sa1).view(np.int8)
    totals = golden_totals(golden, used)
    found = expected(seen, uncertain, Signature.of(golden).histogram, totals, used)
    assert not (found & ~keep).any()
    certain = uncertain == 0
    assert np.array_equal(found[certain], (golden & keep)[certain])
    if used == 0xFF:
        free = ~certain.all(axis=1) & (np.abs(found).max(axis=1) < 127)
        assert (np.abs(found.sum(axis=1, dtype=int) - totals)[free] <= 0.5 * np.count_nonzero(~certain, axis=1)[free]).all()


@pytest.mark.parametrize("shape", [(16, 9), (40, 100)])
def test_expected_is_nearer_than_most_probable(shape):
    golden, sa0, sa1 = layer(14, shape=shape)
    context = context_of(golden, sa0, sa1, tell=False)
    errors = {}
    for target in ("map", "expected"):
        words = get_repair("invert", target=target, compensate=False).repair_layer(context)
        errors[target] = ((after(words, context) - golden) ** 2).mean()
    assert errors["expected"] < 0.8 * errors["map"]


@pytest.mark.parametrize("name", REPAIRS)
@pytest.mark.parametrize("tell", [True, False])
def test_a_healthy_layer_is_left_alone(name, tell):
    golden, _, _ = layer(1)
    none = np.zeros(golden.shape, np.uint8)
    context = context_of(golden, none, none, tell=tell, threshold=256.0)
    assert context.words.differing(get_repair(name).repair_layer(context)) == 0


@pytest.mark.parametrize("name", ["nearest", "invert", "zero"])
@pytest.mark.parametrize("tell", [True, False])
@pytest.mark.parametrize("bits", [1, 3])
def test_repairing_again_changes_nothing(name, tell, bits):
    golden, sa0, sa1 = layer(2, bits=bits)
    context = context_of(golden, sa0, sa1, tell=tell)
    first = get_repair(name).repair_layer(context)
    again = context_of(golden, sa0, sa1, words=first, known=context.stuck, tell=tell)
    assert context.words.differing(first) > 0
    assert first.differing(get_repair(name).repair_layer(again)) == 0


@pytest.mark.parametrize("name", ["nearest", "invert"])
@pytest.mark.parametrize("tell", [True, False])
def test_targeted_repairs_bring_weights_nearer(name, tell):
    golden, sa0, sa1 = layer(3)
    context = context_of(golden, sa0, sa1, tell=tell)
    before = np.abs(context.seen.astype(int) - golden)
    error = np.abs(after(get_repair(name, compensate=False).repair_layer(context), context) - golden)
    assert error.mean() < (0.35 if tell else 0.8) * before.mean()
    if tell:
        assert (error <= before).all()


@pytest.mark.parametrize("name", ["nearest", "invert"])
@pytest.mark.parametrize("target", ["map", "expected"])
def test_estimates_never_look_at_the_golden_weights(name, target):
    golden, sa0, sa1 = layer(4, bits=2)
    told, untold = (context_of(golden, sa0, sa1, tell=tell) for tell in (True, False))
    words = [get_repair(name, target=target).repair_layer(context) for context in (told, untold)]
    assert words[0].differing(words[1]) == 0
    # Memory lost what the stuck bits hid: other words of which the registers hold the same give the same repair.
    lost = context_of(golden, sa0, sa1, words=WeightWords.plain(untold.seen), tell=False)
    remembered = {"signature": untold.signature, "totals": untold.totals}
    relearnt = get_repair(name, target=target).repair_layer(RepairContext(**{**vars(lost), **remembered}))
    assert np.array_equal(after(relearnt, untold), after(words[1], untold))


def test_new_stuck_bits_are_repaired_beside_old_ones():
    golden, sa0, sa1 = layer(5, rate=0.3)
    _, more0, more1 = layer(6, rate=0.3)
    repair = get_repair("nearest", compensate=False)
    old = context_of(golden, sa0, sa1, tell=False)
    first = repair.repair_layer(old)
    both = sa0 | more0 & ~sa1, sa1 | more1 & ~sa0
    worse = RepairContext(
        **{**vars(context_of(golden, *both, words=first, known=old.stuck, tell=False)), "signature": old.signature}
    )
    second = repair.repair_layer(worse)
    grown = ((worse.stuck.sa0 | worse.stuck.sa1) & ~(old.stuck.sa0 | old.stuck.sa1)) != 0
    assert np.array_equal(second.code[~grown], first.code[~grown])
    errors = [np.abs(codes.astype(int) - golden).mean() for codes in (worse.seen, after(second, worse))]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("grid", [(60, 1, 1), (5, 3, 4), (1, 6, 10)])
@pytest.mark.parametrize("name", ["nearest", "invert"])
def test_compensation_keeps_the_sums(name, grid):
    golden, sa0, sa1 = layer(11, bits=2)
    sa0[3], sa1[3] = 0, 0
    context = RepairContext(**{**vars(context_of(golden, sa0, sa1)), "grid": grid})
    alone, together = (
        after(get_repair(name, compensate=compensate).repair_layer(context), context) - golden for compensate in (False, True)
    )
    # Constant activations: the sum of each output is nearer to what it should be. An output without an error is left alone.
    assert np.abs(together.sum(axis=1)).mean() < 0.4 * np.abs(alone.sum(axis=1)).mean()
    assert not together[3].any()
    # Activations with a mean, alike within a map.
    rng = np.random.default_rng(12)
    maps = rng.normal(1, 1, (4000, grid[0], 1)).repeat(grid[1] * grid[2], axis=2)
    activations = np.maximum(maps + rng.normal(0, 0.7, maps.shape), 0).reshape(4000, 60)
    noise = [((activations @ errors.T) ** 2).mean() for errors in (alone, together)]
    assert noise[1] < 0.75 * noise[0]


@given(st.integers(0, 2**32 - 1), st.sampled_from([(12, 1, 1), (3, 2, 2), (1, 3, 4)]), BYTE)
def test_compensation_never_disturbs_more(seed, grid, used):
    rng = np.random.default_rng(seed)
    sa0, sa1, target = rng.integers(0, 256, (3, 5, 12), dtype=np.uint8) & np.uint8(used)
    stuck = StuckBits(sa0 & ~sa1, sa1)
    found = []
    for chosen in (None, grid):
        code, invert = placed(target.view(np.int8), stuck, invert=False, used=used, grid=chosen)
        words = WeightWords(code, invert, np.zeros_like(invert))
        assert np.array_equal(seen_by_multiplier(words, stuck), code)
        found.append(code.astype(int) - target.view(np.int8))
    side = grid[1] * grid[2]
    y, x = np.divmod(np.arange(side), grid[2])
    likeness = np.rint(256 * compensation.LIKENESS ** np.hypot(y[:, None] - y, x[:, None] - x))
    moments = np.kron(np.eye(grid[0]), likeness) + 256 * compensation.MEAN
    alone, together = (np.einsum("nj,jk,nk->n", error, moments, error) for error in found)
    assert (together <= alone).all()


def test_grid_that_does_not_fit_is_refused():
    golden, sa0, sa1 = layer(13)
    with pytest.raises(ValueError, match="grid of 2 x 3 x 4 inputs does not fit 60 weights"):
        placed(golden, StuckBits(sa0, sa1), invert=False, grid=(2, 3, 4))


def test_grids_of_a_network(tiny_network):
    assert {layer.name: input_grid(tiny_network, layer.name) for layer in tiny_network.weighted} == {
        "conv1": (1, 3, 3),
        "fc1": (8, 3, 3),
        "conv2": (4, 3, 3),
        "fc2": (12, 3, 3),
    }


def test_golden_target_without_golden_weights_is_refused():
    golden, sa0, sa1 = layer(7)
    with pytest.raises(ValueError, match="memory no longer has them"):
        get_repair("nearest", target="golden").repair_layer(context_of(golden, sa0, sa1, tell=False))


def test_quartile_by_hand():
    golden = np.array([[-60, -20, -10, 0, 10, 20, 60, 5]], np.int8)
    sa1 = np.array([[0, 0, 0, 0x80, 0, 0x40, 0, 0x04]], np.uint8)
    context = context_of(golden, np.zeros_like(sa1), sa1, threshold=70.0)
    assert context.signature.quartiles == (-20, 0, 10)
    assert context.seen.tolist() == [[-60, -20, -10, -128, 10, 84, 60, 5]]
    words = get_repair("quartile").repair_layer(context)
    # -128 becomes Q1, 84 becomes Q3; the stuck bits are still there when they come back.
    assert words.code.tolist() == [[-60, -20, -10, -20, 10, 10, 60, 5]]
    assert after(words, context).tolist() == [[-60, -20, -10, -20, 10, 74, 60, 5]]


def test_clip_by_hand():
    golden = np.array([[-60, -20, -10, 0, 10, 20, 60, 5]], np.int8)
    sa1 = np.array([[0, 0, 0, 0x80, 0, 0x40, 0, 0]], np.uint8)
    context = context_of(golden, np.zeros_like(sa1), sa1, threshold=70.0)
    # The mean is 0.625: -69.375..70.625.
    assert get_repair("clip").repair_layer(context).code.tolist() == [[-60, -20, -10, -69, 10, 70, 60, 5]]


def test_zero_bypasses_exactly_the_faulty_registers():
    golden, sa0, sa1 = layer(8)
    context = context_of(golden, sa0, sa1)
    words = get_repair("zero").repair_layer(context)
    faulty = (sa0 | sa1) != 0
    assert np.array_equal(words.bypass, faulty)
    assert np.array_equal(after(words, context), np.where(faulty, 0, golden))


@pytest.mark.parametrize("name", ["v2022/mul8s_1L2J", "v2022/mul8s_1L2N", "v2022/mul8s_1L12"])
def test_stuck_bits_that_no_product_depends_on_are_left_alone(name):
    multiplier = multipliers.get(name)
    rng = np.random.default_rng(9)
    sa0, sa1 = rng.integers(0, 256, (2, 40, 40), dtype=np.uint8)
    kept = useful_bits(StuckBits(sa0, sa1), multiplier.used_weight_bits)
    words = WeightWords.plain(rng.integers(-128, 128, (40, 40), dtype=np.int8))
    activations = rng.integers(-128, 128, (40, 40), dtype=np.int8)
    products = [multiplier.multiply(activations, seen_by_multiplier(words, stuck)) for stuck in (StuckBits(sa0, sa1), kept)]
    assert np.array_equal(*products)


@pytest.mark.parametrize("name", REPAIRS)
@pytest.mark.parametrize("site", ["storage", "array"])
def test_repair_all_on_an_accelerator(tiny_network, name, site):
    config = ArrayConfig(rows=4, cols=4, multiplier="KV6")
    accelerator = Emulator(config)
    accelerator.load(tiny_network)
    accelerator.set_faults(FaultMap.sample(tiny_network, config, site=site, rate=0.4, polarity="both", seed=1))
    golden = golden_weights(tiny_network)
    faulty = {name: accelerator.read_weights(name).astype(int) for name in golden}
    counts = repair_all(accelerator, get_repair(name), golden if site == "array" else None)
    assert list(counts) == list(golden)
    assert sum(counts.values()) > 0
    errors = [
        np.concatenate([(codes[layer] - golden[layer]).reshape(-1) ** 2 for layer in golden]).mean()
        for codes in (faulty, {layer: accelerator.read_weights(layer).astype(int) for layer in golden})
    ]
    assert errors[1] < errors[0]
    if (name, site) == ("invert", "array"):
        assert errors[1] == 0


def test_a_large_layer_takes_seconds_at_most():
    golden, sa0, sa1 = layer(10, shape=(512, 2048), bits=3)
    context = context_of(golden, sa0, sa1, tell=False)
    # A million weights with up to three stuck bits each, in processor time: one by one it would be minutes.
    for compensate, seconds in ((False, 2), (True, 10)):
        start = time.process_time()
        get_repair("invert", compensate=compensate).repair_layer(context)
        assert time.process_time() - start < seconds


def test_unknown_repairs_and_options_are_refused():
    with pytest.raises(ValueError, match="one of quartile, zero, nearest, clip, invert, not 'magic'"):
        get_repair("magic")
    with pytest.raises(ValueError, match="target of the repair must be one of auto, golden, expected, map, not 'best'"):
        get_repair("nearest", target="best")
    with pytest.raises(ValueError, match="zero takes no option, but was given target"):
        get_repair("zero", target="map")
