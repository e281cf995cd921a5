"""The rows of a results file as CSV or Parquet."""

from __future__ import annotations

import io
import os
from pathlib import Path

from epsilon.campaign.store import read
from epsilon.files import write_atomically

__all__ = ["SUFFIXES", "export"]

SUFFIXES = (".csv", ".parquet")


def export(results: str | os.PathLike, path: str | os.PathLike, *, current: bool = False) -> int:
    """Write the rows of a results file, all or nothing, and return how many there are.

    Parameters
    ----------
    results : path
    path : path
        Ending in ``.csv`` (``correct_bits`` in hexadecimal digits) or ``.parquet`` (bytes).
    current : bool
        See ``epsilon.campaign.store.read``.

    Raises
    ------
    ValueError
        For another ending, and when the results cannot be read.
    OSError
        When the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Results are exported to a file that ends in {' or '.join(SUFFIXES)}, not to {path.name!r}")
    rows = read(results, current=current)
    if path.suffix.lower() == ".csv":
        rows["correct_bits"] = [None if bits is None else bits.hex() for bits in rows["correct_bits"]]
        write_atomically(path, rows.to_csv(index=False, lineterminator="\n"))
    else:
        content = io.BytesIO()
        rows.to_parquet(content, engine="pyarrow", index=False)
        write_atomically(path, content.getvalue())
    return len(rows)
