"""Pickles of dictionaries, lists, numbers, strings and arrays of bytes; nothing in a file can run.

The Python batches of CIFAR are pickles. A pickle may name any function for Python to call, so only the three names that rebuild
a numpy array are known here, and even these stand for classes of this module that keep what they are given.
"""

from __future__ import annotations

import io
import pickle

import numpy as np

from epsilon.data.dataset import DataError

__all__ = ["unpickled"]


class _Kept:
    """What a pickle says of an array or of its dtype."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state


def _reconstruct(*_: object) -> _Kept:
    """Begin an array: its shape, dtype and bytes follow as its state."""
    return _Kept()


class _Unpickler(pickle.Unpickler):
    # numpy 2 calls the module of `_reconstruct` numpy._core.multiarray.
    known = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Kept,
        ("numpy", "dtype"): _Kept,
    }

    def find_class(self, module: str, name: str) -> object:
        try:
            return self.known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and only arrays of numpy are allowed") from None


def unpickled(content: bytes, where: object) -> dict[bytes, object]:
    """Return the dictionary of a pickle, its strings as bytes and its arrays, which must be uint8, as numpy's.

    Parameters
    ----------
    content : bytes
    where : Path or str
        What errors call the file.

    Raises
    ------
    DataError
        When the pickle is damaged, is no dictionary, or holds anything else.
    """
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # the bytes of a damaged pickle are instructions that can fail in every way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where} is no pickle of a batch that can be read: {reason}") from None
    if not isinstance(found, dict):
        raise DataError(f"{where} must hold a dictionary, not {type(found).__name__}")
    return {key: _array(value, where) if isinstance(value, _Kept) else value for key, value in found.items()}


def _array(kept: _Kept, where: object) -> np.ndarray:
    """Return the array whose state is (version, shape, dtype, whether in Fortran's order, bytes)."""
    try:
        _, shape, dtype, fortran, content = kept.state
        if dtype.arguments[0] != b"u1":
            raise ValueError(f"its numbers are {dtype.arguments[0]!r}, not unsigned bytes")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise DataError(f"{where} holds an array that cannot be read: {error}") from None
