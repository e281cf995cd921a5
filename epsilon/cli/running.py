"""Command `run`: one network, one fault map, one technique, on the emulator or on the simulated hardware."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    from epsilon.techniques import Outcome

__all__ = ["run"]

TECHNIQUE = "Technique"


def run(
    network: options.Network = "digits",
    images: options.Images = 200,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="FILE", help="Your own image (PNG or NPY, 8 bit) instead; may be given more than once."),
    ] = None,
    on: Annotated[
        str, typer.Option("--on", help="emulator (PyTorch), rtl (the Verilated array) or lanes (the array in bit lanes).")
    ] = "emulator",
    repair: Annotated[
        str,
        typer.Option(
            "--repair",
            help="EPSILON with this repair: quartile (the paper's), zero, nearest, clip, invert; none: exits without detection; "
            "mendnet: the same by confidence and energy; secded: weight registers under a code that corrects one bit; "
            "last-exit: no early exit.",
            rich_help_panel=TECHNIQUE,
        ),
    ] = "quartile",
    target: Annotated[
        str | None,
        typer.Option("--target", help="What nearest and invert aim at: auto, golden, expected or map.", rich_help_panel=TECHNIQUE),
    ] = None,
    detector: Annotated[
        str,
        typer.Option("--detector", help="exact (any count of the records) or pattern (Eq. 6).", rich_help_panel=TECHNIQUE),
    ] = "exact",
    patrol: Annotated[
        int | None,
        typer.Option("--patrol", metavar="N", help="Check every N images, too, however sure the exits.", rich_help_panel=TECHNIQUE),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option("--gamma", help="Confidence of an exit, 0..1; else the network's own.", rich_help_panel=TECHNIQUE),
    ] = None,
    faults: options.Faults = 0.0,
    site: options.Site = "storage",
    polarity: options.Polarity = "1",
    bits: options.Bits = "uniform",
    seed: options.Seed = 0,
    layers: options.Layers = None,
    fault_map_file: Annotated[
        Path | None,
        typer.Option("--fault-map", metavar="FILE", help="A saved map instead of a random one.", rich_help_panel=options.FAULTS),
    ] = None,
    save_fault_map: Annotated[
        Path | None,
        typer.Option("--save-fault-map", metavar="FILE", help="Save the map that was used.", rich_help_panel=options.FAULTS),
    ] = None,
    rows: options.Rows = 8,
    cols: options.Cols = 8,
    multiplier: options.MultiplierName = "KVP",
    level: options.Level = "words",
    table_file: options.EnergyTableFile = None,
    lanes: options.Lanes = None,
    threads: options.Threads = None,
    waves: Annotated[Path | None, typer.Option("--waves", metavar="FILE", help="Write the waveform (VCD); with --on rtl.")] = None,
    device: options.Device = "cpu",
    dataset: options.DatasetName = None,
    data: options.Data = None,
    json_file: options.Json = None,
) -> None:
    """Run images through a network with stuck-at faults and one technique against them."""
    from epsilon.cli.output import console, print_table, progress_bar, write_json
    from epsilon.energy import energy, missing_energy
    from epsilon.executor import encode
    from epsilon.faults import FaultMap
    from epsilon.network_io import load
    from epsilon.techniques import gamma_of, opened, run_technique

    config = options.array_config(rows, cols, multiplier, level)
    energies = options.energy_table(table_file)
    loaded = load(network)
    if fault_map_file is not None:
        drawn = FaultMap.load(fault_map_file)
        drawn.require_fit(loaded, config)
    else:
        drawn = options.fault_map(loaded, config, faults, site, polarity, bits, seed, layers)
    gamma = gamma_of(loaded, config) if gamma is None else gamma
    codes, labels = _images(loaded, image, images, data, dataset)
    place = opened(on, config, device=device, waves=waves, lanes=lanes, threads=threads or options.cores())
    with progress_bar(f"preparing the {on}", None) as update, place as accelerator:
        start = time.perf_counter()
        outcome = run_technique(
            repair,
            accelerator,
            loaded,
            encode(loaded, codes),
            labels,
            faults=drawn,
            gamma=gamma,
            target=target,
            detector=detector,
            patrol=patrol,
            progress=lambda done, total: update(done, f"images on the {on}", total),
        )
        seconds = time.perf_counter() - start
    if save_fault_map is not None:
        drawn.save(save_fault_map)
    parts_pj = energy(outcome.stream.events, energies, config.multiplier, secded=repair == "secded")
    total_pj = None if parts_pj is None else sum(parts_pj.values())
    if json_file is not None:
        settings = {"network": network, "on": on, "gamma": gamma, "array": config.describe()}
        spent = {"energy_pj": total_pj, "energy_parts_pj": parts_pj}
        write_json(json_file, {**settings, "faults": {"count": len(drawn), "digest": drawn.digest}, **outcome.describe(), **spent})
    out = console()
    title = f"{network} on the {on}, {rows}x{cols} {config.multiplier.key}, {len(drawn)} stuck bits"
    print_table(_summary(outcome, seconds, total_pj, title))
    if total_pj is None:
        out.print(f"{missing_energy(config.multiplier)}.", soft_wrap=True, markup=False)
    if image:
        print_table(_predictions(outcome, image))


def _images(network, files: list[Path] | None, count: int, data: Path | None, dataset: str | None):
    """Return uint8 images and their labels (None for the user's own)."""
    if not files:
        found = options.labelled_images(network, count, data, dataset)
        return found.images, found.labels
    import numpy as np

    pictures = [options.read_image(path) for path in files]
    for path, picture in zip(files, pictures, strict=True):
        if picture.shape[1:] != tuple(network.input_shape):
            wanted, given = ("x".join(map(str, shape)) for shape in (network.input_shape, picture.shape[1:]))
            raise ValueError(f"{path} is an image of {given}, and network {network.name!r} takes {wanted}")
    return np.concatenate(pictures), None


def _summary(outcome: Outcome, seconds: float, energy_pj: float | None, title: str):
    from epsilon.cli.output import new_table

    stream = outcome.stream
    table = new_table(
        title,
        "technique",
        "images",
        "accuracy [95 %]",
        "exits taken",
        "checks",
        "repairs",
        "weights\nrewritten",
        "cycles\nper image",
        "energy, nJ\nper image",
        "images/s\nof wall clock",
    )
    table.add_row(
        outcome.technique,
        str(len(stream.predictions)),
        "-" if outcome.accuracy is None else str(outcome.accuracy),
        " ".join(map(str, outcome.exits_taken)),
        str(len(stream.checks)),
        str(len(stream.repairs)),
        str(stream.rewritten),
        f"{outcome.cycles_per_image:,.1f}",
        "-" if energy_pj is None else f"{energy_pj / 1000 / len(stream.predictions):,.1f}",
        f"{len(stream.predictions) / seconds:,.0f}",
    )
    return table


def _predictions(outcome: Outcome, files: list[Path]):
    from epsilon.cli.output import new_table

    stream = outcome.stream
    table = new_table("Predictions", "image", "class", "confidence", "exit", "cycles")
    for index, path in enumerate(files):
        exit_taken = str(stream.exits[index] + 1)
        confidence = f"{100 * stream.confidences[index]:.1f} %"
        table.add_row(str(path), str(stream.predictions[index]), confidence, exit_taken, str(stream.cycles[index]))
    return table
