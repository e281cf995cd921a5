"""Where a data set was found, in which format, and how its splits are read from there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epsilon.data.dataset import DataError, Pictures

__all__ = ["ENVIRONMENT", "MissingData", "Source", "array_checksums", "content_of", "given_folder"]

ENVIRONMENT = "EPSILON_DATA"


class MissingData(DataError):
    """No file of a data set is where it was looked for."""


def array_checksums(images: np.ndarray, labels: np.ndarray) -> dict[str, str]:
    """Return the MD5 of the bytes of the images, uint8 (count, C, H, W), and of the labels as one byte each."""
    return {
        "images": hashlib.md5(np.ascontiguousarray(images)).hexdigest(),
        "labels": hashlib.md5(labels.astype(np.uint8)).hexdigest(),
    }


@dataclass(frozen=True)
class Source:
    """One data set in one format.

    Parameters
    ----------
    format : str
        What the files are, for people.
    place : Path or str
        The folder or archive that holds them.
    read : callable
        From the name of a split to its images, uint8 (count, C, H, W), and labels, int64 (count,); raises ``DataError`` for files
        that are damaged or missing.
    checksums : callable
        From the images and labels of a split to the MD5 of each thing whose MD5 is known; see ``epsilon.data.catalogue``.
    """

    format: str
    place: Path | str
    read: Callable[[str], tuple[np.ndarray | Pictures, np.ndarray]]
    checksums: Callable[[np.ndarray | Pictures, np.ndarray], dict[str, str]] = array_checksums


def given_folder(data: str | os.PathLike | None) -> Path | None:
    """Return the folder that an argument names, else the environment's EPSILON_DATA, else None."""
    given = data if data is not None else os.environ.get(ENVIRONMENT) or None
    return None if given is None else Path(given)


def content_of(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    DataError
        When it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no file {path}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
