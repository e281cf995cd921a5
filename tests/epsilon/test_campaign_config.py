"""Configurations of campaigns: what they say, how they become units, and a sentence with its line for every mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from epsilon.campaign import config
from epsilon.campaign.plan import dry, function_digest, map_seed, plan, row_keys
from epsilon.campaign.schema import Technique
from epsilon.config import ArrayConfig
from epsilon.faults import FaultMap
from epsilon.multipliers import get
from epsilon.network_io import load, network_digest, save


def parsed(text: str) -> config.CampaignConfig:
    return config.parse(text, "mine.yaml")


def test_the_example_says_what_it_shows():
    found = parsed(config.EXAMPLE)
    assert found.networks == ("digits",)
    assert found.multipliers == ("v2022/mul8s_1KVP",)
    assert (found.rows, found.cols, found.images, found.maps, found.seed) == (16, 16, 200, 3, 1)
    assert (found.points, found.rates, found.polarities, found.bit) == (("FP1", "FP4"), (0.1, 0.3, 0.5), (1,), (None,))
    assert [technique.name for technique in found.techniques] == [
        "vanilla", "mendnet", "exits", "secded", "epsilon/quartile", "epsilon/quartile/pattern",
        "epsilon/nearest/expected", "epsilon/nearest/golden", "epsilon/invert/expected", "epsilon/invert/golden",
        "epsilon/nearest/auto/patrol-1000",
    ]  # fmt: skip
    # Every key is in it, so that printing it documents them all.
    assert all(f"\n{key}:" in f"\n{config.EXAMPLE}" for key in config.KEYS)
    assert all(f"\n  {key}:" in config.EXAMPLE for key in config.FAULT_KEYS)


def test_only_networks_are_needed():
    found = parsed("networks: digits")
    assert found == config.CampaignConfig(networks=("digits",))
    assert found.images is None
    assert len(plan(found)) == 4 * 3 * 3


def test_values_and_lists_are_alike():
    one = parsed("networks: digits\nmultipliers: KV6\nfaults: {rates: 0.5, points: FP1, polarity: both, bit: 7, sites: array}")
    many = parsed(
        "networks: [digits]\nmultipliers: [KV6]\nfaults: {rates: [0.5], points: [FP1], polarity: [both], bit: [7], sites: [array]}"
    )
    assert one == many
    assert one.polarities == ("both",)
    assert one.bit == (7,)


def test_numbers_as_people_write_them():
    found = parsed("networks: digits\ngamma: [fitted, 1e-3, 1]\nalpha: [computed, 0]\nfaults: {rates: [1e-2, 0]}")
    assert found.gammas == (None, 0.001, 1.0)
    assert found.alphas == (None, 0.0)
    assert found.rates == (0.01, 0.0)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("networks: [digits", 1, "this is no YAML"),
        ("networks: digits\nseed: *no", 2, "this is no YAML"),
        ("networks: digits\n\tseed: 1", 2, "this is no YAML"),
        ("- digits", 1, "A campaign must be a mapping with the keys name, seed, networks"),
        ("seed: 1", 1, "must name its networks"),
        ("networks: digits\nnetwork: mnist", 2, "no key 'network' (did you mean networks?); its keys are name, seed, networks"),
        ("networks: digits\nnetworks: mnist", 2, "the key 'networks' twice"),
        ("networks:\n- digits\n- digits", 3, "networks has 'digits' twice"),
        ("networks: []", 1, "must not be an empty list"),
        ("networks:\n- {digits: 1}", 2, "networks must be a name, not a mapping"),
        ("networks: digits\nseed: -1", 2, "seed must be an integer from 0 to 9223372036854775807, not '-1'"),
        ("networks: digits\nseed: yes", 2, "seed must be an integer"),
        ("networks: digits\nseed: 1.5", 2, "seed must be an integer"),
        ("networks: digits\nseed: !!int x", 2, "seed must be an integer"),
        ("networks: digits\nmultipliers:\n- KVP\n- KVB", 4, "Unknown multiplier 'KVB'; did you mean"),
        ("networks: digits\nmultipliers: [KVP, mul8s_1KVP]", 2, "multipliers has 'v2022/mul8s_1KVP' twice"),
        ("networks: digits\nmultipliers: missing.npy", 2, "missing.npy"),
        ("networks: digits\nsplit: tset", 2, "split must be one of train, validation, test, not 'tset'"),
        ("networks: digits\nimages: 0", 2, "images must be an integer of at least 1, or all, not '0'"),
        ("networks: digits\nimages: many", 2, "images must be an integer of at least 1, or all, not 'many'"),
        ("networks: digits\narray: {rows: 65}", 2, "array.rows must be an integer from 1 to 64, not '65'"),
        ("networks: digits\narray: [16, 16]", 2, "array must be a mapping with the keys rows, cols, not a list"),
        ("networks: digits\nfaults:\n  rate: 0.1", 3, "no key 'rate' (did you mean rates?); its keys are sites, points, rates"),
        ("networks: digits\nfaults:\n  rates:\n  - 0.1\n  - 1.1", 5, "faults.rates must be a number from 0 to 1, not '1.1'"),
        ("networks: digits\nfaults: {rates: .nan}", 2, "faults.rates must be a number from 0 to 1"),
        ("networks: digits\nfaults: {rates: '0.1'}", 2, "faults.rates must be a number from 0 to 1"),
        ("networks: digits\nfaults: {sites: [storage, cache]}", 2, "faults.sites must be one of storage, array, not 'cache'"),
        ("networks: digits\nfaults: {polarity: 2}", 2, "faults.polarity must be one of 0, 1, both, not '2'"),
        ("networks: digits\nfaults: {bits: msb}", 2, "faults.bits must be one of uniform, lsb-weighted, not 'msb'"),
        ("networks: digits\nfaults: {bit: [8]}", 2, "faults.bit must be an integer from 0 to 7, not '8'"),
        ("networks: digits\nfaults: {maps: 0}", 2, "faults.maps must be an integer from 1"),
        ("networks: digits\ngamma: high", 2, "gamma must be a number from 0 to 1, or fitted, not 'high'"),
        ("networks: digits\nalpha: [0.5, 2]", 2, "alpha must be a number from 0 to 1, or computed, not '2'"),
        ("networks: digits\ntechniques:\n- vanila", 3, "techniques must be one of vanilla, mendnet, exits, secded, or epsilon: {"),
        ("networks: digits\ntechniques:\n- epsilon", 3, "epsilon needs a repair, one of quartile, zero, nearest, clip, invert"),
        ("networks: digits\ntechniques:\n- epsilon: {target: map}", 3, "epsilon needs a repair"),
        ("networks: digits\ntechniques:\n- vanilla: {}", 3, "no key 'vanilla'; its keys are epsilon"),
        ("networks: digits\ntechniques:\n- epsilon: {repair: magic}", 3, "zero, nearest, clip, invert, not 'magic'"),
        ("networks: digits\ntechniques:\n- epsilon: {repair: nearest, target: all}", 3, "auto, golden, expected, map, not 'all'"),
        ("networks: digits\ntechniques:\n- epsilon: {repair: zero, detector: all}", 3, "one of pattern, exact, not 'all'"),
        ("networks: digits\ntechniques:\n- epsilon: {repair: zero, patrol: 0}", 3, "an integer of at least 1, not '0'"),
        (
            "networks: digits\ntechniques:\n- epsilon:\n    repair: [nearest, clip]\n    target: map",
            5,
            "The repair clip takes no target; only nearest, invert do",
        ),
        ("networks: digits\ntechniques: [epsilon: {repair: invert, target: golden}]", 2, "must be one of auto, expected, map"),
        ("networks: digits\ntechniques: [vanilla, vanilla]", 2, "techniques has vanilla twice"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_line(text, line, said):
    with pytest.raises(ValueError, match=r"^mine\.yaml") as caught:
        parsed(text)
    assert str(caught.value).startswith(f"mine.yaml, line {line}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("networks:\n- digits\n- nothing", 3, "There is no network file 'nothing'"),
        ("networks: digits\nfaults:\n  points: [FP1,\n    FP5]", 4, "fault points of network 'digits' are FP1, FP2, FP3, FP4"),
        ("networks: digits\nfaults: {points: conv9}", 2, "no layer 'conv9': faults.points takes FP1 to FP4, all, or one of conv1"),
        ("networks: digits\nmultipliers:\n- KVP\n- adapt/L2H_adapt_table", 4, "Network 'digits' has no fitted gamma for adapt/"),
    ],
)
def test_mistakes_that_the_network_knows(text, line, said):
    with pytest.raises(ValueError, match=r"^mine\.yaml") as caught:
        plan(parsed(text))
    assert str(caught.value).startswith(f"mine.yaml, line {line}: ")
    assert said in str(caught.value)


def test_a_multiplier_without_gamma_runs_where_none_is_needed():
    text = "networks: digits\nmultipliers: adapt/L2H_adapt_table\n"
    assert plan(parsed(text + "techniques: vanilla"))
    assert plan(parsed(text + "gamma: 0.9"))


def test_more_images_than_there_are():
    with pytest.raises(ValueError, match=r"must lie in 1\.\.597, not 598"):
        plan(parsed("networks: digits\nimages: 598"))


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\x00", b"a: \x00", b"[" * 600])
def test_files_that_are_no_campaign(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.yaml") as caught:
        config.load(path)
    assert "\n" not in str(caught.value)


def test_units_come_in_an_order_that_shares_work():
    found = plan(EVERY)
    places = [(u.network, u.multiplier, u.fault.site, u.fault.point, u.fault.polarity, u.fault.seed) for u in found]
    # Each run of equal places is one block, and rates rise within it, so that a map grows.
    assert len(set(places)) == len([1 for index, place in enumerate(places) if index == 0 or places[index - 1] != place])
    assert [unit.fault.rate for unit in found[:3]] == [0.1, 0.3, 0.5]
    assert [unit.multiplier for unit in found] == sorted(unit.multiplier for unit in found)


def test_multipliers_of_one_function_take_turns():
    found = plan(replace(EVERY, multipliers=("v1/mul8s_1L2H", "v2022/mul8s_1KVP", "v2022/mul8s_1L2J")))
    alike = found[: 2 * len(found) // 3]
    assert [unit.multiplier for unit in alike] == ["v1/mul8s_1L2H", "v2022/mul8s_1L2J"] * (len(alike) // 2)
    assert [unit.fault for unit in alike[::2]] == [unit.fault for unit in alike[1::2]]
    assert {unit.multiplier for unit in found[len(alike) :]} == {"v2022/mul8s_1KVP"}


EVERY = config.CampaignConfig(
    networks=("digits",),
    multipliers=("v2022/mul8s_1KV6", "v2022/mul8s_1KVP"),
    images=5,
    sites=("storage", "array"),
    rates=(0.5, 0.1, 0.3),
    polarities=(0, "both"),
    maps=2,
    techniques=(
        Technique(kind="vanilla"),
        Technique(kind="epsilon", repair="nearest", target="golden", detector="exact"),
        Technique(kind="epsilon", repair="nearest", target="map", detector="exact"),
    ),
    gammas=(None, 0.5),
    alphas=(None, 0.0, 1.0),
)


def test_a_plan_is_complete_and_nothing_runs_twice():
    units = plan(EVERY)
    # Two multipliers, (four points of storage + the array) x two polarities x two maps x three rates.
    assert len(units) == 2 * (4 + 1) * 2 * 2 * 3
    assert {len(unit.variants) for unit in units if unit.fault.site == "array"} == {1 + 2 * 2 * 3}
    # A golden target needs golden weights; the last exit alone knows neither gamma nor alpha.
    assert {len(unit.variants) for unit in units if unit.fault.site == "storage"} == {1 + 2 * 3}
    assert {unit.fault.point for unit in units if unit.fault.site == "array"} == {"all"}
    keys = [key for unit in units for key in row_keys(unit)]
    assert len(keys) == len(set(keys))
    assert plan(EVERY) == units


def test_seeds_depend_on_the_root_and_the_number_of_the_map_alone():
    seeds = {unit.fault.seed for unit in plan(EVERY)}
    assert seeds == {map_seed(1, 0), map_seed(1, 1)}
    assert len({map_seed(root, index) for root in range(20) for index in range(20)}) == 400
    assert all(0 <= map_seed(2**63 - 1, index) < 2**63 for index in range(50))
    # More maps leave the first ones as they were.
    assert seeds < {unit.fault.seed for unit in plan(replace(EVERY, maps=3))}
    # A map at a higher rate holds the one at a lower rate.
    network, array = load("digits"), ArrayConfig(rows=16, cols=16)
    low, high = (FaultMap.sample(network, array, rate=rate, seed=map_seed(1, 0)) for rate in (0.1, 0.3))
    assert low | high == high


def test_units_say_what_decides_their_rows():
    unit = plan(EVERY)[0]
    assert unit.network_digest == network_digest(load("digits"))
    assert unit.function == function_digest(get("KV6"))
    assert function_digest(get("L2J")) == function_digest(get("v1/L2H")) != function_digest(get("KVP"))
    for changed in ({"rows": 4}, {"images": 4}, {"function": "0"}, {"network_digest": "0"}, {"split": "train"}):
        assert not set(row_keys(replace(unit, **changed))) & set(row_keys(unit))


def test_a_network_file_is_known_by_its_absolute_path(tmp_path, monkeypatch):
    save(load("digits"), tmp_path / "own.safetensors")
    monkeypatch.chdir(tmp_path)
    own, builtin = plan(replace(EVERY, networks=("own.safetensors",))), plan(EVERY)
    assert own[0].network == str(tmp_path / "own.safetensors")
    # The same network is the same rows, wherever its file is.
    assert [row_keys(unit) for unit in own] == [row_keys(unit) for unit in builtin]


def test_patrol_makes_another_row_and_leaves_the_keys_of_rows_without():
    (plain,), (patrolled,) = (
        plan(
            parsed(f"networks: digits\nfaults: {{points: FP1, rates: 0.1, maps: 1}}\ntechniques: [epsilon: {{repair: zero{more}}}]")
        )
        for more in ("", ", patrol: 50")
    )
    assert row_keys(plain) != row_keys(patrolled)
    (technique, setting), (_, same) = plain.variants[0], patrolled.variants[0]
    assert setting == same
    assert "patrol" not in plain.configuration(technique, setting)["technique"]
    assert patrolled.configuration(patrolled.variants[0][0], setting)["technique"]["patrol"] == 50


def test_dry_has_no_faults():
    units = plan(dry(EVERY))
    assert {unit.fault.rate for unit in units} == {0.0}
    assert {unit.variants for unit in units} == {unit.variants for unit in plan(EVERY)}


@pytest.mark.parametrize("name", config.preset_names())
def test_presets_are_sound(name):
    found = config.preset(name)
    assert found.name == name
    for index in range(len(found.networks)):
        network = load(found.networks[index])
        assert network.metadata["dataset"] in found.networks[index]
    assert found.describe()["techniques"]


def test_table1_is_the_papers():
    found = config.preset("table1")
    assert len(found.networks) * len(found.multipliers) * len(found.points) * len(set(found.rates) - {0}) == 3 * 3 * 4 * 3
    assert found.images is None
    assert found.maps >= 3
    names = {technique.name for technique in found.techniques}
    assert {"vanilla", "mendnet", "epsilon/quartile", "epsilon/quartile/pattern", "epsilon/nearest/expected", "secded"} <= names


def test_unknown_preset():
    with pytest.raises(ValueError, match="no campaign 'table9' in the project, only array, bits"):
        config.preset("table9")
