"""The handwritten digits that ship with scikit-learn.

Ref: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998): 1,797 images of 8x8, 17 grey levels.

The collection's own order goes by writer, so a hash of the image's number assigns the splits: 1,000 for training, 200 for
validation, 597 for test.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from epsilon.data.source import Source

__all__ = ["source"]

COUNTS = {"train": 1000, "validation": 200, "test": 597}
#: Grey levels 0..16, spread over 0..255.
LEVELS = 16


def source(root: Path | None) -> Source:
    """Return where the digits are: always in scikit-learn."""
    return Source("part of a package", "scikit-learn", _read)


@lru_cache(maxsize=1)
def _everything() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # slow to import, and not needed for the other sets

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * 255 / LEVELS).astype(np.uint8).reshape(-1, 1, 8, 8)
    order = sorted(range(len(labels)), key=lambda number: hashlib.sha256(f"digits {number}".encode()).digest())
    return pixels[order], labels[order].astype(np.int64)


def _read(split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _everything()
    start = 0
    for name, count in COUNTS.items():
        if name == split:
            break
        start += count
    return images[start : start + count].copy(), labels[start : start + count].copy()
