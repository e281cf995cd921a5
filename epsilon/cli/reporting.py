"""Commands `report` and `plan`: what a campaign found, and how large it has to be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from epsilon.cli import options

__all__ = ["plan", "report"]


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS", help="Results of one or more campaigns: SQLite, or Parquet from `export`.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where the page goes; else beside the first file.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Write the comparison with the paper as Markdown instead of the page."),
    ] = None,
    energy_file: Annotated[
        Path | None,
        typer.Option(
            "--energy", metavar="FILE", help="Your own energies of events (YAML, see `energy table`), applied to the stored events."
        ),
    ] = None,
    confidence: Annotated[float, typer.Option("--confidence", help="Of the intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option("--resamples", help="Of the bootstrap, at least 100.")] = 2000,
) -> None:
    """Write what a campaign found: one HTML page, its figures as PNG and SVG, its tables as CSV."""
    from epsilon.cli.output import console
    from epsilon.resampling import Resampler

    resampler = Resampler(confidence=confidence, resamples=resamples)
    energies = None if energy_file is None else options.energy_table(energy_file)
    if markdown is not None:
        from epsilon.files import write_atomically
        from epsilon.report import Results, read_files, reproduction

        if out is not None:
            raise ValueError("--markdown writes one file, so it takes no --out")
        found = Results(read_files(results), resampler, energies=energies)
        write_atomically(markdown, reproduction(found, " ".join(path.name for path in results)))
        console().print(f"{markdown}: the paper's evaluation beside these results", soft_wrap=True, markup=False)
        return
    from epsilon.report import write_report

    folder = out or results[0].with_name(f"{results[0].stem}-report")
    written = write_report(results, folder, resampler=resampler, energies=energies)
    console().print(f"{written.page}: {', '.join(written.sections)}", soft_wrap=True, markup=False)
    console().print(f"{len(written.files)} files of figures (PNG, SVG) and tables (CSV) beside it", soft_wrap=True, markup=False)


def plan(
    margin: Annotated[float, typer.Option("--margin", help="Margin of error of the proportion, 0..1.")] = 0.01,
    confidence: Annotated[float, typer.Option("--confidence", help="With which the margin holds.")] = 0.95,
    proportion: Annotated[float, typer.Option("--proportion", help="Proportion expected; 0.5 needs the most.")] = 0.5,
    population: Annotated[
        int | None, typer.Option("--population", metavar="N", help="Faults, or fault maps, there are; instead of a network.")
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="NAME|FILE", help="Count the single stuck bits of this network.")
    ] = None,
    site: options.Site = "storage",
    polarity: options.Polarity = "1",
    rows: options.Rows = 16,
    cols: options.Cols = 16,
    json_file: options.Json = None,
) -> None:
    """Say how many single stuck-at faults, or fault maps, to sample for a margin of error (Leveugle et al. 2009)."""
    from epsilon.cli.output import console, new_table, write_json
    from epsilon.sampling_plan import Population, sample_size

    if polarity not in ("0", "1", "both"):
        raise ValueError(f"The polarity must be one of 0, 1, both, not {polarity!r}")
    if population is not None and network is not None:
        raise ValueError("Give --population or --network, not both")
    common = {"margin": margin, "confidence": confidence, "proportion": proportion}
    if population is not None:
        found = (Population("given", None, population),)
    elif network is not None or site == "array":
        found = _populations(network, site, 2 if polarity == "both" else 1, rows, cols)
    else:
        found = ()
    title = f"Samples for a margin of error of {100 * margin:g} % at {100 * confidence:g} % confidence"
    table = new_table(title, "population", "registers", "faults", "sample", "of them %")
    lines = []
    for each in found:
        size = sample_size(**common, population=each.faults)
        share = f"{100 * size / each.faults:.2f}"
        table.add_row(each.name, "-" if each.registers is None else f"{each.registers:,}", f"{each.faults:,}", f"{size:,}", share)
        lines.append({"population": each.name, "faults": each.faults, "sample": size})
    unlimited = sample_size(**common)
    table.add_row("unlimited", "-", "-", f"{unlimited:,}", "-")
    lines.append({"population": "unlimited", "faults": None, "sample": unlimited})
    console().print(table)
    console().print(
        f"A proportion measured on that many faults drawn at random is within {100 * margin:g} % of the whole population's with "
        f"{100 * confidence:g} % confidence. A row's sample answers for its row alone: the sum over layers serves each layer, the "
        "row of all of them the network. Fault maps of many stuck bits are an unlimited population of their own: then it is the "
        "number of maps.",
        soft_wrap=True,
        markup=False,
    )
    if json_file is not None:
        write_json(json_file, {**common, "samples": lines})


def _populations(network: str | None, site: str, polarities: int, rows: int, cols: int):
    from epsilon.network_io import load
    from epsilon.sampling_plan import fault_populations

    config = options.array_config(rows, cols, "KVP", "words")
    return fault_populations(load(network or "digits"), config, site=site, polarities=polarities)
