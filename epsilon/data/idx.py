"""IDX files of unsigned bytes, the format of MNIST.

Ref: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", "file format".
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from epsilon.data.dataset import DataError
from epsilon.data.source import content_of

__all__ = ["read_idx"]

UNSIGNED_BYTE = 8


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Return the array of an IDX file of unsigned bytes, gzip or not.

    Raises
    ------
    DataError
        When the file is missing, truncated, longer than it says, or of another kind.
    """
    path = Path(path)
    content = content_of(path)
    try:
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE or not 1 <= content[3] <= 4:
        raise DataError(f"{path} is no IDX file of unsigned bytes: it begins with {content[:4].hex(' ') or 'nothing'}")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DataError(f"{path} ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise DataError(f"{path} must hold {expected} bytes for its shape {shape}, not {len(content)}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
