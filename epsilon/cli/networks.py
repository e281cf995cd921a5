"""Command `networks`: what networks come with the project, and the card of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["networks"]


def networks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|FILE]", help="Show the card of this one.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the card, in Markdown.")] = None,
) -> None:
    """List the networks that come with the project, or show the card of one."""
    from epsilon.cards import card
    from epsilon.cli.output import console
    from epsilon.files import write_atomically
    from epsilon.network_io import builtin_names, load

    if name is not None:
        text = card(load(name))
        if output is None:
            console().print(text, markup=False)
        else:
            write_atomically(output, text)
        return
    if output is not None:
        raise ValueError("Only the card of one network is written to a file: name the network")
    console().print(_overview([load(each) for each in builtin_names()]))


def _overview(found: list):
    from epsilon.cards import OVERVIEW, overview_row
    from epsilon.cli.output import new_table

    title = "Built-in networks; accuracy without faults on the test split: at the last exit, and with exits taken at gamma"
    table = new_table(title, *OVERVIEW, left=2)
    for network in found:
        table.add_row(*overview_row(network))
    return table
