"""Command `bench simulators`: every simulator of the hardware on the same work, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    from sim.bench_simulators import Measurement

__all__ = ["simulators"]

BASELINE = "Verilator in process"


def simulators(
    side: Annotated[
        list[int] | None, typer.Option("--side", min=1, max=64, help="Rows and columns of the array; may be given more than once.")
    ] = None,
    level: Annotated[list[str] | None, typer.Option("--level", help="words, gates; both when left out.")] = None,
    simulator: Annotated[
        list[str] | None,
        typer.Option("--simulator", metavar="NAME", help="amaranth, icarus, cocotb, verilator, lanes; all when left out."),
    ] = None,
    multiplier: options.MultiplierName = "KVP",
    span: Annotated[float, typer.Option("--span", min=0.1, help="Seconds to simulate, of each.")] = 3.0,
    limit: Annotated[float, typer.Option("--limit", min=1, help="Seconds after which one is given up, build included.")] = 600.0,
    cached: Annotated[bool, typer.Option("--cached", help="Use earlier builds; the time to build then does not show.")] = False,
    json_file: options.Json = None,
) -> None:
    """Speed of all simulators, 8x8 and 16x16, words and gates: from the hardware description to sums checked against the table.

    Ratios are to Verilator in process on the same array. Cycles per second are those of every lane.
    """
    from epsilon.cli.output import console, new_table, progress_bar, write_json
    from epsilon.config import LEVELS
    from sim.bench_simulators import SIMULATORS, bench, jobs

    configs = [options.array_config(n, n, multiplier, each) for n in side or (8, 16) for each in level or LEVELS]
    todo = jobs(configs, simulator or SIMULATORS)
    with progress_bar("building and measuring", len(todo)) as update:
        found = bench(
            todo,
            span_s=span,
            limit_s=limit,
            cached=cached,
            progress=lambda done, job: update(done, note=str(job)),
        )
        update(len(todo))
    table = new_table(
        "Tiles of a convolution at full rate; one process each", "array", "level", "simulator", "lanes", "cores", "build s",
        "cycles/s", "million MAC/s", "ratio", "MB", "transposing %", left=3,
    )  # fmt: skip
    for measured in found:
        table.add_row(*_cells(measured, found))
    out = console()
    out.print(table)
    for measured in found:
        if measured.problem is not None:
            out.print(f"{measured.job}: {measured.problem}", soft_wrap=True, markup=False)
    if json_file is not None:
        write_json(json_file, {"rows": [measured.describe() for measured in found]})


def _cells(measured: Measurement, found: list[Measurement]) -> list[str]:
    kind, config = measured.job.kind, measured.job.config
    cells = [measured.job.array, config.level, kind.name, str(kind.lanes), str(kind.cores)]
    if measured.problem is not None:
        return [*cells, "-", "-", "-", "-", "-", "-"]
    baseline = next(
        (each for each in found if each.job.kind.name == BASELINE and each.job.config == config and each.mac_per_s), None
    )
    ratio = "-" if baseline is None else f"{measured.mac_per_s / baseline.mac_per_s:,.3g}"
    share = "-" if measured.transposition is None else f"{100 * measured.transposition:.1f}"
    speed = [f"{measured.build_s:.1f}", f"{measured.cycles_per_s:,.0f}", f"{measured.mac_per_s / 1e6:,.4g}", ratio]
    return [*cells, *speed, f"{measured.memory_mb:.0f}", share]
