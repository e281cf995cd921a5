"""Rows of a unit: equal to the plain run, complete, repeatable, and true to their definitions."""

import dataclasses
import json

import numpy as np
import pytest

from epsilon import data, network_io
from epsilon.campaign import unit as campaign_unit
from epsilon.campaign.schema import COLUMNS, FaultSpec, Setting, Technique, Unit
from epsilon.campaign.unit import draw_faults, run_unit
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.energy import EnergyTable, energy
from epsilon.executor import encode
from epsilon.techniques import gamma_of, run_technique

IMAGES = 120
NETWORK = network_io.load("digits")
DIGEST = network_io.network_digest(NETWORK)
PLAIN = Setting()


def epsilon(repair, target=None, detector="exact"):
    return Technique(kind="epsilon", repair=repair, target=target, detector=detector)


VANILLA, MENDNET, EXITS, SECDED = (Technique(kind=kind) for kind in ("vanilla", "mendnet", "exits", "secded"))
EVERY = (epsilon("nearest", "map"), SECDED, EXITS, MENDNET, epsilon("quartile"), VANILLA, epsilon("zero"))


def unit_of(techniques=EVERY, *, settings=(PLAIN,), rows=8, multiplier="KVP", images=IMAGES, **fault):
    spec = {"site": "storage", "point": "FP4", "rate": 0.5, "polarity": 1, "bits": "uniform", "seed": 4, **fault}
    return Unit(
        network="digits",
        network_digest=DIGEST,
        multiplier=multiplier,
        function="f",
        rows=rows,
        cols=8,
        fault=FaultSpec(**spec),
        split="test",
        images=images,
        variants=tuple((technique, setting) for technique in techniques for setting in settings),
    )


def by_technique(unit):
    return dict(zip([technique.name for technique, _ in unit.variants], run_unit(unit), strict=True))


@pytest.fixture(scope="module")
def rows():
    return by_technique(unit_of())


def plain_run(unit, technique, name):
    config = ArrayConfig(rows=unit.rows, cols=unit.cols, multiplier=unit.multiplier)
    test = data.load("digits", "test").first(unit.images)
    faults = draw_faults(unit.fault, NETWORK, config)
    emulator = Emulator(config)
    options = {"target": technique.target, "faults": faults, "gamma": gamma_of(NETWORK, config)}
    outcome = run_technique(name, emulator, NETWORK, encode(NETWORK, test.images), test.labels, **options)
    return outcome, test.labels, emulator


@pytest.mark.parametrize("technique", EVERY, ids=lambda technique: technique.name)
@pytest.mark.parametrize("fault", [{"point": "FP4"}, {"site": "array", "point": "all", "polarity": "both"}])
def test_a_row_is_what_the_plain_run_gives(technique, fault):
    unit = unit_of((technique,), **fault)
    (row,) = run_unit(unit)
    name = {"vanilla": "last-exit", "exits": "none"}.get(technique.kind, technique.repair or technique.kind)
    outcome, labels, emulator = plain_run(unit, technique, name)
    stream = outcome.stream
    assert row["correct"] == stream.correct(labels)
    assert np.array_equal(
        np.unpackbits(np.frombuffer(row["correct_bits"], np.uint8), count=IMAGES).astype(bool), stream.predictions == labels
    )
    assert json.loads(row["exits"]) == list(outcome.exits_taken)
    assert (row["run_cycles"], row["scan_cycles"], row["probe_cycles"]) == tuple(
        int(cycles.sum()) for cycles in (stream.run, stream.scan, stream.probe)
    )
    assert (row["checks"], row["repairs"], row["words_written"]) == (len(stream.checks), len(stream.repairs), stream.rewritten)
    assert json.loads(row["events"]) == stream.events.describe()
    parts = energy(stream.events, EnergyTable.default(), emulator.config.multiplier, secded=technique.kind == "secded")
    assert row["energy_pj"] == sum(parts.values())
    assert row["unsure"] == np.count_nonzero(~stream.sure)
    wrong = sum(np.count_nonzero(emulator.read_weights(layer.name) != layer.matrix) for layer in NETWORK.weighted)
    assert row["weights_wrong_after"] == wrong


def test_rows_have_every_column_with_its_type_and_come_in_order(rows):
    types = {"TEXT": str, "INTEGER": int, "REAL": float, "BLOB": bytes}
    for row in rows.values():
        assert list(row) == list(COLUMNS)
        for name, column in COLUMNS.items():
            assert row[name] is None or type(row[name]) is types[column.type], name
            if column.meaning.startswith("JSON") and row[name] is not None:
                assert json.dumps(json.loads(row[name]), sort_keys=True, separators=(",", ":")) == row[name]
    assert [row["technique"] for row in rows.values()] == [technique.name for technique in EVERY]
    assert len({row["key"] for row in rows.values()}) == len(EVERY)


def test_rows_do_not_depend_on_the_order_or_company_of_techniques(rows):
    backwards = by_technique(unit_of(EVERY[::-1]))
    assert backwards == rows
    (alone,) = run_unit(unit_of((EVERY[0],)))
    assert alone == rows[EVERY[0].name]


def test_without_faults_every_row_is_golden():
    for row in run_unit(unit_of(rate=0.0)):
        assert row["correct"] == row["correct_fault_free"] == row["correct_faulty"]
        assert (row["faults"], row["sdc"], row["weights_wrong"], row["weights_wrong_after"], row["repairs"]) == (0,) * 5
        assert row["bound_missed"] in (None, 0.0)


def test_protections_in_their_order(rows):
    vanilla, secded, nearest = rows["vanilla"], rows["secded"], rows["epsilon/nearest/map"]
    assert vanilla["correct"] < vanilla["correct_fault_free"]
    assert vanilla["correct"] == vanilla["correct_faulty"]
    assert vanilla["sdc"] > 0
    assert secded["correct"] == secded["correct_fault_free"]
    assert (secded["sdc"], secded["weights_wrong_after"]) == (0, 0)
    assert secded["correct_faulty"] == rows["exits"]["correct"] < nearest["correct"]
    assert nearest["sdc"] < rows["exits"]["sdc"]
    assert (nearest["layers_faulty"], nearest["layers_detected"], nearest["layers_missed"], nearest["layers_false"]) == (1, 1, 0, 0)
    assert vanilla["layers_detected"] is None


def test_words_that_the_code_cannot_correct_are_counted_where_there_is_a_code(rows, monkeypatch):
    assert {name: row["words_uncorrectable"] for name, row in rows.items()} == {
        name: 0 if name == "secded" else None for name in rows
    }
    draw = campaign_unit.draw_faults

    def twice(spec, network, config):
        return draw(spec, network, config) | draw(dataclasses.replace(spec, seed=spec.seed + 1), network, config)

    monkeypatch.setattr(campaign_unit, "draw_faults", twice)
    unit = unit_of((SECDED,))
    (row,) = run_unit(unit)
    wrong = {}
    for spec in (unit.fault, dataclasses.replace(unit.fault, seed=unit.fault.seed + 1)):
        registers = draw(spec, NETWORK, ArrayConfig(rows=8, cols=8)).storage["conv1"]
        for index, bit in zip(registers.index.tolist(), registers.bit.tolist(), strict=True):
            if not NETWORK["conv1"].matrix.flat[index] >> bit & 1:  # stuck at 1
                wrong.setdefault(index, set()).add(bit)
    assert row["words_uncorrectable"] == sum(len(bits) > 1 for bits in wrong.values()) > 0
    # They are used as they are: what is left of the faults shows.
    assert row["weights_wrong_after"] == row["words_uncorrectable"]
    assert row["correct"] < row["correct_fault_free"]


def test_faults_are_accounted_for_to_the_bit():
    for fault in ({"point": "FP4"}, {"site": "array", "point": "all", "polarity": "both"}):
        for multiplier in ("KVP", "L2N"):
            unit = unit_of((VANILLA,), multiplier=multiplier, **fault)
            (row,) = run_unit(unit)
            assert row["faults"] == row["faults_asked"] > 0
            assert (row["masked_multiplier"] > 0) == (multiplier == "L2N")
            config = ArrayConfig(rows=8, cols=8, multiplier=multiplier)
            effective = row["faults"] - row["masked_multiplier"] - row["masked_value"]
            if fault.get("site") == "array":
                assert 0 < effective <= row["weights_wrong"]
            else:
                # One stuck bit per weight.
                assert effective == row["weights_wrong"]
            assert row["map_digest"] == draw_faults(unit.fault, NETWORK, config).digest


def test_scores_are_those_of_the_first_check():
    always = Setting(gamma=1.0)  # never sure: the first image is checked
    quiet = Setting(gamma=0.0)  # always sure
    pattern = epsilon("nearest", "map", "pattern")
    unit = unit_of((pattern, epsilon("nearest", "map")), settings=(always, quiet, Setting(gamma=1.0, alpha=0.0)))
    found = run_unit(unit)
    assert [row["first_check"] for row in found] == [0, None, 0] * 2
    scores = [json.loads(row["scores"]) for row in found]
    assert scores[0] == scores[1] == scores[3] == scores[4]
    names, faulty, values, thresholds = zip(*scores[0], strict=True)
    assert names == tuple(layer.name for layer in NETWORK.weighted)
    assert faulty == (1, 0, 0, 0, 0, 0)
    assert values[0] > 0 == max(values[1:])
    lower = [entry[3] for entry in scores[2]]
    assert all(low < high for low, high in zip(lower, thresholds, strict=True))
    assert found[2]["bound_missed"] == 1.0
    assert 0 < found[0]["bound_missed"] < 1
    assert found[0]["bound_error"] == found[0]["bound_missed"]  # (1 - gamma) is 0


def test_a_chosen_bit_is_the_only_one():
    unit = unit_of((VANILLA,), bit=0, rate=0.3)
    same = unit_of((VANILLA,), bit=7, rate=0.3)
    config = ArrayConfig(rows=8, cols=8)
    low, high = (draw_faults(which.fault, NETWORK, config).storage["conv1"] for which in (unit, same))
    assert set(low.bit) == {0}
    assert set(high.bit) == {7}
    assert np.array_equal(low.index, high.index)
    (lowest,), (highest,) = run_unit(unit), run_unit(same)
    assert highest["correct"] < lowest["correct"]
    assert (lowest["bit"], highest["bit"]) == (0, 7)


TWINS = ("v2022/mul8s_1L2J", "v1/mul8s_1L2H")


def count_products(monkeypatch):
    """Return the list of layers that are multiplied from now on."""
    found, multiply = [], Emulator.multiply

    def counted(self, layer, activations):
        found.append(layer)
        return multiply(self, layer, activations)

    monkeypatch.setattr(Emulator, "multiply", counted)
    return found


@pytest.mark.parametrize("fault", [{}, {"site": "array", "point": "all", "polarity": "both"}])
def test_multipliers_of_one_function_share_logits_and_nothing_else(monkeypatch, fault):
    units = [unit_of(multiplier=multiplier, **fault) for multiplier in TWINS]
    alone = []
    for unit in units:
        campaign_unit._shared.cache_clear()
        alone.append(run_unit(unit))
    assert [row["multiplier"] for row in alone[0] + alone[1]] == [TWINS[0]] * len(EVERY) + [TWINS[1]] * len(EVERY)
    campaign_unit._shared.cache_clear()
    products = count_products(monkeypatch)
    assert run_unit(units[0]) == alone[0]
    assert products
    del products[:]
    assert run_unit(units[1]) == alone[1]
    assert not products
    # Other faults, and the same once more: logits are kept of one fault map at a time.
    other = unit_of((EXITS,), multiplier=TWINS[0], **fault | {"seed": 5})
    run_unit(other)
    assert products
    del products[:]
    assert run_unit(units[1]) == alone[1]
    assert products


def test_thresholds_are_those_of_each_multiplier(tmp_path):
    own = {name: NETWORK.metadata[name] | {TWINS[1]: value} for name, value in (("gamma", 0.3), ("tau", [0.0, 0.0, 0.0]))}
    path = tmp_path / "own.safetensors"
    network_io.save(dataclasses.replace(NETWORK, metadata={**NETWORK.metadata, **own}), path)
    techniques = (VANILLA, EXITS, MENDNET, epsilon("nearest", "map"))
    units = [dataclasses.replace(unit_of(techniques, multiplier=multiplier), network=str(path)) for multiplier in TWINS]
    alone = []
    for unit in units:
        campaign_unit._shared.cache_clear()
        alone.append(run_unit(unit))
    for index in (1, 2, 3):
        assert alone[1][index]["gamma"] == 0.3 < alone[0][index]["gamma"]
        assert alone[1][index]["exits"] != alone[0][index]["exits"]
    for order in ((0, 1), (1, 0)):
        campaign_unit._shared.cache_clear()
        assert {index: run_unit(units[index]) for index in order} == dict(enumerate(alone))


def test_a_unit_that_was_stopped_leaves_no_half_logits(monkeypatch):
    campaign_unit._shared.cache_clear()
    unit = unit_of((VANILLA,))
    expected, multiply = run_unit(unit), Emulator.multiply

    def stopped(self, layer, activations):
        if layer == NETWORK.weighted[-1].name:
            raise KeyboardInterrupt
        return multiply(self, layer, activations)

    campaign_unit._shared.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(Emulator, "multiply", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_unit(unit)
    assert run_unit(unit) == expected


def test_another_network_than_planned_is_refused():
    unit = unit_of((VANILLA,))
    object.__setattr__(unit, "network_digest", "0" * 64)
    with pytest.raises(ValueError, match="no longer the one that the campaign was planned with"):
        run_unit(unit)
