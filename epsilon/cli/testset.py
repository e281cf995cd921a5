"""Command `bench testset`: a whole test set cycle by cycle and gate by gate, equal to the emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    from sim.testset import Comparison

__all__ = ["whole_set"]


def whole_set(
    network: options.Network = "mnist",
    images: Annotated[int, typer.Option("--images", min=0, help="How many images of the test split; 0: all.")] = 0,
    maps: Annotated[
        int,
        typer.Option(
            "--maps", min=0, help="Fault maps for the first image, each in a lane of its own; 0: none.", rich_help_panel="Faults"
        ),
    ] = 512,
    faults: options.Faults = 0.3,
    site: options.Site = "array",
    polarity: options.Polarity = "both",
    bits: options.Bits = "uniform",
    seed: options.Seed = 0,
    rows: options.Rows = 16,
    cols: options.Cols = 16,
    multiplier: options.MultiplierName = "KVP",
    level: options.Level = "gates",
    lanes: options.Lanes = None,
    threads: options.Threads = None,
    data: options.Data = None,
    json_file: options.Json = None,
) -> None:
    """Run a test set, and many fault maps of one image, in bit lanes; compare every logit of every exit with the emulator.

    Exit code 1 if any differs.
    """
    from dataclasses import asdict

    from epsilon.cli.output import console, new_table, progress_bar, write_json
    from epsilon.executor import encode
    from epsilon.network_io import load
    from epsilon.validation import macs
    from sim.testset import compare_fault_maps, compare_images

    config = options.array_config(rows, cols, multiplier, level)
    loaded = load(network)
    chosen = options.labelled_images(loaded, images or None, data)
    codes = encode(loaded, chosen.images)

    def drawn(number: int):
        return options.fault_map(loaded, config, faults, site, polarity, bits, number, None)

    how = {"lanes": lanes, "threads": threads or options.cores()}
    with progress_bar("building the lanes", None) as update:
        how["progress"] = lambda what, done, total: update(done, what, total)
        found = {"images, one fault map": compare_images(config, loaded, codes, chosen.labels, drawn(seed), **how)}
        if maps:
            sampled = [drawn(seed + number) for number in range(maps)]
            found["fault maps, one image"] = compare_fault_maps(config, loaded, codes[:1], int(chosen.labels[0]), sampled, **how)
    table = new_table(
        f"{network}, all exits, {config.multiplier.key} {rows}x{cols} {level}, {faults:.0%} {site} faults, {how['threads']} cores",
        "runs", "of what", "logits", "different", "right %", "lanes s", "million MAC/s", "million cycles/s", "emulator s", left=2,
    )  # fmt: skip
    for what, compared in found.items():
        table.add_row(*_cells(what, compared, macs(loaded)))
    console().print(table)
    if json_file is not None:
        settings = {"network": network, "array": config.describe(), "faults": faults, "site": site, "threads": how["threads"]}
        write_json(json_file, {**settings, **{what: asdict(compared) for what, compared in found.items()}})
    if any(compared.different for compared in found.values()):
        raise typer.Exit(1)


def _cells(what: str, compared: Comparison, macs_per_image: int) -> tuple[str, ...]:
    return (
        f"{compared.runs:,}",
        what,
        f"{compared.logits:,}",
        f"{compared.different:,}",
        f"{100 * compared.right / compared.runs:.2f}",
        f"{compared.lanes_s:.1f}",
        f"{compared.runs * macs_per_image / compared.lanes_s / 1e6:,.0f}",
        f"{compared.cycles / compared.lanes_s / 1e6:,.2f}",
        f"{compared.emulator_s:.1f}",
    )
