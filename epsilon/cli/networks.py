"""Command `networks`: what networks come with the project, and the card of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["networks"]

#: The multiplier whose accuracy the overview shows.
SHOWN = "KVP"


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
    from epsilon import multipliers
    from epsilon.cli.output import new_table

    key = multipliers.get(SHOWN).key
    title = f"Built-in networks; accuracy without faults, {SHOWN}, on the test split"
    table = new_table(title, "network", "data set", "layers", "weights", "MMAC/image", "exits", "last exit", "at gamma", left=2)
    for network in found:
        metadata = network.metadata
        accuracy = metadata["accuracy"]["test"]["by_multiplier"][key]
        table.add_row(
            network.name,
            metadata.get("dataset", network.name),
            str(len(network.weighted)),
            f"{metadata['weights']:,}",
            f"{metadata['macs_per_image'] / 1e6:,.2f}",
            str(len(network.exits)),
            f"{100 * accuracy['exits'][-1]:.2f} %",
            f"{100 * accuracy['multi_exit']:.2f} %",
        )
    return table
