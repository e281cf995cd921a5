"""Command `train`: make the networks of the project again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epsilon.cli import options

__all__ = ["train"]


def train(
    name: Annotated[str, typer.Argument(metavar="digits|mnist", help="Which network.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The network file. [default: NAME.safetensors]")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes in floating point; else the recipe's.")] = None,
    tuning_epochs: Annotated[int | None, typer.Option("--tuning-epochs", help="Passes as integers; else the recipe's.")] = None,
    tuned_for: Annotated[
        list[str] | None,
        typer.Option("--for", "-m", metavar="MULTIPLIER", help="Fine-tune for this one; may be repeated. [default: all but L12]"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="Written after every epoch; a training that was killed goes on from it."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides everything that is random.")] = 0,
    data: options.Data = None,
) -> None:
    """Train, quantise and fine-tune a network; the same seed makes the same file."""
    from epsilon import train as training
    from epsilon.cli.output import accuracy_table, console, progress_bar

    output = Path(f"{name}.safetensors") if output is None else output
    if name in training.names() and not output.parent.is_dir():
        raise ValueError(f"There is no folder {output.parent} for the network file")
    if checkpoint is not None and not checkpoint.parent.is_dir():
        raise ValueError(f"There is no folder {checkpoint.parent} for the checkpoint")
    with progress_bar("training", None) as update:
        network = training.train(
            name,
            data,
            epochs=epochs,
            tuning_epochs=tuning_epochs,
            tuned_for=tuned_for or None,
            checkpoint=checkpoint,
            seed=seed,
            out=output,
            progress=lambda what, done, total, figures: update(done, what, total, figures),
        )
    tested = network.metadata["accuracy"]["test"]
    title = f"{output}: fault-free, {tested['images']} test images"
    console().print(accuracy_table(title, tested["by_multiplier"], network.metadata["gamma"]))
