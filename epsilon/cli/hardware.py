"""Commands about the hardware itself: the catalogue of multipliers, Verilog."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from epsilon.cli import options

__all__ = ["multipliers", "verilog"]

ERROR_COLUMNS = {"mae": "MAE", "wce": "WCE", "mean_error": "mean\nerror", "mse": "MSE", "error_probability": "wrong\n%"}
#: Names in CSV files, headings on the screen.
CATALOGUE_COLUMNS = {
    "multiplier": "multiplier",
    **ERROR_COLUMNS,
    "partial_products": "partial\nproducts",
    "exact_products": "exact\nproducts",
    "weight_bits": "weight\nbits used",
    "power_mw": "power\nmW",
    "area_um2": "area\num2",
    "delay_ns": "delay\nns",
}
FILE_COLUMNS = {
    "multiplier": "multiplier",
    **ERROR_COLUMNS,
    "exact_products": "exact\nproducts",
    "weight_bits": "weight\nbits used",
    "gates": "gates",
    # On the screen these are a sentence below the table.
    "operands": None,
    "function": None,
    "same_as": None,
}


def multipliers(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...", help="Multipliers of your own instead: Verilog (.v) or tables of products (.npy, .npz)."
        ),
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the table as CSV instead ('-': to standard output).")
    ] = None,
) -> None:
    """All multipliers: error against the exact product over all 65,536 pairs, published cost (45 nm); or what your own are.

    The function of your own is a mask of partial products (one byte per activation bit), a sum of few exact products, or a table.
    Operands are signed or unsigned as the name says (mul8s, mul8u), or as FILE:signed and FILE:unsigned do; an unsigned circuit
    is used by sign-magnitude.
    """
    from epsilon.multipliers import FILE, UnknownMultiplierError, catalogue, get

    for file in files or ():
        if FILE.fullmatch(file) is None:
            raise UnknownMultiplierError(f"{file!r} is no file of a multiplier: .v, .npy or .npz")
    columns = FILE_COLUMNS if files else CATALOGUE_COLUMNS
    rows = [_row(multiplier) for multiplier in (map(get, files) if files else catalogue().values())]
    if csv_file is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        if str(csv_file) == "-":
            typer.echo(text.getvalue(), nl=False)
            return
        from epsilon.files import write_atomically

        write_atomically(csv_file, text.getvalue())
        return
    from epsilon.cli.output import console, new_table

    headings = {name: heading for name, heading in columns.items() if heading is not None}
    table = new_table("8x8 signed multipliers (errors in units of the product's last place)", *headings.values())
    for row in rows:
        table.add_row(*(_shown(name, row[name]) for name in headings))
    out = console()
    out.print(table)
    for row in rows if files else ():
        same = f", the function of {row['same_as'].replace(' ', ' and ')}" if row["same_as"] else ""
        out.print(f"{row['multiplier']}: {row['operands']}; {row['function']}{same}", soft_wrap=True)


def _row(multiplier) -> dict:
    error, mask, terms = multiplier.error, multiplier.mask, multiplier.terms
    return {
        "multiplier": multiplier.key,
        "operands": "unsigned, by sign-magnitude" if multiplier.sign_magnitude else "signed",
        "function": f"mask {mask.hex()}" if mask is not None else "only a table" if terms is None else "a sum of exact products",
        "exact_products": None if terms is None else len(terms),
        "gates": None if multiplier.netlist is None else len(multiplier.netlist.gates),
        "mae": error.mae,
        "wce": error.wce,
        "mean_error": error.mean,
        "mse": error.mse,
        "error_probability": error.probability,
        "partial_products": multiplier.partial_products,
        "weight_bits": multiplier.used_weight_bits.bit_count(),
        "power_mw": multiplier.power_mw,
        "area_um2": multiplier.area_um2,
        "delay_ns": multiplier.delay_ns,
        "same_as": " ".join(twin.key for twin in multiplier.twins) or None,
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
