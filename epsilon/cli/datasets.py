"""Commands `data check` and `data get`: the data sets, where they are and whether they are sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from epsilon.data.check import Finding

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The data sets: where they are, whether they are sound.")


@app.command()
def check(data: options.Data = None, json_file: options.Json = None) -> None:
    """Read every data set that is found and compare it with the published one; nothing is downloaded.

    Exit code 2 if something that was found is damaged.
    """
    from epsilon.cli.output import console, progress_bar, write_json
    from epsilon.data import names
    from epsilon.data.check import check as check_all

    findings = []
    with progress_bar("data sets", len(names())) as update:
        for finding in check_all(data):
            findings.append(finding)
            update(len(findings), note=finding.name)
    out = console()
    out.print(_table(findings))
    for finding in findings:
        if finding.missing:
            out.print(f"{finding.name}: {finding.missing}", markup=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, {"data_sets": [finding.describe() for finding in findings]})
    problems = [finding.problem for finding in findings if finding.problem]
    if problems:
        raise ValueError("; ".join(problems))


@app.command()
def get(name: Annotated[str, typer.Argument(metavar="mnist|cifar10|cifar100", help="Which data set.")]) -> None:
    """Download a data set, unless that was done before, and check it; it serves wherever no folder is given."""
    from epsilon.cli.output import console, progress_bar
    from epsilon.data.check import get as download

    with progress_bar(f"{name}: downloading what is not there yet", None):
        finding = download(name)
    console().print(_table([finding]))


def _table(findings: list[Finding]) -> Table:
    from epsilon.cli.output import new_table
    from epsilon.data import SPLITS

    table = new_table("Data sets", "name", "format", "where", " + ".join(SPLITS), "checksums", left=5)
    table.columns[2].overflow = "fold"
    for finding in findings:
        if finding.missing:
            table.add_row(finding.name, "not found", "", "", "")
            continue
        images = " + ".join(f"{finding.images[split]:,}" if split in finding.images else "-" for split in SPLITS)
        checksums = "DAMAGED" if finding.problem else f"right: {', '.join(finding.checksums)}"
        table.add_row(finding.name, finding.format, finding.place, images, checksums)
    return table
