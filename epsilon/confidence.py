"""The confidence of an exit: what its softmax gives the class that it prefers."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["confidences", "energies", "require_gamma"]


def confidences(logits: torch.Tensor | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what an exit predicts and how sure it is, by Eq. (4) of [Khalil & Hoque].

    An image's figures do not depend on which images it shares a batch with: they are computed in float64, class after class.

    Parameters
    ----------
    logits : float64 (batch, classes)

    Returns
    -------
    predictions : int64 (batch,)
        The first of the classes with the largest logit.
    confidences : float64 (batch,)
        The largest softmax probability, in [1 / classes, 1].
    """
    values = _values(logits)
    return values.argmax(axis=1), 1.0 / _exponential_sum(values)


def energies(logits: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return the energy of each image, float64 (batch,): ``-log(sum(exp(logits)))``, low where the exit knows the like of it.

    Ref: W. Liu, X. Wang, J. Owens, Y. Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020, Eq. 4 at temperature 1.

    Parameters
    ----------
    logits : float64 (batch, classes)
    """
    values = _values(logits)
    return -(values.max(axis=1) + np.log(_exponential_sum(values)))


def _values(logits: torch.Tensor | np.ndarray) -> np.ndarray:
    values = logits.detach().cpu().numpy() if isinstance(logits, torch.Tensor) else np.asarray(logits)
    if values.dtype != np.float64 or values.ndim != 2:
        raise ValueError(f"The logits of an exit must be float64 (batch, classes), not {values.dtype} {values.shape}")
    return values


def _exponential_sum(values: np.ndarray) -> np.ndarray:
    """Return the sum of ``exp(value - largest value)`` per image, added class after class."""
    total = np.zeros(len(values))
    for column in np.exp(values - values.max(axis=1, keepdims=True)).T:
        total += column
    return total


def require_gamma(gamma: float) -> float:
    """Return a confidence threshold, or raise ValueError where it lies outside [0, 1]."""
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float, np.number)) or not 0 <= gamma <= 1:
        raise ValueError(f"The confidence threshold gamma must be a number from 0 to 1, not {gamma!r}")
    return float(gamma)
