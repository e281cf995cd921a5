"""Energies of events: the table and its mistakes, the sum by hand, what exits and repairs change, and the meter of the machine."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from command_line import epsilon

from epsilon.config import ArrayConfig
from epsilon.controller import Controller, vanilla
from epsilon.emulator import Emulator
from epsilon.energy import EVENTS, EnergyTable, Entry, Events, energy, measurement, missing_energy
from epsilon.energy.model import SECDED
from epsilon.energy.table import NAMES, OPTIONAL
from epsilon.faults import FaultMap
from epsilon.multipliers import catalogue, get
from epsilon.network_io import load
from epsilon.repair import get_repair

CONFIG = ArrayConfig(rows=4, cols=3, multiplier="KVP")
ROUND = EnergyTable(
    {name: Entry(pj, "none", "made up") for name, pj in zip(NAMES, (1e6, 1e3, 10, 1, 2, 3, 4, 5, 100), strict=True)}
)
#: The events 1, 2, 3, ... in the order of ``EVENTS``.
COUNTED = Events(*range(1, len(EVENTS) + 1))


def test_events_add_subtract_and_divide():
    twice = COUNTED + COUNTED
    assert twice == COUNTED * 2
    assert twice - COUNTED == COUNTED == twice.per(2)
    assert Events.from_array(twice.as_array()) == twice
    assert list(COUNTED.describe().items())[:2] == [("multiplications", 1), ("idle_multiplications", 2)]
    assert json.loads(json.dumps(COUNTED.describe())) == COUNTED.describe()


def test_events_that_images_cannot_share():
    with pytest.raises(ValueError, match=r"^3 additions cannot be those of 2 images that did the same$"):
        Events(multiplications=2, additions=3).per(2)


def test_energy_by_hand():
    names = dict(zip(EVENTS, range(1, len(EVENTS) + 1), strict=True))
    assert energy(COUNTED, ROUND, get("KVP")) == {
        "multiplications": 1 * 1e6 + 2 * 1e3,
        "additions": 3 * 10,
        "registers": 8 * 4 + 32 * 5 + 10 * (6 + 2 * 7),
        "weight memory": 8 * 10 * 2,
        "activation memory": (11 + 12) * 8 * 3,
        "accumulators": (13 + 14) * 32 * 4,
        "results": 15 * 32,
        "signatures": 18 * (5 + 64) + 17 * 64,
        "readback": 16 * 16 + 10 * 10,
        "repair": 9 * 10 * 2,
    }
    assert names["weight_shifts"] == 6
    assert names["signature_words"] == 18


def test_every_event_costs_something():
    zero = energy(Events(), ROUND, get("KVP"))
    assert sum(zero.values()) == 0
    for name in EVENTS:
        assert sum(energy(Events(**{name: 1}), ROUND, get("KVP")).values()) > 0, name


def test_secded_adds_bits_and_a_decoder():
    plain, coded = (energy(COUNTED, ROUND, get("KVP"), secded=secded) for secded in (False, True))
    # 29 ones in 5 rows are 24 XORs; each of 8 bits takes 4 ANDs and an XOR.
    assert SECDED.decoder_gates == 24 + 8 * 5
    assert coded.pop("secded") == 5 * ((6 + 2 * 7) * 1 + (8 + 9) * 2) + 7 * 64 * 100
    assert coded == plain


def test_default_table():
    table = EnergyTable.default()
    assert set(table.entries) == set(NAMES) - {OPTIONAL}
    assert table["addition"] == 0.1
    assert all(len(entry.source) > 20 for entry in table.entries.values())
    # A bit of a memory costs a 64th of the published access.
    bits = [table[f"{name}_bit"] for name in ("weight_memory", "activation_memory", "accumulator")]
    assert [64 * bit for bit in bits] == [100, 20, 10]


def test_multiplication_is_power_times_delay():
    entry = EnergyTable.default().multiplication(get("KVP"))
    assert entry.pj == pytest.approx(0.363 * 1.37)
    assert "0.363 mW x 1.37 ns" in entry.source
    events = Events(multiplications=1000)
    exact = energy(events, EnergyTable.default(), get("KV6"))
    assert exact["multiplications"] == pytest.approx(1000 * 0.425 * 1.48)


def test_multiplier_without_published_power():
    table, unknown = EnergyTable.default(), replace(get("KVP"), release="file", power_mw=None)
    assert energy(COUNTED, table, unknown) is None
    assert missing_energy(unknown).startswith("No power and delay are published for file/mul8s_1KVP, so there is no energy")
    known = EnergyTable({**table.entries, OPTIONAL: Entry(0.25, "7 nm", "my own synthesis")})
    assert energy(Events(multiplications=4), known, unknown)["multiplications"] == 1
    published = [multiplier for multiplier in catalogue().values() if energy(COUNTED, table, multiplier) is not None]
    assert len(published) == len(catalogue()) - 1  # AdaPT's table is no circuit


def test_a_file_overrides_by_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("addition:\n  pj: 2e-3\n  technology: 7 nm\n  source: mine\n")
    table = EnergyTable.load(path)
    assert table.entries["addition"] == Entry(0.002, "7 nm", "mine")
    assert {**table.entries, "addition": None} == {**EnergyTable.default().entries, "addition": None}


ADDITION = "addition:\n  pj: 1\n  technology: 7 nm\n  source: mine\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("addition: [1\n", "line 2: this is no YAML ("),
        ("- addition\n", "line 1: An energy table must be a mapping with the keys multiplication, idle_multiplication, "),
        (
            ADDITION + "adition:\n  pj: 1\n",
            "line 5: An energy table has no key 'adition' (did you mean addition?); its keys are multiplication, ",
        ),
        (ADDITION + ADDITION, "line 5: An energy table has the key 'addition' twice"),
        ("addition: 0.1\n", "line 1: addition must be a mapping with the keys pj, technology, source"),
        (ADDITION + "gate:\n  pj: 1\n  source: mine\n", "line 6: gate needs pj, technology, source, and has no technology"),
        (
            ADDITION.replace("source", "sauce"),
            "line 4: addition has no key 'sauce' (did you mean source?); its keys are pj, technology, source",
        ),
        (ADDITION.replace(": 1", ": -1"), "line 2: addition.pj must be a number from 0 to 1e+06, not '-1'"),
        (ADDITION.replace(": 1", ": .inf"), "line 2: addition.pj must be a number from 0 to 1e+06, not '.inf'"),
        (ADDITION.replace(": 1", ": [1]"), "line 2: addition.pj must be a number from 0 to 1e+06, not a list"),
        (ADDITION.replace("mine", "''"), "line 4: addition.source must be a text"),
    ],
)
def test_wrong_tables(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        EnergyTable.load(path)
    assert str(caught.value).startswith(f"{path}, {sentence}")


def test_table_without_an_entry():
    entries = dict(EnergyTable.default().entries)
    del entries["gate"]
    with pytest.raises(ValueError, match=r"^The energy table has no gate$"):
        EnergyTable(entries)


def test_early_exits_save_energy_and_a_repair_costs_some(tiny_network, tiny_images):
    def spent(gamma: float | None, faults=None, repair=None) -> tuple[Events, dict[str, float]]:
        emulator = Emulator(CONFIG)
        emulator.load(tiny_network)
        emulator.set_faults(faults)
        if gamma is None:
            result = vanilla(emulator, tiny_images)
        else:
            result = Controller(emulator, gamma=gamma, repair=repair, detector="exact").stream(tiny_images)
        return result.events, energy(result.events, EnergyTable.default(), CONFIG.multiplier)

    last, last_pj = spent(None)
    early, early_pj = spent(0.0)  # the first exit is always sure
    assert early.multiplications < last.multiplications
    assert sum(early_pj.values()) < sum(last_pj.values())
    faults = FaultMap.sample(tiny_network, CONFIG, site="storage", rate=0.3, seed=2)
    unchecked, unchecked_pj = spent(1.0, faults)
    repaired, repaired_pj = spent(1.0, faults, get_repair("nearest"))
    assert unchecked.weight_writes == unchecked.readback_words == unchecked.probe_words == 0
    assert min(repaired.weight_writes, repaired.readback_words, repaired.probe_words) > 0
    assert unchecked_pj["repair"] == unchecked_pj["readback"] == 0
    assert min(repaired_pj["repair"], repaired_pj["readback"]) > 0
    assert sum(repaired_pj.values()) > sum(unchecked_pj.values())


def test_energy_table_command(tmp_path):
    path, mine = tmp_path / "table.json", tmp_path / "mine.yaml"
    mine.write_text(ADDITION)
    shown = epsilon("energy", "table", "--multiplier", "KV6", "--table", mine, "--json", path)
    assert shown.exit_code == 0, shown.output
    found = json.loads(path.read_text())
    assert found["multiplier"] == "v2022/mul8s_1KV6"
    assert list(found["energies"]) == list(NAMES)
    assert found["energies"]["addition"] == {"pj": 1, "technology": "7 nm", "source": "mine"}
    assert found["energies"]["multiplication"]["pj"] == pytest.approx(0.629)
    for name in NAMES:
        assert name in shown.stdout
    assert "ISSCC 2014" in shown.stdout


def test_energy_table_of_a_multiplier_that_publishes_nothing(tmp_path):
    np.save(tmp_path / "own.npy", get("KVP").table())
    shown = epsilon("energy", "table", "--multiplier", tmp_path / "own.npy")
    assert shown.exit_code == 0, shown.output
    assert "No power and delay are published for file/own" in shown.stdout


def test_run_reports_energy(tmp_path):
    np.save(tmp_path / "own.npy", get("KVP").table())
    options = ["run", "--images", 6, "--gamma", 0.8, "--json", tmp_path / "run.json"]
    shown = epsilon(*options)
    assert shown.exit_code == 0, shown.output
    found = json.loads((tmp_path / "run.json").read_text())
    events = Events(**found["events"])
    assert found["energy_parts_pj"] == energy(events, EnergyTable.default(), get("KVP"))
    assert found["energy_pj"] == sum(found["energy_parts_pj"].values())
    assert f"{found['energy_pj'] / 6000:,.1f}" in shown.stdout
    shown = epsilon(*options, "--multiplier", tmp_path / "own.npy")
    assert shown.exit_code == 0, shown.output
    again = json.loads((tmp_path / "run.json").read_text())
    assert again["energy_pj"] is again["energy_parts_pj"] is None
    assert again["events"] == found["events"]
    assert "No power and delay are published for file/own-" in shown.stdout


needs_pyjoules = pytest.mark.skipif(importlib.util.find_spec("pyJoules") is None, reason="needs pyJoules (the extra `energy`)")


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """Put counters of a processor where pyJoules looks for them; give the file of the package's."""
    from pyJoules.device import rapl_device

    package = tmp_path / "intel-rapl" / "intel-rapl:0"
    core = package / "intel-rapl:0:0"
    core.mkdir(parents=True)
    for folder, name in ((package, "package-0"), (core, "core")):
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text("1000000\n")
    monkeypatch.setattr(rapl_device, "RAPL_API_DIR", str(package.parent))
    return package / "energy_uj"


@needs_pyjoules
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_measured_joules_are_what_the_counter_went_on(rapl):
    found = measurement.measure(lambda: rapl.write_text("3500000\n"), measurement.meters())
    assert found.joules == {"package_0": pytest.approx(2.5), "core_0": 0}
    assert found.seconds > 0
    with pytest.raises(ValueError, match=r"^The energy counter of package_0 wrapped around"):
        measurement.measure(lambda: rapl.write_text("7\n"), measurement.meters())


@needs_pyjoules
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_energy_measure_command(rapl, tmp_path, monkeypatch):
    counter = iter(range(2, 1000))

    class Counted(Emulator):
        """Draws a joule for every layer."""

        def run_layer(self, layer, activations):
            rapl.write_text(f"{1000000 * next(counter)}\n")
            return super().run_layer(layer, activations)

    monkeypatch.setattr("epsilon.emulator.Emulator", Counted)
    shown = epsilon("energy", "measure", "--images", 20, "--json", tmp_path / "joules.json")
    assert shown.exit_code == 0, shown.output
    found = json.loads((tmp_path / "joules.json").read_text())
    assert found["images"] == 20
    assert found["emulator_joules"]["package_0"] >= len(load("digits").weighted)
    assert not any("pj" in name for name in found)
    assert "not of the accelerator" in shown.stdout


@needs_pyjoules
def test_a_meter_that_may_not_be_read(rapl):
    rapl.unlink()
    rapl.mkdir()
    with pytest.raises(measurement.NoMeterError, match=r"^The energy meter of this machine may not be read: .*energy_uj: "):
        measurement.meters()


@needs_pyjoules
def test_a_machine_without_a_meter(monkeypatch, tmp_path):
    from pyJoules.device import DeviceFactory, rapl_device

    monkeypatch.setattr(rapl_device, "RAPL_API_DIR", str(tmp_path / "none"))
    if DeviceFactory.create_devices():
        pytest.skip("this machine has an NVIDIA GPU that tells its energy")
    done = epsilon("energy", "measure")
    assert (done.exit_code, done.stdout) == (2, "")
    sentence = "This machine has no energy meter that pyJoules can read: neither RAPL (Intel, AMD) nor NVML (NVIDIA)"
    assert done.stderr.strip() == f"epsilon: {sentence}"


def test_without_pyjoules(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyJoules.device", None)
    with pytest.raises(measurement.NoMeterError, match=r"^Measuring needs pyJoules: install the extra `energy`"):
        measurement.meters()
