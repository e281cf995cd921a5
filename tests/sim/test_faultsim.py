"""The fault simulation equals one emulator run per fault and image, whether or not it was killed on the way."""

from __future__ import annotations

import csv
from dataclasses import fields
from itertools import product

import numpy as np
import pytest
import torch

from epsilon.accelerator import ScanRecords
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.executor import Execution
from epsilon.faults import FaultMap, Registers
from epsilon.network import Convolution, Exit, Flatten, Linear, QuantizedNetwork, Requantization
from sim.fault_dictionary import CSV_COLUMNS, FaultDictionary, FaultDictionaryError, FaultSpace
from sim.faultsim import configuration, simulate

CONFIG = ArrayConfig(rows=4, cols=3, multiplier="KVP", level="gates", accumulator_depth=6)
LANES = 64
IMAGES = 3


@pytest.fixture(scope="module")
def network() -> QuantizedNetwork:
    rng = np.random.default_rng(8)
    scaled = Requantization(np.array([1], np.int32), np.array([10], np.int8), low=0)
    layers = (
        Convolution(
            name="c1",
            inputs=("input",),
            weight=rng.integers(-128, 128, (2, 1, 2, 2)).astype(np.int8),
            bias=np.zeros(2, np.int32),
            requantization=scaled,
        ),
        Flatten(name="f", inputs=("c1",)),
        Linear(name="l1", inputs=("f",), weight=rng.integers(-128, 128, (2, 8)).astype(np.int8), bias=np.zeros(2, np.int32)),
        Exit(name="e1", inputs=("l1",), scale=np.array([1.0, 1.0])),
    )
    table = np.arange(-128, 128).astype(np.int8)[None]
    return QuantizedNetwork(name="tiny", input_shape=(1, 3, 3), input_table=table, layers=layers, classes=2)


@pytest.fixture(scope="module")
def codes() -> torch.Tensor:
    return torch.randint(-128, 128, (IMAGES, 1, 3, 3), dtype=torch.int8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def complete(network, codes, tmp_path_factory):
    """The whole dictionary, made in one go."""
    with simulate(CONFIG, network, codes, tmp_path_factory.mktemp("faults") / "all.sqlite", lanes=LANES) as dictionary:
        yield list(dictionary.rows())


def run_emulator(network, codes, faults):
    """Return every layer's sums, the logits, and the records."""
    emulator = Emulator(CONFIG)
    emulator.load(network)
    emulator.set_faults(faults)
    sums = {}
    execution = Execution(emulator, codes, lambda name, _, found: sums.update({name: found}))
    return sums, execution.exit(0), emulator.read_records()


def records_differ(found: ScanRecords, wanted: ScanRecords) -> bool:
    return any(not np.array_equal(getattr(found, entry.name), getattr(wanted, entry.name)) for entry in fields(ScanRecords))


def test_equals_one_run_per_fault(network, codes, complete):
    golden_sums, golden_logits, golden_records = run_emulator(network, codes, None)
    expected = []
    for number, (row, col, bit, stuck_at) in enumerate(product(range(4), range(3), range(8), (0, 1))):
        place = Registers((4, 3), np.array([3 * row + col]), np.array([bit], np.uint8), np.array([stuck_at], np.uint8))
        sums, logits, records = run_emulator(network, codes, FaultMap(array=place))
        layers = sum((sums[name] != golden_sums[name]).flatten(1).any(dim=1).int() for name in sums)
        changed = np.flatnonzero(layers.numpy())
        changed_logits = int((logits != golden_logits).any(dim=1).sum())
        changed_top1 = int((logits.argmax(dim=1) != golden_logits.argmax(dim=1)).sum())
        changed_records = sum(records_differ(records[name], golden_records[name]) for name in sums)
        first_image = int(changed[0]) if len(changed) else None
        results = (len(changed), changed_logits, changed_top1, first_image, int(layers.max()), changed_records)
        expected.append((number, row, col, f"weight[{bit}]", stuck_at, IMAGES, *results))
    assert complete == expected
    # The example is no trivial one: some faults show and some do not, in every column.
    for column in ("changed_accumulators", "changed_logits", "changed_top1", "changed_records"):
        assert len({row[CSV_COLUMNS.index(column)] > 0 for row in complete}) == 2, column


@pytest.mark.parametrize("stop", [2, 5, 9])
def test_goes_on_where_it_was_killed(network, codes, complete, tmp_path, stop):
    path = tmp_path / "killed.sqlite"
    reports = []

    def kill(what: str, done: int, total: int) -> None:
        reports.append((what, done, total))
        if len(reports) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(CONFIG, network, codes, path, lanes=LANES, progress=kill)
    what, done, _ = reports[-1]
    again = []
    with simulate(CONFIG, network, codes, path, lanes=40, progress=lambda *report: again.append(report)) as dictionary:
        assert list(dictionary.rows()) == complete
    assert min(step[1] for step in again if step[0] == what) == done, "what was done is done again"


def test_finished_dictionary_simulates_nothing(network, codes, complete, tmp_path):
    path = tmp_path / "done.sqlite"
    simulate(CONFIG, network, codes, path, lanes=LANES).close()
    reports = []
    simulate(CONFIG, network, codes, path, lanes=LANES, progress=lambda *report: reports.append(report)).close()
    faults = len(FaultSpace(CONFIG))
    assert reports == [("scan records, faults", faults, faults), ("images times faults", faults * IMAGES, faults * IMAGES)]


def test_csv_and_coverage(network, codes, complete, tmp_path):
    with simulate(CONFIG, network, codes, tmp_path / "d.sqlite", lanes=LANES) as dictionary:
        dictionary.write_csv(tmp_path / "d.csv")
        coverage = dictionary.coverage()
    lines = list(csv.DictReader((tmp_path / "d.csv").read_text().splitlines()))
    assert [line["fault"] for line in lines] == [str(number) for number in range(len(complete))]
    assert [group.group for group in coverage] == [f"weight[{bit}]" for bit in range(8)] + ["all"]
    total = coverage[-1]
    assert total.faults == len(lines) == 4 * 3 * 8 * 2
    assert total.output == sum(int(line["changed_accumulators"]) > 0 for line in lines)
    assert total.top1 == sum(int(line["changed_top1"]) > 0 for line in lines)
    assert total.records == sum(int(line["changed_records"]) > 0 for line in lines)
    assert total.output + total.records_only + total.nothing == total.faults
    assert sum(group.faults for group in coverage[:-1]) == total.faults


def test_another_configuration_is_refused(network, codes, tmp_path):
    path = tmp_path / "d.sqlite"
    space = FaultSpace(CONFIG)
    FaultDictionary(path, configuration(CONFIG, network, codes, nets=False), space, IMAGES).close()
    FaultDictionary(path, configuration(CONFIG, network, codes, nets=False), space, IMAGES).close()
    with pytest.raises(FaultDictionaryError, match=r"begun with another set of images: choose another file"):
        FaultDictionary(path, configuration(CONFIG, network, codes[:2], nets=False), space, 2)
    other = ArrayConfig(rows=4, cols=3, multiplier="KV6", level="gates", accumulator_depth=6)
    with pytest.raises(FaultDictionaryError, match=r"begun with another array and kind of fault"):
        FaultDictionary(path, configuration(other, network, codes, nets=True), space, IMAGES)


def test_a_foreign_file_is_refused(network, codes, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no dictionary\n" * 100)
    with pytest.raises(FaultDictionaryError, match=r"notes\.txt cannot be used"):
        FaultDictionary(path, {}, FaultSpace(CONFIG), IMAGES)
    with pytest.raises(FaultDictionaryError, match="cannot be used"):
        FaultDictionary(tmp_path / "missing" / "d.sqlite", {}, FaultSpace(CONFIG), IMAGES)


def test_no_image(network, codes, tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        simulate(CONFIG, network, codes[:0], tmp_path / "d.sqlite", lanes=LANES)


def test_numbers_and_places_of_faults():
    space = FaultSpace(CONFIG, ["pp_0_1", "adder.carry[3]", "enable/12", "$procmux$7"])
    assert len(space) == 4 * 3 * 4 * 2
    assert space.locate(0) == (0, 0, 0, 0)
    assert space.locate(len(space) - 1) == (3, 2, 3, 1)
    assert [space.locate(n) for n in (7, 8)] == [(0, 0, 3, 1), (0, 1, 0, 0)]
    assert [space.group(n) for n in (0, 2, 4, 6)] == ["pp", "adder.carry", "enable", "unnamed logic"]


def test_stuck_nets(network, codes, complete, tmp_path):
    """A stuck output of the active register is a stuck bit of the weight register; and nets change what registers cannot."""
    with simulate(CONFIG, network, codes[:1], tmp_path / "nets.sqlite", nets=True, lanes=512) as dictionary:
        rows = list(dictionary.rows())
        assert len(rows) == len(dictionary.space)
    found = {row[1:5]: row[5:] for row in rows}
    with simulate(CONFIG, network, codes[:1], tmp_path / "bits.sqlite", lanes=LANES) as dictionary:
        for _, row, col, place, stuck_at, *values in dictionary.rows():
            assert found[row, col, place.replace("weight", "active"), stuck_at] == tuple(values), (row, col, place, stuck_at)
    changed_output, changed_records = CSV_COLUMNS.index("changed_accumulators") - 5, CSV_COLUMNS.index("changed_records") - 5
    # Adders are not seen by a scan of the weights; the stuck bits' own registers are.
    assert any(values[changed_output] and not values[changed_records] for values in found.values())
    assert found[0, 0, "psum[3]", 0][changed_records] == 0
