"""The page: whole, self-contained, the same for the same rows, and never an accuracy without its interval."""

from __future__ import annotations

import json
import re
from html import escape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from command_line import epsilon, refused
from PIL import Image

from epsilon.energy import EnergyTable, Events, energy
from epsilon.multipliers import get
from epsilon.report import Results, reproduction, write_report
from epsilon.report.sections import sections
from epsilon.resampling import Resampler

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that every element is closed in order; keeps ids, references and the text of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.references, self.accuracies, self.svg = [], [], [], [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append((tag, attrs.get("class")))
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.references += [(tag, name, attrs[name]) for name in ("href", "src", "xlink:href", "srcset") if name in attrs]
        self.svg += tag == "svg"
        if (tag, attrs.get("class")) == ("td", "accuracy"):
            self.accuracies.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if ("td", "accuracy") in self.open and ("span", "paper") not in self.open:
            self.accuracies[-1] += data


@pytest.fixture(scope="module")
def report(results_file, tmp_path_factory):
    return write_report(results_file, tmp_path_factory.mktemp("report"), resampler=Resampler(resamples=500))


@pytest.fixture(scope="module")
def text(report) -> str:
    return report.page.read_text(encoding="utf-8")


def test_page_is_sound_and_self_contained(report, text):
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.svg == sum(path.suffix == ".svg" for path in report.files) > 5
    files = {path.name for path in report.files}
    for tag, _, target in page.references:
        inside = target.startswith("#") and target[1:] in page.ids
        assert inside or (tag == "a" and target in files), target
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_no_accuracy_without_its_interval(text):
    page = Page(text)
    assert len(page.accuracies) > 20
    for cell in page.accuracies:
        value, low, high = map(float, re.fullmatch(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", cell.strip()).groups())
        assert low <= value <= high
    # In sentences and headings too: what is said to be fault-free is followed by its interval.
    assert re.findall(r"fault-free ([\d.]+ )(?!<small>\[)", text) == []


def test_sections_are_those_that_the_rows_support(report, frame):
    assert report.sections[0] == "League of techniques"
    assert {"Accuracy by gamma (Fig. 1)", "Latency (Fig. 3)", "Pattern detector: ROC", "Bounds of Eq. 8 and 9"} <= set(
        report.sections
    )
    assert not any("alpha" in title or "Table I" in title for title in report.sections)
    vanilla = Results(frame[(frame.technique == "vanilla") & frame.bit.isna()])
    assert not {"detector", "bounds", "vulnerability", "by_gamma"} & {section.name for section in sections(vanilla)}
    sweep = Results(frame[frame.gamma_fitted == 0])
    assert [section.name for section in sections(sweep)] == ["by_gamma", "detector"]


def test_missing_energy_is_said_and_present_energy_is_drawn(text, frame):
    assert "no energy can be given" not in text
    some, resampler = frame[frame.site == "array"], Resampler(resamples=100)
    known = {section.name: section for section in sections(Results(some, resampler))}
    assert known["energy"].figures
    assert known["pareto"].title == "Accuracy and energy"
    missing = {section.name: section for section in sections(Results(some.assign(energy_pj=np.nan), resampler))}
    assert "no energy can be given" in str(missing)


MINE = """\
multiplication: {pj: 2, technology: 7 nm, source: my own <synthesis>}
addition: {pj: 3, technology: 7 nm, source: my own <synthesis>}
gate: {pj: 0.5, technology: 28 nm, source: a data sheet}
"""
SOURCES = (
    "Energies are computed from the counted events of the rows with a table of one's own: "
    "addition 3 pJ, multiplication 2 pJ from my own <synthesis> (7 nm); gate 0.5 pJ from a data sheet (28 nm); "
    "the others are those that the project ships."
)


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return path


def test_energies_of_another_table_come_from_the_stored_events(frame, mine):
    some, resampler = frame[frame.site == "array"], Resampler(resamples=100)
    same = Results(some, resampler, energies=EnergyTable.default())
    assert same.frame.equals(Results(some, resampler).frame)
    # Nobody publishes what a product of a circuit of one's own costs; the table may know.
    own = some.assign(multiplier=["file/own", *some.multiplier[1:]])
    assert Results(own, resampler, energies=EnergyTable.default()).frame.energy_pj.isna().sum() == 1
    table = EnergyTable.load(mine)
    results = Results(own, resampler, energies=table)
    for row in results.frame.itertuples():
        parts = energy(Events(**json.loads(row.events)), table, get("KVP"))
        assert row.energy_pj == sum(parts.values()) > 0
        assert json.loads(row.energy_parts) == parts
    (told,) = [section.sentences for section in sections(results) if section.name == "energy"]
    assert told[-1] == escape(SOURCES)
    # The code's check bits and decoders are counted with it.
    events = some.events.iloc[0]
    (coded,) = Results(some[:1].assign(kind="secded"), resampler, energies=table).frame.energy_pj
    assert coded == sum(energy(Events(**json.loads(events)), table, get("KVP"), secded=True).values())
    assert Results(some.assign(events=None), resampler, energies=table).frame.energy_pj.isna().all()


def test_the_page_says_whose_energies_it_shows(rows, write_results, tmp_path, mine):
    write_results(tmp_path / "few.sqlite", [row for row in rows if row["site"] == "array" and row["technique"] == "vanilla"])
    assert epsilon("report", tmp_path / "few.sqlite", "--energy", mine, "-o", tmp_path / "page").exit_code == 0
    assert escape(SOURCES) in (tmp_path / "page" / "index.html").read_text()


def test_what_secded_cannot_correct_is_told(text, frame):
    assert "secded" not in text
    some, resampler = frame[frame.technique == "exits"].copy(), Resampler(resamples=100)
    some["kind"] = some["technique"] = "secded"
    runs = len(some) - 1  # one is without faults
    for counted, told in (
        ([np.nan] * len(some), "were made before the words that its code cannot correct were counted."),
        ([2] * len(some), f"in {runs} runs it met {2 * runs} words with more, counted once per run, which it detects and which"),
        ([0, 0, *[np.nan] * (runs - 1)], f"are used as they are. {runs - 1} older runs did not count them."),
    ):
        (league, *_) = sections(Results(some.assign(words_uncorrectable=counted), resampler))
        assert told in league.sentences[-1]


def test_figures_and_tables_are_beside_the_page(report):
    for path in report.files:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert min(image.size) > 200
        elif path.suffix == ".csv":
            assert len(pd.read_csv(path))
    assert {path.with_suffix(".svg") for path in report.files if path.suffix == ".png"} <= set(report.files)


def test_same_rows_same_page(rows, write_results, tmp_path):
    write_results(tmp_path / "few.sqlite", [row for row in rows if row["gamma_fitted"] == 0])
    one, two = (write_report(tmp_path / "few.sqlite", tmp_path / folder) for folder in ("one", "two"))
    assert one.page.read_bytes() == two.page.read_bytes()
    assert [path.read_bytes() for path in one.files] == [path.read_bytes() for path in two.files]


def test_markdown_beside_the_paper(cifar_rows):
    document = reproduction(Results(pd.DataFrame.from_records(cifar_rows)), "cifar.sqlite")
    cells = [line for line in document.splitlines() if line.startswith("| FP")]
    assert len(cells) == 2
    for line in cells:
        shown = line.strip("| ").split(" | ")[1:]
        assert len(shown) >= 2
        assert all(re.match(r"[\d.]+ \[[\d.]+, [\d.]+\]", cell) for cell in shown)
    assert "paper 23.32" in document
    assert "printed as 73.36" in document
    assert re.search(r"\| `vanilla` \| AxVanDNN \| \d of 2 \|", document)
    assert "it prints 76.19, its cells average 72.85" in document
    assert "is 0.613" in document
    assert re.search(r"KVP: [\d.]+ % and [\d.]+ %, so [\d.]+ % change a weight", document)
    number = r"[+-]?[\d.]+ \[[+-]?[\d.]+, [+-]?[\d.]+\]"
    assert re.search(rf"\| KVP \| 1 \| `epsilon/nearest` \| yes \| {number} \| {number} \| {number} \|", document)


def test_markdown_without_the_papers_campaign_says_so(results):
    document = reproduction(results, "digits.sqlite")
    assert "no CIFAR-10 campaign" in document
    assert re.search(r"Of \d+ healthy layers at a first check 0 had a pattern score above 0", document)


def test_commands(results_file, tmp_path, mine):
    document = tmp_path / "reproduction.md"
    found = epsilon("report", results_file, "--markdown", document, "--resamples", "100")
    assert found.exit_code == 0, found.output
    plain = document.read_text()
    assert plain.startswith("# The paper's evaluation, repeated")
    options = ["--markdown", document, "--resamples", "100", "--energy"]
    assert epsilon("report", results_file, *options, mine).exit_code == 0
    assert document.read_text() == plain.replace("reported apart.", f"reported apart. {SOURCES}")
    mine.write_text(MINE.replace("gate", "gait"))
    assert refused("report", results_file, *options, mine).startswith(f"{mine}, line 3: An energy table has no key 'gait'")
    assert "No such file" in refused("report", results_file, *options, tmp_path / "missing.yaml")
    assert document.read_text() == plain.replace("reported apart.", f"reported apart. {SOURCES}")
    plan = epsilon("plan", "--network", "digits")
    assert re.search(r"conv1\s+144\s+1,152\s+1,029", plan.output)
    assert re.search(r"unlimited\s+-\s+-\s+9,604", plan.output)


def test_of_a_small_and_a_large_campaign_the_large_one_counts(frame):
    small = frame[(frame.site == "storage") & frame.bit.isna()].copy()
    small["images"] -= 8
    small["key"] = "small " + small.key
    small["correct_bits"] = None
    resampler = Resampler(resamples=100)
    alone, both = (Results(rows, resampler) for rows in (frame, pd.concat([frame, small])))
    assert set(both.base.key) == set(alone.base.key)
    assert set(both.frame.images) == {*alone.frame.images, *small.images}
