"""The command line: `epsilon --help`.

Every command imports what it needs when it runs, so that help and mistakes answer at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from epsilon.cli import (
    bench,
    campaign,
    checking,
    datasets,
    demonstration,
    emulation,
    energy,
    faultsim,
    hardware,
    importing,
    networks,
    reporting,
    running,
    simulators,
    testset,
    training,
)
from epsilon.cli.errors import SentenceGroup

__all__ = ["app", "main"]

app = typer.Typer(
    cls=SentenceGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fault detection and repair in approximate DNN accelerators: the hardware, its simulation and its exact PyTorch twin.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from epsilon import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    context.obj = {"traceback": traceback}


app.command()(demonstration.demo)
app.command()(running.run)
app.command()(checking.crosscheck)
app.command()(faultsim.faultsim)
app.command()(networks.networks)
app.command()(hardware.multipliers)
app.command()(hardware.verilog)
app.command()(training.train)
app.command()(reporting.report)
app.command()(reporting.plan)
app.command("import")(importing.import_network)
app.command()(campaign.campaign)
app.command()(campaign.reproduce)
app.command()(campaign.export)
app.add_typer(datasets.app, name="data")
app.add_typer(energy.app, name="energy")
bench.app.command()(simulators.simulators)
bench.app.command()(emulation.emulator)
bench.app.command("testset")(testset.whole_set)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command line."""
    app(prog_name="epsilon")
