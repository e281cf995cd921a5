"""MNIST from its four IDX files, gzip or not.

Ref: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits".

The first 55,000 images of the training file are for training, its last 5,000 for validation, the 10,000 of the test file for test.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from epsilon.data import download
from epsilon.data.dataset import DataError
from epsilon.data.idx import read_idx
from epsilon.data.source import MissingData, Source

__all__ = ["CLASSES", "MIRRORS", "source"]

CLASSES = 10
SIDE = 28
VALIDATION = 5000
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
#: MD5 of the published gzip files.
FILES = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
#: Where the files may lie in the folder that a user names; the last is torchvision's place.
FOLDERS = (".", "mnist", "MNIST/raw")


def source(root: Path | None) -> Source:
    """Return where the files are; without a folder they are downloaded when they are read.

    Raises
    ------
    MissingData
        When no file of MNIST is in the folder.
    """
    if root is None:
        return Source("IDX files", download.cache("mnist"), partial(_read, _downloaded))
    for folder in (root / place for place in FOLDERS):
        if any(_candidates(folder, name) for name in FILES):
            return Source("IDX files", folder, partial(_read, partial(_in_folder, folder)))
    raise MissingData(f"There is no MNIST file {next(iter(FILES))}.gz in {root} or its subfolder {' or '.join(FOLDERS[1:])}")


def _candidates(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]


def _in_folder(folder: Path, name: str) -> Path:
    found = _candidates(folder, name)
    if not found:
        raise DataError(f"There is no MNIST file {name}.gz in {folder}")
    return found[0]


def _downloaded(name: str) -> Path:
    addresses = [f"{mirror}{name}.gz" for mirror in MIRRORS]
    return download.retrieve("MNIST", addresses, FILES[name], download.cache("mnist"))


def _read(path_of: Callable[[str], Path], split: str) -> tuple[np.ndarray, np.ndarray]:
    prefix = "t10k" if split == "test" else "train"
    images_path, labels_path = (path_of(f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{images_path} must hold images of {SIDE}x{SIDE}, not an array of shape {images.shape}")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{labels_path} must hold {len(images)} labels, one per image, not an array of shape {labels.shape}")
    if labels.size and labels.max() >= CLASSES:
        raise DataError(f"{labels_path} must hold labels of 0..{CLASSES - 1}, not {labels.max()}")
    if split != "test":
        if len(labels) <= VALIDATION:
            raise DataError(f"{images_path} must hold more than the {VALIDATION} images of the validation split, not {len(images)}")
        part = slice(-VALIDATION, None) if split == "validation" else slice(-VALIDATION)
        images, labels = images[part], labels[part]
    return images[:, None].copy(), labels.astype(np.int64)
