"""Where a data set was found, in which format, and how its splits are read from there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epsilon.data.dataset import DataError

__all__ = ["ENVIRONMENT", "MissingData", "Source", "content_of", "given_folder"]

ENVIRONMENT = "EPSILON_DATA"


class MissingData(DataError):
    """No file of a data set is where it was looked for."""


@dataclass(frozen=True)
class Source:
    """One data set in one format.

    Parameters
    ----------
    format : str
        What the files are, for people.
    place : Path
        The folder or archive that holds them.
    read : callable
        From the name of a split to its images, uint8 (count, C, H, W), and labels, int64 (count,); raises ``DataError`` for files
        that are damaged or missing.
    """

    format: str
    place: Path
    read: Callable[[str], tuple[np.ndarray, np.ndarray]]


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
