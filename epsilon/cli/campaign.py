"""Commands `campaign`, `reproduce` and `export`: fault campaigns, those of the paper, and their rows as CSV or Parquet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    import pandas

    from epsilon.campaign.config import CampaignConfig
    from epsilon.campaign.scheduling import Workers
    from epsilon.campaign.schema import Unit

__all__ = ["campaign", "export", "reproduce"]

SCALE = "Where it runs"
QUICK_IMAGES = 1000

Quick = Annotated[bool, typer.Option("--quick", help=f"The first {QUICK_IMAGES:,} images and one fault map of each kind.")]
Show = Annotated[bool, typer.Option("--show", help="Print the configuration, to change and run with `campaign`, and end.")]
WorkerCount = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes, or jobs of --slurm. [default: one per core]", rich_help_panel=SCALE),
]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="On the Dask cluster of this scheduler.", rich_help_panel=SCALE),
]
Slurm = Annotated[str | None, typer.Option("--slurm", metavar="QUEUE", help="As jobs of this SLURM queue.", rich_help_panel=SCALE)]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="The same without faults, into a file of its own: every row must be golden, else exit code 1."),
]


def campaign(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG.yaml", help="What to run; see --example.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="RESULTS.sqlite", help="Where the rows go, beside those that are there.")
    ] = None,
    workers: WorkerCount = None,
    scheduler: Scheduler = None,
    slurm: Slurm = None,
    dry_run: DryRun = False,
    data: options.Data = None,
    example: Annotated[bool, typer.Option("--example", help="Print a configuration with every key, and end.")] = False,
) -> None:
    """Run networks, multipliers, fault maps and techniques against each other; a killed campaign goes on where it stopped.

    A row is kept under the hash of everything that decides it: run the same command again and only what is missing is computed.
    """
    from epsilon.campaign.config import EXAMPLE, load

    if example:
        typer.echo(EXAMPLE, nl=False)
        return
    if config is None or out is None:
        raise ValueError("A campaign needs CONFIG.yaml and -o RESULTS.sqlite; --example prints a configuration")
    _run(load(config), out, workers=workers, scheduler=scheduler, slurm=slurm, dry_run=dry_run, data=data)


def reproduce(
    name: Annotated[str, typer.Argument(help="table1, sa0, array, multipliers, figure1, figure2, figure3 or bits.")],
    quick: Quick = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="RESULTS.sqlite", help="[default: out/reproduce/NAME.sqlite]")
    ] = None,
    workers: WorkerCount = None,
    scheduler: Scheduler = None,
    slurm: Slurm = None,
    dry_run: DryRun = False,
    data: options.Data = None,
    show: Show = False,
) -> None:
    """Run a part of the paper's evaluation: Table I (table1, sa0), its figures, and what goes beyond (array, multipliers, bits)."""
    from dataclasses import replace

    from epsilon.campaign.config import preset, preset_text

    if show:
        typer.echo(preset_text(name), nl=False)
        return
    config = preset(name)
    if quick:
        config = replace(config, images=min(config.images or QUICK_IMAGES, QUICK_IMAGES), maps=1)
    if out is None:
        out = Path("out/reproduce") / f"{name}{'-quick' if quick else ''}.sqlite"
        out.parent.mkdir(parents=True, exist_ok=True)
    _run(config, out, workers=workers, scheduler=scheduler, slurm=slurm, dry_run=dry_run, data=data)


def export(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.sqlite")],
    file: Annotated[Path, typer.Argument(metavar="FILE.csv|FILE.parquet")],
    current: Annotated[bool, typer.Option("--current", help="Only the rows of the last campaign on this file.")] = False,
) -> None:
    """Write the rows of campaigns as CSV or Parquet; possible while one is running."""
    from epsilon.campaign.export import export as write
    from epsilon.cli.output import console

    rows = write(results, file, current=current)
    console().print(f"{file}: {rows:,} rows", soft_wrap=True, markup=False)


def _run(
    config: CampaignConfig,
    out: Path,
    *,
    workers: int | None,
    scheduler: str | None,
    slurm: str | None,
    dry_run: bool,
    data: Path | None,
) -> None:
    from epsilon.campaign.plan import dry, plan, row_keys
    from epsilon.campaign.scheduling import execute, pending
    from epsilon.campaign.store import ResultStore, read
    from epsilon.cli.output import console, progress_bar

    if scheduler is not None and slurm is not None:
        raise ValueError("A campaign runs on --scheduler ADDRESS or on --slurm QUEUE, not on both")
    if scheduler is not None and workers is not None:
        raise ValueError("How many workers there are is the cluster's to say: --workers does not go with --scheduler")
    if dry_run:
        config, out = dry(config), out.with_suffix(".dry-run.sqlite")
    with ResultStore(out) as store:
        units = plan(config, data)
        store.begin_campaign(config.describe(), (key for unit in units for key in row_keys(unit)))
        left = pending(units, store.keys())
        if left:
            with (
                progress_bar(config.name, len(left)) as update,
                _workers(left, workers=workers, scheduler=scheduler, slurm=slurm, data=data) as pool,
            ):
                begun = time.monotonic()
                execute(left, pool, store, progress=lambda *state: update(state[0], note=_note(*state, begun)))
    rows = read(out, current=True)
    there = len(units) - len(left)
    again = f", {there:,} of the {len(units):,} units were there before" if there else f" of {len(units):,} units"
    console().print(f"{out}: {len(rows):,} rows{again}", soft_wrap=True, markup=False)
    if dry_run:
        _show_golden(rows)
    else:
        _show_league(rows)


@contextmanager
def _workers(
    units: list[Unit], *, workers: int | None, scheduler: str | None, slurm: str | None, data: Path | None
) -> Iterator[Workers]:
    from contextlib import ExitStack

    from epsilon.campaign import dask_workers
    from epsilon.campaign.scheduling import LocalWorkers

    count = min(workers or options.cores(), len(units))
    with ExitStack() as stack:
        if scheduler is None and slurm is None:
            yield stack.enter_context(LocalWorkers(count, data=data))
            return
        address = scheduler if slurm is None else stack.enter_context(dask_workers.slurm_cluster(slurm, count))
        client = stack.enter_context(dask_workers.connected(address))
        yield stack.enter_context(dask_workers.DaskWorkers(client, data=data))


def _note(done: int, total: int, rows: int, workers: int, begun: float) -> str:
    """Return what the progress bar says beside the units: rows, and the time that is left at this pace."""
    if not workers:
        return "waiting for workers"
    if not done:
        return ""
    left = round((time.monotonic() - begun) / done * (total - done))
    return f"{rows:,} rows, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


def _show_golden(rows: pandas.DataFrame) -> None:
    from epsilon.campaign.plan import not_golden
    from epsilon.cli.output import console

    wrong = not_golden(rows)
    if wrong.empty:
        console().print(f"Without faults all {len(rows):,} rows equal golden")
        return
    for row in wrong.itertuples():
        told = f"{row.network} {row.multiplier} {row.technique}: {row.correct} right, golden {row.correct_fault_free}"
        console().print(told, soft_wrap=True, markup=False)
    console().print(f"{len(wrong):,} of {len(rows):,} rows without faults differ from golden")
    raise typer.Exit(1)


def _show_league(rows: pandas.DataFrame) -> None:
    """Print each technique's accuracy with its interval; sweeps of gamma, alpha or bits are for `report`."""
    from epsilon.cli.output import console, new_table, print_table
    from epsilon.report.results import Results
    from epsilon.report.tables import league
    from epsilon.report.text import plain_interval, plain_points, scenario

    lines = league(Results(rows))
    if lines.empty:
        console().print("Its rows are sweeps alone: `epsilon report` draws them", soft_wrap=True, markup=False)
        return
    for (network, multiplier, *kind), group in lines.groupby(["network", "multiplier", "site", "polarity", "bits"], sort=False):
        title = f"{network}, {multiplier}, {scenario(*kind)}: mean over fault points, rates and maps"
        heads = ("accuracy % [95 %]", "to vanilla, points", "to fault-free, points", "runs")
        table = new_table(title, "technique", *heads)
        for _, row in group.iterrows():
            cells = (plain_interval(row, "accuracy"), plain_points(row, "to_vanilla"), plain_points(row, "to_fault_free"))
            table.add_row(row.technique, *cells, f"{row.runs:,}")
        print_table(table, least=(heads[2], heads[3], heads[1]))
