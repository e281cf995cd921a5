"""The threshold gamma: exits taken, accuracy, and the rule by which it is fitted."""

import numpy as np
import pytest

from epsilon.confidence import energies
from epsilon.thresholds import ALLOWED_UNSURE, GAMMAS, exits_taken, fit_gamma, fit_tau, multi_exit_accuracy


def logits_of(rows):
    """Logits whose softmax is the given probabilities."""
    return np.log(np.array(rows, dtype=np.float64))


FIRST = logits_of([[0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [0.2, 0.55, 0.25], [0.34, 0.33, 0.33]])
LAST = logits_of([[0.1, 0.8, 0.1], [0.05, 0.9, 0.05], [0.1, 0.2, 0.7], [0.4, 0.3, 0.3]])


def test_first_sure_exit_is_taken():
    predictions, exits, sure = exits_taken([FIRST, LAST], 0.75)
    assert predictions.tolist() == [0, 1, 2, 0]
    assert exits.tolist() == [0, 1, 1, 1]
    assert sure.tolist() == [True, True, False, False]
    predictions, exits, sure = exits_taken([FIRST, LAST], 0.5)
    assert predictions.tolist() == [0, 0, 1, 0]
    assert exits.tolist() == [0, 0, 0, 1]
    assert sure.tolist() == [True, True, True, False]


def test_a_confidence_equal_to_gamma_is_not_sure():
    even = np.zeros((1, 2))
    assert exits_taken([even], 0.5)[2].tolist() == [False]
    assert exits_taken([even], 0.49)[2].tolist() == [True]


def test_accuracy_counts_the_taken_exit():
    labels = np.array([0, 1, 2, 0])
    assert multi_exit_accuracy([FIRST, LAST], labels, 0.75) == 1.0
    assert multi_exit_accuracy([FIRST, LAST], labels, 0.5) == 0.5
    assert multi_exit_accuracy([FIRST, LAST], labels, 0.99) == 0.75


def population(confidences, right):
    """A single-exit population: the share of images at each confidence, 1,000 in all; labels are right or not at each."""
    rows, labels = [], []
    for (confidence, share), correct in zip(confidences, right, strict=True):
        count = round(1000 * share)
        rows += [[confidence, 1 - confidence]] * count
        labels += [0 if correct else 1] * count
    return logits_of(rows), np.array(labels)


def test_gamma_is_the_largest_with_few_unsure_images():
    logits, labels = population([(0.755, 0.01), (0.805, 0.01), (0.885, 0.01), (0.995, 0.97)], [True] * 4)
    assert fit_gamma([logits], labels) == 0.88
    unsure = [(~exits_taken([logits], gamma)[2]).mean() for gamma in (0.88, 0.89)]
    assert unsure[0] <= ALLOWED_UNSURE < unsure[1]


def test_gamma_gives_way_to_accuracy():
    """Where the last exit corrects images of the first, a threshold that lets those out early is not taken."""
    first, labels = population([(0.705, 0.1), (0.995, 0.9)], [False, True])
    last = np.where(labels[:, None] == np.arange(2), 6.0, 0.0)
    gamma = fit_gamma([first, last], labels)
    assert multi_exit_accuracy([first, last], labels, gamma) == 1.0
    # Exit 2 is never unsure: nothing speaks against the largest threshold.
    assert gamma == GAMMAS[-1]
    # A second exit that is wrong about sure images, and a low accuracy of high thresholds with it.
    spoiled = np.where(labels[:, None] == np.arange(2), 0.0, 6.0)
    assert fit_gamma([first, spoiled], 1 - labels) >= 0.5


def test_smallest_acceptable_where_all_leave_many_unsure():
    logits, labels = population([(0.505, 0.3), (0.995, 0.7)], [True, True])
    assert fit_gamma([logits], labels) == 0.5
    logits, labels = population([(0.501, 0.3), (0.551, 0.7)], [True, True])
    assert fit_gamma([logits], labels) == pytest.approx(0.5)


def test_energy_is_the_negative_log_of_the_sum_of_exponentials():
    logits = np.array([[0.0, 0.0], [1000.0, 0.0], [-3.0, 2.0]])
    assert energies(logits) == pytest.approx([-np.log(2), -1000, -np.log(np.exp(-3) + np.exp(2))])
    with pytest.raises(ValueError, match="float64"):
        energies(logits.astype(np.float32))


def test_tau_keeps_all_but_two_percent_of_the_images_that_an_exit_is_sure_of():
    rng = np.random.default_rng(4)
    sure = np.c_[rng.uniform(5, 9, 500), np.zeros(500)]
    unsure = np.zeros((300, 2))
    tau, of_all = fit_tau([np.r_[sure, unsure], unsure + rng.uniform(-1, 1, (300, 1))], 0.9)
    kept = energies(sure) <= tau
    assert kept.mean() == pytest.approx(0.98, abs=0.003)
    # An exit that is sure of nothing is measured on everything.
    assert -1 - np.log(2) < of_all < 1 - np.log(2)
