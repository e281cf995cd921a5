"""Command `crosscheck`: the simulated hardware against the emulator, integer by integer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    from epsilon.crosscheck import CrosscheckReport

__all__ = ["crosscheck"]

CheckedSite = Annotated[
    str, typer.Option("--site", help="storage, array, or both one after the other.", rich_help_panel=options.FAULTS)
]
CheckedRepairs = Annotated[
    list[str] | None,
    typer.Option("--repair", metavar="POLICY", help="Check this repair too; may be given more than once. [default: nearest]"),
]


def crosscheck(
    network: options.Network = "digits",
    images: options.Images = 20,
    rows: options.Rows = 8,
    cols: options.Cols = 8,
    multiplier: options.MultiplierName = "KVP",
    level: options.Level = "words",
    on: Annotated[str, typer.Option("--on", help="rtl (the Verilated array) or lanes (the array in bit lanes).")] = "rtl",
    lanes: options.Lanes = None,
    threads: options.Threads = None,
    faults: options.Faults = 0.3,
    site: Annotated[
        str, typer.Option("--site", help="storage, array, or both one after the other.", rich_help_panel="Faults")
    ] = "both",
    polarity: options.Polarity = "both",
    bits: options.Bits = "uniform",
    seed: options.Seed = 0,
    repair: Annotated[
        list[str] | None, typer.Option("--repair", help="Repair to check as well; may be given more than once.")
    ] = None,
    dataset: options.DatasetName = None,
    data: options.Data = None,
    json_file: options.Json = None,
) -> None:
    """Compare emulator and simulated array on every accumulator, seen weight, scan record, stuck bit and cycle counter.

    Stages: fault-free, with faults, after each repair. The first difference is located; exit code 1 if there is any.
    """
    from epsilon import crosscheck as lockstep
    from epsilon.cli.output import console, progress_bar, write_json
    from epsilon.emulator import Emulator
    from epsilon.executor import encode
    from epsilon.faults import SITES
    from epsilon.network_io import load
    from epsilon.repair import get_repair
    from epsilon.techniques import opened

    tools = {"rtl": "Verilator, g++", "lanes": "Yosys, g++"}
    if on not in tools:
        raise ValueError(f"The emulator is compared with one of {', '.join(tools)}, not with {on!r}")
    config = options.array_config(rows, cols, multiplier, level)
    loaded = load(network)
    sites = SITES if site == "both" else (site,)
    maps = {f"{name} faults": options.fault_map(loaded, config, faults, name, polarity, bits, seed, None) for name in sites}
    repairs = [get_repair(name) for name in repair or ("nearest",)]
    codes = encode(loaded, options.labelled_images(loaded, images, data, dataset).images)
    place = opened(on, config, lanes=lanes, threads=threads or options.cores())
    with progress_bar(f"building the array ({tools[on]})", None) as update, place as device:
        report = lockstep.crosscheck(
            Emulator(config),
            device,
            loaded,
            codes,
            fault_maps=maps,
            repairs=repairs,
            batch=getattr(device, "lanes", 20),
            progress=lambda stage, done, total: update(done, stage, total),
        )
    out = console()
    out.print(_table(report, f"{network}, {images} images, {rows}x{cols} {config.multiplier.key}, {100 * faults:g} % faults"))
    if json_file is not None:
        write_json(json_file, _describe(report))
    if report.first is not None:
        out.print(f"DIFFERENT, first at {report.first}", soft_wrap=True, markup=False)
        raise typer.Exit(1)
    out.print(f"EQUAL: RTL = PyTorch on {report.compared:,} integers")


def _table(report: CrosscheckReport, title: str):
    from epsilon.cli.output import new_table
    from epsilon.crosscheck import QUANTITIES

    table = new_table(f"RTL against PyTorch: {title}", "stage", *QUANTITIES)
    for stage in report.stages:
        cells = []
        for quantity in QUANTITIES:
            differing, compared = stage.differing[quantity], stage.compared[quantity]
            cells.append(f"{differing:,} of {compared:,} differ" if differing else f"{compared:,} =" if compared else "-")
        table.add_row(stage.name, *cells)
    return table


def _describe(report: CrosscheckReport) -> dict:
    from dataclasses import asdict

    def first(found) -> dict | None:
        return None if found.first is None else asdict(found.first)

    stages = [
        {"name": stage.name, "compared": dict(stage.compared), "differing": dict(stage.differing), "first": first(stage)}
        for stage in report.stages
    ]
    return {"equal": report.equal, "compared": report.compared, "first": first(report), "stages": stages}
