"""Commands about the hardware itself: the catalogue of multipliers, Verilog."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from epsilon.cli import options

__all__ = ["multipliers", "verilog"]

COLUMNS = (
    "multiplier",
    "mae",
    "wce",
    "mean_error",
    "mse",
    "error_probability",
    "partial_products",
    "exact_products",
    "weight_bits",
    "power_mw",
    "area_um2",
    "delay_ns",
)
HEADINGS = (
    "multiplier",
    "MAE",
    "WCE",
    "mean\nerror",
    "MSE",
    "wrong\n%",
    "partial\nproducts",
    "exact\nproducts",
    "weight\nbits used",
    "power\nmW",
    "area\num2",
    "delay\nns",
)


def multipliers(
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the table as CSV instead ('-': to standard output).")
    ] = None,
) -> None:
    """All multipliers: error against the exact product over all 65,536 pairs, published cost (45 nm)."""
    from epsilon.multipliers import catalogue

    rows = [_row(multiplier) for multiplier in catalogue().values()]
    if csv_file is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        if str(csv_file) == "-":
            typer.echo(text.getvalue(), nl=False)
            return
        from epsilon.files import write_atomically

        write_atomically(csv_file, text.getvalue())
        return
    from epsilon.cli.output import console, new_table

    table = new_table("8x8 signed multipliers (errors in units of the product's last place)", *HEADINGS)
    for row in rows:
        table.add_row(*(_shown(name, row[name]) for name in COLUMNS))
    console().print(table)


def _row(multiplier) -> dict:
    error = multiplier.error
    return {
        "multiplier": multiplier.key,
        "mae": error.mae,
        "wce": error.wce,
        "mean_error": error.mean,
        "mse": error.mse,
        "error_probability": error.probability,
        "partial_products": multiplier.partial_products,
        "exact_products": len(multiplier.terms),
        "weight_bits": multiplier.used_weight_bits.bit_count(),
        "power_mw": multiplier.power_mw,
        "area_um2": multiplier.area_um2,
        "delay_ns": multiplier.delay_ns,
    }


def _shown(name: str, value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, (str, int)):
        return str(value)
    if name == "error_probability":
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if name == "power_mw" else f"{value:.1f}" if name == "area_um2" else f"{value:.2f}"


def verilog(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The Verilog file to write.")],
    rows: options.Rows = 8,
    cols: options.Cols = 8,
    multiplier: options.MultiplierName = "KVP",
    level: options.Level = "gates",
    fault_injection: Annotated[
        bool, typer.Option("--fault-injection/--no-fault-injection", help="With stuck-at masks in every PE, or without.")
    ] = True,
    repair: Annotated[bool, typer.Option("--repair/--no-repair", help="With the invert and bypass flags, or without.")] = True,
) -> None:
    """Plain Verilog-2001 of an accelerator."""
    from epsilon.config import ArrayConfig

    config = ArrayConfig(rows=rows, cols=cols, multiplier=multiplier, level=level, fault_injection=fault_injection, repair=repair)
    from hdl.verilog import export

    export(config, output)
    typer.echo(f"{output}: {rows}x{cols} PEs, {config.multiplier.key}, {level}, {output.stat().st_size} bytes")
