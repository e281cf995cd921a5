"""The HTML page of a report, its figures as PNG and SVG, and its tables as CSV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path

from epsilon import __version__
from epsilon.campaign.export import is_parquet, read_files
from epsilon.campaign.store import metadata
from epsilon.energy import EnergyTable
from epsilon.files import write_atomically
from epsilon.report import figures
from epsilon.report.results import Results
from epsilon.report.sections import Section, sections
from epsilon.report.text import plural
from epsilon.resampling import Resampler

__all__ = ["Report", "write_report"]


@dataclass(frozen=True)
class Report:
    """What was written.

    Parameters
    ----------
    page : Path
    sections : tuple of str
        Titles.
    files : tuple of Path
        Figures and tables beside the page.
    """

    page: Path
    sections: tuple[str, ...]
    files: tuple[Path, ...]


def write_report(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    resampler: Resampler | None = None,
    energies: EnergyTable | None = None,
) -> Report:
    """Write the report of results files into a folder: ``index.html``, each figure as PNG and SVG, each table as CSV.

    Parameters
    ----------
    sources : path or sequence of paths
        Results of campaigns (SQLite, or Parquet as exported).
    out : path
        Folder; made when it is missing.
    resampler, energies
        See ``epsilon.report.Results``.

    Raises
    ------
    ValueError
        When a file holds no results, or all of them none yet.
    """
    paths = [Path(sources)] if isinstance(sources, str | os.PathLike) else [Path(source) for source in sources]
    results = Results(read_files(paths), resampler, energies=energies)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    found = list(sections(results))
    files, body = [], []
    for section in found:
        body.append(_section(section, folder, files))
    page = folder / "index.html"
    write_atomically(page, _page(paths, results, found, "\n".join(body)))
    return Report(page, tuple(section.title for section in found), tuple(files))


def _section(section: Section, folder: Path, files: list[Path]) -> str:
    head = [f"<h2>{escape(section.title)}</h2>", *(f"<p>{text}</p>" for text in section.sentences)]
    shown = []
    for name, figure in section.figures.items():
        drawn = figures.svg(figures.laid_out(figure), name)
        for path, content in ((folder / f"{name}.png", figures.png(figure)), (folder / f"{name}.svg", drawn)):
            write_atomically(path, content)
            files.append(path)
        links = f'<a href="{name}.png">PNG</a> <a href="{name}.svg">SVG</a>'
        inline = figures.inline_svg(drawn, name, escape(f"{section.title}: {name}", quote=True))
        width = figure.get_figwidth()
        shown.append(f'<figure style="max-width:{width:.1f}in">{inline}<figcaption>{links}</figcaption></figure>')
    # On paper the text stays with the first figure.
    parts = [f'<section id="{section.name}">', '<div class="together">', *head, *shown[:1], "</div>", *shown[1:]]
    parts += section.tables
    for name, table in section.data.items():
        path = folder / f"{name}.csv"
        write_atomically(path, table.to_csv(index=False, lineterminator="\n"))
        files.append(path)
        parts.append(f'<p class="files">Data: <a href="{name}.csv">{name}.csv</a></p>')
    return "\n".join([*parts, "</section>"])


def _page(sources: list[Path], results: Results, found: list[Section], body: str) -> str:
    frame = results.frame
    css = resources.files("epsilon").joinpath("data_files/report.css").read_text(encoding="utf-8")
    contents = "".join(f'<li><a href="#{section.name}">{escape(section.title)}</a></li>' for section in found)
    overview = (
        f"{plural(len(frame), 'run')} of {plural(frame.network_digest.nunique(), 'network')} under "
        f"{plural(frame.multiplier.nunique(), 'multiplier')} on {plural(frame.map_digest.nunique(), 'fault map')}; techniques: "
        f"{escape(', '.join(sorted(frame.technique.unique())))}."
    )
    percent = f"{100 * results.resampler.confidence:g} %"
    how = (
        f"Intervals are at {percent}. Over several fault maps: bootstrap of maps and images, crossed "
        f"({results.resampler.resamples:,} resamples, seed {results.resampler.seed}; of n maps n - 1 are drawn, so that few maps "
        "do not understate the variance); with few maps an interval still reaches no further than the maps that were drawn. Where "
        "there is one map the interval is over images alone (a single accuracy: Wilson) and says nothing about other maps. Counts "
        "of silent corruptions, and shares of exits, are known per run only: over maps alone. Where maps are counted in a table, "
        "those of one seed at one fault point count once: at a higher rate they hold the faults of the lower ones, and they are "
        "drawn together."
    )
    name = ", ".join(map(_campaign_name, sources))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)}: fault campaign</title>
<style>
{css}</style>
</head>
<body>
<header>
<h1>Fault campaign: {escape(name)}</h1>
<p>{overview}</p>
<p>{how}</p>
</header>
<nav><ul>{contents}</ul></nav>
<main>
{body}
</main>
<footer>
<p>[Khalil &amp; Hoque]: K. Khalil, K. A. Hoque, EPSILON: Adaptive Fault Mitigation in Approximate Deep Neural Network using
Statistical Signatures. Made by epsilon {__version__} from {escape(", ".join(source.name for source in sources))}.</p>
</footer>
</body>
</html>
"""


def _campaign_name(source: Path) -> str:
    """Return the name that a results file gives its campaign, where it does, else that of the file."""
    said = {} if is_parquet(source) else metadata(source)
    return said.get("campaign", {}).get("name") or source.stem
