"""Command `faultsim`: every single stuck-at fault of an array, exhaustively, against images of a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    from sim.fault_dictionary import Coverage

__all__ = ["faultsim"]


def faultsim(
    network: options.Network = "digits",
    images: options.Images = 20,
    nets: Annotated[
        bool,
        typer.Option(
            "--nets", help="Every net of the PEs (at the level's netlist) instead of every bit of their weight registers."
        ),
    ] = False,
    rows: options.Rows = 8,
    cols: options.Cols = 8,
    multiplier: options.MultiplierName = "KVP",
    level: options.Level = "gates",
    lanes: options.Lanes = None,
    threads: options.Threads = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where the dictionary grows (SQLite), and the CSV is written.")
    ] = Path("out/faultsim"),
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="FILE", help="The dictionary's file; else one for each configuration in the folder."),
    ] = None,
    data: options.Data = None,
    json_file: options.Json = None,
) -> None:
    """Simulate every single stuck-at fault of the array on every image; a killed run goes on where it stopped.

    A fault is detected by output when it changes any accumulator on any image, by class when it changes the last exit's class,
    by signature when it changes any scan record.

    A net has the name of its signal (multiplier.pp_5_0); one without is called by what it is part of the logic of, and a number:
    multiplier.o[14]/0, or psum.d[3]/1 where that is the input of the register psum[3].
    """
    from dataclasses import asdict

    from epsilon.cli.output import console, progress_bar, write_json
    from epsilon.executor import encode
    from epsilon.network_io import load
    from sim.faultsim import configuration, simulate
    from sim.lanes.accelerator import LANES_PER_THREAD

    config = options.array_config(rows, cols, multiplier, level)
    loaded = load(network)
    codes = encode(loaded, options.labelled_images(loaded, images, data).images)
    if store is None:
        store = out / f"{loaded.name}-{_digest(configuration(config, loaded, codes, nets=nets))}.sqlite"
    store.parent.mkdir(parents=True, exist_ok=True)
    cores = threads or options.cores()
    with progress_bar("building the lanes", None) as update:
        dictionary = simulate(
            config,
            loaded,
            codes,
            store,
            nets=nets,
            lanes=lanes or LANES_PER_THREAD * cores,
            threads=cores,
            progress=lambda what, done, total: update(done, what, total),
        )
    with dictionary:
        table = store.with_suffix(".csv")
        dictionary.write_csv(table)
        coverage = dictionary.coverage()
    title = f"Single stuck-at faults of {rows}x{cols} {config.multiplier.key} ({level}), {images} images of {network}"
    console().print(_table(coverage, title))
    console().print(f"{table}: one line per fault", soft_wrap=True, markup=False)
    if json_file is not None:
        settings = {"network": network, "images": images, "nets": nets, "array": config.describe()}
        write_json(json_file, {**settings, "coverage": [asdict(group) for group in coverage]})


def _digest(values: dict) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _table(coverage: list[Coverage], title: str):
    from epsilon.cli.output import new_table

    table = new_table(
        title, "place", "faults", "output\nchanged %", "logits\nchanged %", "class\nchanged %", "signature\nchanged %",
        "signature\nalone %", "never\nseen %",
    )  # fmt: skip
    for group in coverage:
        shares = (group.output, group.logits, group.top1, group.records, group.records_only, group.nothing)
        table.add_row(group.group, f"{group.faults:,}", *(f"{100 * share / group.faults:.1f}" for share in shares))
    return table
