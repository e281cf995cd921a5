"""Signatures: what the scan counts equals what the tensor gives; importance, thresholds, detectors, confidence."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from epsilon.accelerator import ScanRecords
from epsilon.confidence import confidences, require_gamma
from epsilon.config import ArrayConfig
from epsilon.detector import ExactDetector, PatternDetector, get_detector
from epsilon.emulator import Emulator
from epsilon.faults import FaultMap
from epsilon.importance import importances
from epsilon.signatures import ScannedSignature, Signature, count_records, golden_quartiles, quartiles, same_records

CODES = arrays.arrays(np.int8, st.tuples(st.integers(1, 100), st.integers(1, 12)), elements=st.integers(-128, 127))


@given(CODES, st.integers(1, 64))
def test_signature_of_plain_numpy(codes, groups):
    signature = Signature.of(codes, groups)
    flat = sorted(codes.reshape(-1).tolist())
    assert signature.count == len(flat)
    assert signature.mean == pytest.approx(np.mean(flat), abs=1e-12)
    assert signature.std == pytest.approx(np.std(flat), abs=1e-9)
    # Nearest rank: the smallest code that a quarter, half, three quarters of all do not exceed.
    assert signature.quartiles == tuple(flat[-(-q * len(flat) // 4) - 1] for q in (1, 2, 3))
    assert len(signature.rho) == min(groups, len(codes))
    assert all(signature.histogram[code + 128] == flat.count(code) for code in range(-128, 128))


@given(CODES, st.integers(1, 64))
def test_sparsity_pattern_groups_hold_every_channel_once(codes, groups):
    rho = Signature.of(codes, groups).rho
    sizes = np.diff([*(np.arange(len(rho)) * len(codes) // len(rho)), len(codes)])
    assert sizes.max() - sizes.min() <= 1
    assert (rho * sizes * codes.shape[1]).sum() == pytest.approx(np.count_nonzero(codes == 0))


@given(CODES, st.tuples(*[st.integers(-128, 127)] * 3), st.integers(1, 64))
def test_scan_and_tensor_give_the_same_signature(codes, levels, groups):
    records = count_records(codes, levels)
    assert ScannedSignature.from_records(records, groups) == Signature.of(codes, groups).scanned(levels)


@pytest.mark.parametrize("site", ["storage", "array"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_signature_read_out_of_a_faulty_accelerator(tiny_network, site, rate):
    accelerator = Emulator(ArrayConfig(rows=4, cols=4))
    accelerator.load(tiny_network)
    accelerator.set_faults(FaultMap.sample(tiny_network, accelerator.config, site=site, rate=rate, polarity="both", seed=1))
    records = accelerator.read_records()
    for layer in tiny_network.weighted:
        levels = golden_quartiles(layer)
        seen = Signature.of(accelerator.read_weights(layer.name))
        assert ScannedSignature.from_records(records[layer.name]) == seen.scanned(levels)
        assert (seen == Signature.of(layer.matrix)) == (rate == 0)


def test_signature_needs_less_than_a_kilobyte():
    codes = np.random.default_rng(0).integers(-128, 128, (512, 4608), dtype=np.int8)
    signature = Signature.of(codes)
    assert signature.histogram.max() < 2**24
    # mean and deviation (2 x 4), quartiles (3), pattern (64 x 2), histogram (256 x 3)
    assert 8 + 3 + 2 * len(signature.rho) + 3 * len(signature.histogram) < 1024


def test_quartiles_are_codes_that_occur():
    assert quartiles(np.array([[1, 2, 3, 100]], np.int8)) == (1, 2, 3)
    assert quartiles(np.array([[-7]], np.int8)) == (-7, -7, -7)


@pytest.mark.parametrize("codes", [np.zeros((2, 2)), np.zeros(3, np.int8), np.zeros((0, 4), np.int8)])
def test_signature_of_something_else_is_refused(codes):
    with pytest.raises(ValueError, match="must be int8"):
        Signature.of(codes)


def test_importance_lies_in_range_and_falls_with_depth(tiny_network):
    found = importances(tiny_network)
    assert list(found) == [layer.name for layer in tiny_network.weighted]
    for importance in found.values():
        assert 0 < importance.beta_p <= 1
        assert 0 <= importance.gamma_s <= 1
        assert importance.alpha == importance.beta_p * importance.gamma_s
    # The first exit hangs on the first convolution, as the second convolution does.
    depths = {name: importance.depth for name, importance in found.items()}
    assert depths == {"conv1": 1, "fc1": 2, "conv2": 2, "fc2": 3}
    betas = {importance.depth: importance.beta_p for importance in found.values()}
    assert betas == pytest.approx({1: 1.0, 2: 2 / 3, 3: 1 / 3})


def test_importance_and_threshold_by_hand(tiny_network):
    found = importances(tiny_network, offset=2.0)
    conv1, conv2 = found["conv1"], found["conv2"]
    weight = tiny_network["conv1"].weight
    assert (conv1.fan_in, conv1.reuse) == (9, 36)
    assert conv1.most_products == max(9 * 36, conv2.fan_in * conv2.reuse)
    assert conv1.sparsity == pytest.approx(np.mean(weight == 0))
    assert conv1.threshold == pytest.approx((2 + conv1.alpha) * weight.std() / 127)
    assert conv1.threshold_codes == pytest.approx(127 * conv1.threshold)
    with pytest.raises(ValueError, match="at least 0, not -1"):
        importances(tiny_network, offset=-1)


@pytest.mark.parametrize("name", ["pattern", "exact"])
@given(codes=CODES)
def test_no_change_scores_exactly_zero(name, codes):
    levels = quartiles(codes)
    assert get_detector(name).score(count_records(codes, levels), count_records(codes.copy(), levels)) == 0.0


@given(codes=CODES, data=st.data())
def test_exact_detector_sees_every_single_stuck_bit(codes, data):
    n = data.draw(st.integers(0, codes.shape[0] - 1))
    k = data.draw(st.integers(0, codes.shape[1] - 1))
    changed = codes.copy()
    changed[n, k] ^= np.uint8(1 << data.draw(st.integers(0, 7))).view(np.int8)
    levels = quartiles(codes)
    detector = ExactDetector()
    score = detector.score(count_records(codes, levels), count_records(changed, levels))
    assert score == 1 > detector.threshold(5.0)


def test_pattern_score_by_hand():
    levels = (0, 0, 0)
    before, after = np.ones((4, 10), np.int8), np.ones((4, 10), np.int8)
    before[0, :5] = 0
    after[0, :2] = after[1, :4] = 0
    records = count_records(before, levels), count_records(after, levels)
    assert PatternDetector().score(*records) == pytest.approx(0.3 + 0.4)
    assert PatternDetector(groups=2).score(*records) == pytest.approx(0.05)
    assert PatternDetector().threshold(0.9) == 0.9


def test_unknown_detector_and_groups_are_refused():
    with pytest.raises(ValueError, match="one of pattern, exact, not 'guess'"):
        get_detector("guess")
    with pytest.raises(ValueError, match="1 to 64 groups, not 65"):
        PatternDetector(65)


def test_same_records_sees_every_field():
    codes = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    records = count_records(codes, (-3, 0, 3))
    assert same_records(records, count_records(codes, (-3, 0, 3)))
    for name in ScanRecords.__dataclass_fields__:
        fields = {**vars(records), name: vars(records)[name] + 1}
        assert not same_records(records, ScanRecords(**fields))


def test_confidence_is_that_of_softmax():
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 5, (200, 10)))
    predictions, found = confidences(logits)
    expected = torch.softmax(logits, dim=1).max(dim=1)
    assert np.array_equal(predictions, expected.indices.numpy())
    assert np.allclose(found, expected.values.numpy(), rtol=1e-14)


@given(arrays.arrays(np.float64, (13, 7), elements=st.floats(-1000, 1000)), st.integers(1, 13))
def test_confidence_does_not_depend_on_the_batch(logits, batch):
    predictions, found = confidences(logits)
    for start in range(0, 13, batch):
        part = confidences(logits[start : start + batch])
        assert np.array_equal(part[0], predictions[start : start + batch])
        assert np.array_equal(part[1], found[start : start + batch])
    assert ((found >= 1 / 7 - 1e-15) & (found <= 1)).all()


def test_first_of_equal_classes_is_predicted():
    assert confidences(np.array([[1.0, 3.0, 3.0]]))[0].tolist() == [1]


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan"), "high", True])
def test_gamma_out_of_range_is_refused(gamma):
    with pytest.raises(ValueError, match="from 0 to 1"):
        require_gamma(gamma)
