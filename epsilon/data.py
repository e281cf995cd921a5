"""Labelled images in fixed splits: the handwritten digits that ship with scikit-learn, and MNIST.

Ref: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998): 1,797 images of 8x8, 17 grey levels.
Ref: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits": the four IDX files.

Splits never depend on a seed. ``digits``: 1,000 for training, 200 for validation, 597 for test, assigned by a hash of the image's
number, because the collection's own order goes by writer. ``mnist``: the first 55,000 of the training file for training, its last
5,000 for validation, the 10,000 of the test file for test.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

__all__ = ["SPLITS", "DataError", "Dataset", "load", "names", "read_idx"]

SPLITS = ("train", "validation", "test")
CLASSES = 10
ENVIRONMENT = "EPSILON_DATA"

DIGITS_COUNTS = {"train": 1000, "validation": 200, "test": 597}
#: Grey levels 0..16 of the digits, spread over 0..255.
DIGITS_LEVELS = 16

MNIST_SIDE = 28
MNIST_VALIDATION = 5000
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
#: MD5 of the published gzip files.
MNIST_FILES = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
IDX_UNSIGNED_BYTE = 8


class DataError(ValueError):
    """Images or labels that are missing, damaged or not what they should be."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    Parameters
    ----------
    name, split : str
    images : uint8 (count, C, H, W)
    labels : int64 (count,)
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Dataset:
        """Return the first ``count`` images.

        Raises
        ------
        DataError
            When there are not that many, or the count is below 1.
        """
        if not 1 <= count <= len(self):
            raise DataError(
                f"The {self.split} split of {self.name} has {len(self)} images: the number must lie in 1..{len(self)}, not {count}"
            )
        return Dataset(self.name, self.split, self.images[:count], self.labels[:count])


def names() -> tuple[str, ...]:
    """Return the names that ``load`` knows."""
    return ("digits", "mnist")


def load(name: str, split: str, data: str | os.PathLike | None = None) -> Dataset:
    """Return one split of a data set.

    Parameters
    ----------
    name : str
        ``digits`` or ``mnist``.
    split : str
        ``train``, ``validation`` or ``test``.
    data : path, optional
        Folder with the IDX files of MNIST (gzip or not), or whose subfolder ``mnist`` has them; without it the environment's
        EPSILON_DATA counts; without both the files are downloaded once into the user's cache and checked.

    Raises
    ------
    DataError
        For an unknown name or split, and for files that are missing or damaged.
    """
    if split not in SPLITS:
        raise DataError(f"The split must be one of {', '.join(SPLITS)}, not {split!r}")
    if name == "digits":
        return _digits(split)
    if name == "mnist":
        return _mnist(split, data)
    raise DataError(f"The data set must be one of {', '.join(names())}, not {name!r}")


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Return the array of an IDX file of unsigned bytes, gzip or not.

    Raises
    ------
    DataError
        When the file is missing, truncated, longer than it says, or of another kind.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"There is no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != IDX_UNSIGNED_BYTE or not 1 <= content[3] <= 4:
        raise DataError(f"{path} is no IDX file of unsigned bytes: it begins with {content[:4].hex(' ') or 'nothing'}")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DataError(f"{path} ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise DataError(f"{path} must hold {expected} bytes for its shape {shape}, not {len(content)}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


@lru_cache(maxsize=1)
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # slow to import, and not needed for MNIST

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * 255 / DIGITS_LEVELS).astype(np.uint8).reshape(-1, 1, 8, 8)
    order = sorted(range(len(labels)), key=lambda number: hashlib.sha256(f"digits {number}".encode()).digest())
    return pixels[order], labels[order].astype(np.int64)


def _digits(split: str) -> Dataset:
    images, labels = _all_digits()
    start = 0
    for name, count in DIGITS_COUNTS.items():
        if name == split:
            break
        start += count
    return Dataset("digits", split, images[start : start + count].copy(), labels[start : start + count].copy())


def _mnist(split: str, data: str | os.PathLike | None) -> Dataset:
    prefix = "t10k" if split == "test" else "train"
    images_path, labels_path = (_mnist_file(f"{prefix}-{kind}-ubyte", data) for kind in ("images-idx3", "labels-idx1"))
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (MNIST_SIDE, MNIST_SIDE):
        raise DataError(f"{images_path} must hold images of {MNIST_SIDE}x{MNIST_SIDE}, not an array of shape {images.shape}")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{labels_path} must hold {len(images)} labels, one per image, not an array of shape {labels.shape}")
    if labels.size and labels.max() >= CLASSES:
        raise DataError(f"{labels_path} must hold labels of 0..{CLASSES - 1}, not {labels.max()}")
    if split != "test":
        if len(labels) <= MNIST_VALIDATION:
            raise DataError(
                f"{images_path} must hold more than the {MNIST_VALIDATION} images of the validation split, not {len(images)}"
            )
        part = slice(-MNIST_VALIDATION, None) if split == "validation" else slice(-MNIST_VALIDATION)
        images, labels = images[part], labels[part]
    return Dataset("mnist", split, images[:, None].copy(), labels.astype(np.int64))


def _mnist_file(name: str, data: str | os.PathLike | None) -> Path:
    """Return where a file of MNIST is, downloading it when no folder is given."""
    given = data if data is not None else os.environ.get(ENVIRONMENT) or None
    if given is None:
        return _download(name)
    folder = Path(given)
    for candidate in (folder, folder / "mnist"):
        for ending in (".gz", ""):
            path = candidate / f"{name}{ending}"
            if path.is_file():
                return path
    raise DataError(f"There is no MNIST file {name}.gz in {folder} or its subfolder mnist")


def _download(name: str) -> Path:
    import pooch  # needed only here

    pooch.get_logger().setLevel("ERROR")
    folder = Path(pooch.os_cache("epsilon")) / "mnist"
    reason: Exception | None = None
    for mirror in MNIST_MIRRORS:
        try:
            return Path(pooch.retrieve(f"{mirror}{name}.gz", f"md5:{MNIST_FILES[name]}", fname=f"{name}.gz", path=folder))
        except Exception as error:  # whatever a mirror does wrong, the next one is tried
            reason = error
    sentence = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
    raise DataError(f"MNIST's {name}.gz could not be downloaded ({sentence}): give its folder by --data or {ENVIRONMENT}")
