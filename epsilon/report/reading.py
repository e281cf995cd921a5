"""The rows of a results file."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from epsilon.campaign.schema import COLUMNS

__all__ = ["read"]


def read(path: str | os.PathLike) -> pd.DataFrame:
    """Return the rows of a results file, in the order of their keys, with the columns of ``epsilon.campaign.schema.COLUMNS``.

    Raises
    ------
    ValueError
        When there is no such file, or it holds no results.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no results file {path}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as connection:
            cursor = connection.execute("SELECT * FROM runs ORDER BY key")
            names, rows = [column[0] for column in cursor.description], cursor.fetchall()
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is not a results file of a campaign: {error}") from None
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(f"{path} is not a results file of this version: it has no column {missing[0]!r}")
    return pd.DataFrame.from_records(rows, columns=names)
