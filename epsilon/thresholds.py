"""The thresholds of a multi-exit network, fitted on a validation split: confidence gamma, and tau of the baseline AxMENDNet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from epsilon.confidence import confidences, energies

__all__ = ["GAMMAS", "exits_taken", "fit_gamma", "fit_tau", "multi_exit_accuracy"]

#: The thresholds that are tried.
GAMMAS = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))
#: A threshold may cost this much accuracy, or one image, against the best one.
ALLOWED_LOSS = 0.001
#: The fault-free network may be unsure of this fraction of the images.
ALLOWED_UNSURE = 0.02
ROUNDING = 1e-12

Logits = Sequence[torch.Tensor | np.ndarray]


def exits_taken(logits: Logits, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what a multi-exit network answers: the first exit whose confidence is above gamma, else the last one.

    Parameters
    ----------
    logits : one float64 (count, classes) per exit

    Returns
    -------
    predictions : int64 (count,)
    exits : int64 (count,)
        Index of the exit that each prediction is from.
    sure : bool (count,)
        Whether any exit was above gamma.
    """
    found = [confidences(exit_logits) for exit_logits in logits]
    above = np.stack([confidence > gamma for _, confidence in found])
    sure = above.any(axis=0)
    exits = np.where(sure, above.argmax(axis=0), len(found) - 1)
    predictions = np.stack([prediction for prediction, _ in found])
    return predictions[exits, np.arange(exits.size)], exits, sure


def multi_exit_accuracy(logits: Logits, labels: np.ndarray, gamma: float) -> float:
    """Return the fraction of images whose multi-exit prediction is their label."""
    return float((exits_taken(logits, gamma)[0] == labels).mean())


def fit_gamma(logits: Logits, labels: np.ndarray) -> float:
    """Return the largest threshold that costs neither accuracy nor more than a few needless checks of the weights.

    Gamma decides twice: which exit is taken, and, because an image that no exit is sure of triggers a check, when a fault is
    noticed at all. So the thresholds whose multi-exit accuracy is within 0.1 point (one image, where that is more) of the best
    one's are a test for faults at different rates of false alarm, and the most powerful one is taken at which the fault-free
    network is unsure of at most 2 % of the images. Where all of those leave more images unsure, the smallest is taken.

    To be called with a validation split under the multiplier in question, without faults.

    Parameters
    ----------
    logits : one float64 (count, classes) per exit
    labels : int64 (count,)
    """
    accuracies = [multi_exit_accuracy(logits, labels, gamma) for gamma in GAMMAS]
    allowed = max(accuracies) - max(ALLOWED_LOSS, 1 / len(labels)) - ROUNDING
    acceptable = [gamma for gamma, accuracy in zip(GAMMAS, accuracies, strict=True) if accuracy >= allowed]
    quiet = [gamma for gamma in acceptable if (~exits_taken(logits, gamma)[2]).mean() <= ALLOWED_UNSURE + ROUNDING]
    return max(quiet) if quiet else min(acceptable)


def fit_tau(logits: Logits, gamma: float) -> list[float]:
    """Return the largest energy at which each exit is still trusted, for the baseline AxMENDNet as it is reconstructed here.

    An exit is taken when its confidence is above gamma and its energy at most tau. Tau keeps all but 2 % of the clean images that
    an exit is sure of (of all images, where it is sure of none), so both thresholds have the same rate of false alarm.

    To be called with a validation split under the multiplier in question, without faults.

    Parameters
    ----------
    logits : one float64 (count, classes) per exit
    gamma : float
    """
    found = []
    for exit_logits in logits:
        energy = energies(exit_logits)
        sure = confidences(exit_logits)[1] > gamma
        found.append(float(np.quantile(energy[sure] if sure.any() else energy, 1 - ALLOWED_UNSURE, method="higher")))
    return found
