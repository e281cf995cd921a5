"""Command `train`: make the networks of the project again, or others of its architectures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["train"]


def train(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="digits, mnist, or ARCHITECTURE[-wWIDTH]-DATASET: vgg16, wideresnet or mobilenet; the width multiplies all "
            "channels; mnist, cifar10, cifar100 or imagenet. For example vgg16-w0.5-cifar10.",
        ),
    ],
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
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Written after every epoch; a training that was killed goes on from it. [default: the output with .checkpoint]",
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE", help="A line per report, with the time. [default: the output with .log]"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides everything that is random.")] = 0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Cores; the result depends on how many.")] = 1,
    device: options.Device = "cpu",
    data: options.Data = None,
) -> None:
    """Train, quantise and fine-tune a network; on the CPU the same seed makes the same file."""
    from epsilon import models
    from epsilon import train as training
    from epsilon.cards import accuracy_rows, card
    from epsilon.cli.output import console, new_table, progress_bar
    from epsilon.files import write_atomically

    models.parse(name)
    output = Path(f"{name}.safetensors") if output is None else output
    checkpoint = output.with_suffix(".checkpoint") if checkpoint is None else checkpoint
    log = output.with_suffix(".log") if log is None else log
    for path, what in ((output, "network file"), (checkpoint, "checkpoint"), (log, "log")):
        if not path.parent.is_dir():
            raise ValueError(f"There is no folder {path.parent} for the {what}")
    with progress_bar("training", None) as update:
        network = training.train(
            name,
            data,
            epochs=epochs,
            tuning_epochs=tuning_epochs,
            tuned_for=tuned_for or None,
            checkpoint=checkpoint,
            seed=seed,
            threads=threads,
            device=device,
            out=output,
            progress=_logged(update, log),
        )
    write_atomically(output.with_suffix(".md"), card(network))
    table = new_table(f"{output}: fault-free, test images", "multiplier", "accuracy", "each exit", "gamma")
    for row in accuracy_rows(network):
        table.add_row(*row)
    console().print(table)


def _logged(update: Callable, log: Path) -> Callable[[str, int, int, str], None]:
    """Return a report of progress that also goes into a file."""

    def report(what: str, done: int, total: int, figures: str) -> None:
        update(done, what, total, figures)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what} {done}/{total} {figures}\n")

    return report
