"""Command `demo`: the whole of EPSILON in two minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    from epsilon.demo import DemoResult

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the pictures go.")] = Path("out/demo"),
    images: options.Images = 597,
    faults: options.Faults = 0.3,
    seed: options.Seed = 1,
    json_file: options.Json = None,
) -> None:
    """Handwritten digits on a faulty 8x8 Verilated array, EPSILON repairing; every integer compared with PyTorch."""
    from epsilon.cli.output import console, print_table, progress_bar, write_json

    start = time.perf_counter()
    with progress_bar("loading", None) as update:
        import torch

        from epsilon.demo import DemoSettings, run_demo

        torch.set_num_threads(1)  # layers this small only lose by sharing
        settings = DemoSettings(images=images, rate=faults, seed=seed)
        result = run_demo(settings, out, lambda text, done, total: update(done, text, total))
    printed = console()
    config = settings.config
    stuck = round(faults * config.pes)
    title = (
        f"{images} handwritten digits, int8 network with early exits, {config.rows}x{config.cols} array of "
        f"{config.multiplier.short_name} multipliers;\n"
        f"faulty: one bit stuck at 1 in the weight registers of {stuck} of the {config.pes} PEs"
    )
    print_table(_table(result, title), least=("at image", "weights\nrewritten", "repairs"))
    shown = ", ".join(f"{count:,} {quantity}" for quantity, count in result.compared.items())
    if result.equal:
        printed.print(f"RTL = PyTorch on {sum(result.compared.values()):,} integers\n({shown})", soft_wrap=True)
    flagged = ", ".join(result.pattern_flagged) or "no layer"
    found = f"Eq. 6, the sparsity pattern alone, would have flagged {flagged}"
    printed.print(f"A layer is faulty when any count of its scan changes; {found}.", soft_wrap=True)
    for picture in result.pictures:
        printed.print(f"picture: {picture}", soft_wrap=True)
    printed.print(f"{time.perf_counter() - start:.0f} s", soft_wrap=True)
    if json_file is not None:
        write_json(json_file, _describe(result))
    if not result.equal:
        printed.print(f"RTL and PyTorch DIFFER, first at {result.first}", soft_wrap=True, markup=False)
        raise typer.Exit(1)


def _table(result: DemoResult, title: str):
    from epsilon.cli.output import new_table

    columns = ("", "on", "accuracy [95 %]", "exits taken", "repairs", "at image", "weights\nrewritten", "cycles\nper image")
    table = new_table(title, *columns, left=2)
    for row in result.rows:
        for place, outcome in (("RTL", row.rtl), ("PyTorch", row.emulator)):
            table.add_row(
                row.label if place == "RTL" else "",
                place,
                str(outcome.accuracy),
                " ".join(f"{n:3d}" for n in outcome.exits_taken),
                str(len(outcome.stream.repairs)),
                ", ".join(str(check.image + 1) for check in outcome.stream.repairs[:2]) or "-",
                str(outcome.stream.rewritten),
                f"{outcome.cycles_per_image:,.1f}",
            )
    return table


def _describe(result: DemoResult) -> dict:
    rows = [{"label": row.label, "rtl": row.rtl.describe(), "emulator": row.emulator.describe()} for row in result.rows]
    return {"equal": result.equal, "best": result.best, "compared": result.compared, "rows": rows}
