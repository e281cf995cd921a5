"""The rows of a results file as CSV or Parquet, and rows back from one or more such files."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from epsilon.campaign.schema import COLUMNS
from epsilon.campaign.store import read
from epsilon.files import write_atomically
from epsilon.sentences import first_line

if TYPE_CHECKING:
    import pandas

__all__ = ["SUFFIXES", "export", "is_parquet", "read_files"]

SUFFIXES = (".csv", ".parquet")
#: Rows of one campaign repeat each other, so the slowest setting is worth it: a tenth of the size, and as fast to read.
COMPRESSION = {"compression": "zstd", "compression_level": 19}


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
        rows.to_parquet(content, engine="pyarrow", index=False, **COMPRESSION)
        write_atomically(path, content.getvalue())
    return len(rows)


def is_parquet(path: str | os.PathLike) -> bool:
    """Return whether a results file is one of Parquet, by its name; others are SQLite."""
    return Path(path).suffix.lower() == ".parquet"


def read_files(paths: Sequence[str | os.PathLike]) -> pandas.DataFrame:
    """Return the rows of results files (SQLite, or Parquet as ``export`` writes it) as one table, each row once.

    Raises
    ------
    ValueError
        When a file is missing, or none of results.
    """
    import pandas

    found = pandas.concat([_read_parquet(Path(path)) if is_parquet(path) else read(path) for path in paths])
    return found.drop_duplicates("key", ignore_index=True)


def _read_parquet(path: Path) -> pandas.DataFrame:
    import pandas

    try:
        rows = pandas.read_parquet(path, engine="pyarrow")
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}") from None
    except (ValueError, OSError) as error:  # pyarrow's errors are kinds of these
        raise ValueError(f"{path} is no Parquet file of results: {first_line(error)}") from None
    missing = [name for name in COLUMNS if name not in rows]
    if missing:
        raise ValueError(f"{path} is no Parquet file of results: it has no column {missing[0]!r}")
    return rows[list(COLUMNS)]
