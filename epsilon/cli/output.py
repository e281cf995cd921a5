"""What the commands print: tables on stdout, progress on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

__all__ = ["console", "new_table", "print_table", "progress_bar", "write_json"]

#: Columns of a table that does not go to a terminal.
FILE_WIDTH = 140
#: Where a terminal is narrow, names in the first column fold only so far.
LABEL_WIDTH = 17


def console() -> Console:
    """Return the console for results; wide enough for every table where it is no terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=FILE_WIDTH)


def new_table(title: str, *columns: str, left: int = 1) -> Table:
    """Return a table whose first ``left`` columns are text and the others numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=index == 0)
    return table


def print_table(table: Table, *, least: Sequence[str] = ()) -> None:
    """Print a table of ``new_table``; in a terminal that is too narrow for it, so that no number is folded.

    There a table of one row stands upright, a head and a value per line. Of others the names in the first column fold between
    words, and columns are left out, as many as it takes, and named below.

    Parameters
    ----------
    least : sequence of str
        Heads of the columns that may be left out, the least important first.
    """
    out = console()
    columns, left_out = list(table.columns), []
    if Measurement.get(out, out.options.update(width=10_000), table).maximum > out.width:
        if table.row_count == 1:
            table = _upright(table)
        else:
            title, table = table.title, _narrow(table.title, columns)
            for head in least:
                if _least_width(out, table) <= out.width:
                    break
                columns = [column for column in columns if column.header != head]
                left_out.append(" ".join(head.split()))
                table = _narrow(title, columns)
        out.size = (max(out.width, _least_width(out, table)), out.height)  # where nothing helps, folding is the terminal's
    out.print(table)
    if left_out:
        out.print(f"In a wider terminal also: {'; '.join(left_out)}\n", soft_wrap=True, markup=False)


def _least_width(out: Console, table: Table) -> int:
    return Measurement.get(out, out.options.update(width=10_000), table).minimum


def _narrow(title: str, columns: Sequence[Column]) -> Table:
    """Return the columns close to each other; nothing but the names of the first one folds."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        width = max(len(line) for text in (column.header, *column.cells) for line in text.splitlines() or [""])
        least = width if index else min(width, LABEL_WIDTH)
        table.add_column(column.header, justify=column.justify, no_wrap=index > 0, min_width=least)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table


def _upright(table: Table) -> Table:
    """Return a table of one row as one of two columns: heads and values."""
    upright = Table(title=table.title, title_justify="left", box=None, pad_edge=False, show_header=False)
    for column in table.columns:
        upright.add_row(" ".join(column.header.split()), *column.cells)
    return upright


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable]:
    """Show a bar on stderr; without a terminal, a line per tenth.

    Yields ``update(done, what=None, total=None, note="")``.
    """
    err = Console(stderr=True, highlight=False)
    if not err.is_terminal:
        yield _Lines(err, what, total).update
        return
    note = TextColumn("{task.fields[note]}", style="dim")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), note)
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what, total=total, note="")

        def update(done: int, text: str | None = None, total: int | None = None, note: str = "") -> None:
            progress.update(task, completed=done, description=text, total=total, note=note)

        yield update


class _Lines:
    """Progress where there is no terminal."""

    def __init__(self, err: Console, what: str, total: int | None) -> None:
        self._err, self._what, self._total, self._shown = err, what, total, -1
        self._print(what)

    def update(self, done: int, text: str | None = None, total: int | None = None, note: str = "") -> None:
        if text is not None and text != self._what:
            self._what, self._total, self._shown = text, total, -1
            if total is None:
                self._print(text)
        self._total = total if total is not None else self._total
        if not self._total:
            return
        tenth = 10 * done // self._total
        if tenth > self._shown:
            self._shown = tenth
            self._print(f"{self._what}: {done} of {self._total} {note}".rstrip())

    def _print(self, line: str) -> None:
        self._err.print(line, soft_wrap=True, markup=False)


def write_json(path: Path, values: dict) -> None:
    """Write a result as JSON, all or nothing."""
    from epsilon.files import write_atomically

    write_atomically(path, json.dumps(values, indent=2) + "\n")
