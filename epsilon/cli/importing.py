"""Command `import`: a quantised ONNX model becomes a network file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    from epsilon.network import QuantizedNetwork

__all__ = ["import_network"]


def import_network(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Quantised to 8 bits in QDQ form; every output is an exit.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The network file. [default: MODEL.safetensors]")
    ] = None,
    mean: Annotated[
        str, typer.Option("--mean", metavar="A,B,C", help="Subtracted from pixel / 255; for all channels or each.")
    ] = "0",
    std: Annotated[str, typer.Option("--std", metavar="A,B,C", help="What the difference is divided by.")] = "1",
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="What it was trained for; thresholds are fitted on its validation split."),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="How many images thresholds are fitted on at most.")] = 1000,
    fitted: Annotated[
        list[str] | None,
        typer.Option(
            "--for", "-m", metavar="MULTIPLIER", help="Fit for this one; may be repeated. [default: as the built-in networks]"
        ),
    ] = None,
    data: options.Data = None,
) -> None:
    """Import a quantised ONNX model (onnxruntime's QDQ form) as an integer network."""
    from epsilon.cards import accuracy_rows
    from epsilon.cli.output import console, new_table
    from epsilon.network_io import save
    from epsilon.onnx_import import import_onnx

    output = Path(f"{model.stem}.safetensors") if output is None else output
    if not output.parent.is_dir():
        raise ValueError(f"There is no folder {output.parent} for the network file")
    if fitted and dataset is None:
        raise ValueError("--for needs --dataset, whose validation split thresholds are fitted on")
    network = import_onnx(model, mean=_numbers("--mean", mean), std=_numbers("--std", std))
    out = console()
    note = "No thresholds yet: name the data by --dataset to fit them, or give --gamma to `epsilon run`."
    if dataset is not None:
        network, note = _fitted(network, dataset, data, images, fitted)
    save(network, output)
    figures = f"{network.metadata['weights']:,} weights, {network.metadata['macs_per_image']:,} MACs per image"
    out.print(
        f"{output}: {len(network.weighted)} layers on the array, {len(network.exits)} exits, {figures}",
        soft_wrap=True,
        markup=False,
    )
    out.print(_layers(network))
    if note:
        out.print(note, markup=False)
        return
    validated = network.metadata["accuracy"]["validation"]
    title = f"Fault-free, {validated['images']} validation images"
    table = new_table(title, "multiplier", "accuracy", "each exit", "gamma")
    for row in accuracy_rows(network, "validation"):
        table.add_row(*row)
    out.print(table)


def _numbers(option: str, written: str) -> list[float]:
    try:
        return [float(part) for part in written.split(",")]
    except ValueError:
        raise ValueError(f"{option} must be numbers separated by commas, not {written!r}") from None


def _fitted(
    network: QuantizedNetwork, dataset: str, data: Path | None, images: int, named: list[str] | None
) -> tuple[QuantizedNetwork, str]:
    """Return the network with thresholds in its metadata, or as it is with a sentence that says why not."""
    from epsilon import data as datasets
    from epsilon import multipliers
    from epsilon.cli.output import progress_bar
    from epsilon.measurement import measure, measured_multipliers

    if dataset not in datasets.names():
        raise ValueError(f"The data set must be one of {', '.join(datasets.names())}, not {dataset!r}")
    chosen = [multipliers.get(name) for name in named] if named else measured_multipliers()
    network = replace(network, metadata={**network.metadata, "dataset": dataset})
    try:
        validation = datasets.load(dataset, "validation", data)
    except datasets.DataError as error:
        return network, f"No thresholds yet ({error}); give --gamma to `epsilon run`."
    validation = validation.first(min(images, len(validation)))
    with progress_bar("fitting thresholds", len(chosen)) as update:
        found = measure(
            network, {"validation": validation}, chosen, progress=lambda what, done, total, note: update(done, what, total, note)
        )
    return replace(network, metadata={**network.metadata, **found}), ""


def _layers(network: QuantizedNetwork):
    from epsilon.cli.output import new_table
    from epsilon.validation import macs, output_shapes

    shapes = output_shapes(network)
    table = new_table("Layers", "layer", "kind", "reads", "output", "weights", "MACs", left=3)
    for layer in network:
        weight = getattr(layer, "weight", None)
        figures = ("", "") if weight is None else (f"{weight.size:,}", f"{macs(network, layer.name):,}")
        table.add_row(layer.name, type(layer).__name__, ", ".join(layer.inputs), "x".join(map(str, shapes[layer.name])), *figures)
    return table
