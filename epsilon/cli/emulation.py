"""Command `bench emulator`: the exact engine against torch's own float32 layers, in one table."""

from __future__ import annotations

from typing import Annotated

import typer

from epsilon.cli import options

__all__ = ["emulator"]


def emulator(
    device: Annotated[str, typer.Option("--device", help="cpu, or cuda for a GPU.")] = "cpu",
    threads: Annotated[
        list[int] | None, typer.Option("--threads", min=1, help="Threads; may be given more than once. [default: 1 and 2]")
    ] = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Repetitions; the fastest counts.")] = 20,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", metavar="NAME", help="first, conv64, conv256, depthwise, pointwise, linear; all when left out."),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="auto, torch, or the kernels avx512-vnni, avx512, avx2, sse2.")] = "auto",
    json_file: options.Json = None,
) -> None:
    """Speed of exact emulation as ratios to torch's float32 layers: multipliers of 1, 3 and 5 terms, and an arbitrary table.

    The engine's times include masking and requantisation. Sums and codes of a sample of every layer are compared with the table in
    the same run; exit code 1 if any differs.
    """
    from epsilon.cli.output import console, new_table, progress_bar, write_json
    from epsilon.engine import native
    from epsilon.engine.bench import ENTRANTS, SHAPES, bench
    from epsilon.engine.packing import require_engine

    require_engine(engine)
    names, counts = shape or list(SHAPES), threads or [1, 2]
    found = []
    with progress_bar("measuring", len(names) * len(counts)) as update:
        for measured in bench(names, threads=counts, repeat=repeat, device=device, engine=engine):
            found.append(measured)
            update(len(found), note=measured.shape)
    table = new_table(
        "Time over that of torch's float32 layer, the least of all repetitions", "layer", "", "threads", "native ms", *ENTRANTS,
        "gather", "exact", left=2,
    )  # fmt: skip
    for measured in found:
        case = SHAPES[measured.shape]
        ratios = [f"{measured.ratio(entrant):.2f}" for entrant in ENTRANTS]
        gather = f"{measured.gather_ms / measured.native_ms:,.0f}"
        cells = [measured.shape, _describe(case), str(measured.threads), f"{measured.native_ms:.2f}"]
        table.add_row(*cells, *ratios, gather, "yes" if measured.exact else "NO")
    out = console()
    out.print(table)
    used = engine if engine != "auto" else _chosen(native, device)
    out.print(f"{used}; gather: every product taken from the table, as other emulators do", soft_wrap=True, markup=False)
    if json_file is not None:
        write_json(json_file, {"engine": used, "device": device, "rows": [measured.describe() for measured in found]})
    if not all(measured.exact for measured in found):
        raise typer.Exit(1)


def _describe(case) -> str:
    shape = case.shape
    if shape.linear:
        return f"{shape.channels} to {shape.outputs}, batch {case.batch}"
    size = f"{shape.kernel[0]}x{shape.kernel[1]}, {case.side}x{case.side}, batch {case.batch}"
    return f"{shape.groups * shape.channels} to {shape.groups * shape.outputs}, {size}"


def _chosen(native, device: str) -> str:
    """Return what `auto` stands for here, and why where it is not the kernels."""
    if not device.startswith("cpu"):
        return f"torch on {device}"
    library = native.best()
    return f"torch ({native.reason()})" if library is None else f"kernels for {library.level.name}"
