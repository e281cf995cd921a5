"""What a campaign runs: a YAML file, read into one frozen object.

Every list may be a single value. The techniques of ``epsilon`` are the product of the repairs, targets and detectors that an entry
names; a target is left out where it does not apply (a golden weight that memory has lost, site ``storage``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from itertools import product

from epsilon import multipliers as multiplier_catalogue
from epsilon.campaign.schema import KINDS, Technique
from epsilon.config import MAX_SIDE
from epsilon.data import SPLITS
from epsilon.detector import DETECTORS
from epsilon.faults import BITS, POLARITIES, SITES
from epsilon.repair import REPAIRS, TARGETS, get_repair
from epsilon.yaml_nodes import Node, parse_yaml, read_yaml

__all__ = ["EXAMPLE", "CampaignConfig", "load", "parse", "preset", "preset_names", "preset_text"]

#: What messages call the whole.
TITLE = "A campaign"
#: Printed by ``epsilon campaign --example``.
EXAMPLE = """\
name: example
seed: 1                     # root seed; every fault map has a stream of its own
networks: [digits]          # names, see `epsilon networks`, or files
multipliers: [KVP]          # names, see `epsilon multipliers`, or files
split: test                 # train, validation or test
images: 200                 # the first so many of the split, or: all
array: {rows: 16, cols: 16}
faults:
  sites: [storage]          # storage: registers of stored weights; array: registers of the PEs
  points: [FP1, FP4]        # FP1 to FP4, names of layers, or: all (of site array always all)
  rates: [0.1, 0.3, 0.5]    # fractions of the registers with a stuck bit
  polarity: [1]             # 0, 1, both
  bits: [uniform]           # uniform, lsb-weighted
  bit: null                 # or a list of bits, 0 to 7: only this bit of each faulty weight
  maps: 3                   # fault maps of each kind
techniques:
  - vanilla                 # the last exit alone
  - mendnet                 # exits by confidence and energy
  - exits                   # exits by confidence
  - secded                  # a code over every weight register
  - epsilon: {repair: quartile, detector: [exact, pattern]}
  - epsilon: {repair: [nearest, invert], target: [expected, golden]}
  - epsilon: {repair: nearest, patrol: 1000}    # check every 1,000 images, too, however sure the exits are
gamma: fitted               # or a list of numbers from 0 to 1
alpha: computed             # or a list of numbers from 0 to 1
"""
KEYS = ("name", "seed", "networks", "multipliers", "split", "images", "array", "faults", "techniques", "gamma", "alpha")
FAULT_KEYS = ("sites", "points", "rates", "polarity", "bits", "bit", "maps")
MAX_SEED = 2**63 - 1
IMAGES = "an integer of at least 1, or all"
PLAIN_KINDS = tuple(kind for kind in KINDS if kind != "epsilon")
DEFAULT_TECHNIQUES = (
    Technique(kind="vanilla"),
    Technique(kind="mendnet"),
    Technique(kind="epsilon", repair="quartile", detector="exact"),
    Technique(kind="epsilon", repair="nearest", target="auto", detector="exact"),
    Technique(kind="epsilon", repair="invert", target="auto", detector="exact"),
)


@dataclass(frozen=True, kw_only=True)
class CampaignConfig:
    """A campaign, as ``load`` reads and checks it.

    Parameters
    ----------
    networks : tuple of str
        Names or files.
    name : str
    seed : int
        Root of the seeds of all fault maps.
    multipliers : tuple of str
        As ``epsilon.multipliers.get`` takes them, each in its full form.
    split : str
    images : int or None
        The first so many of the split; None: all.
    rows, cols : int
        Of the array.
    sites, points, rates, polarities, bits : tuple
        See ``epsilon.campaign.schema.FaultSpec``.
    bit : tuple of int or None
        The one stuck bit of each faulty weight; (None,): drawn by ``bits``.
    maps : int
        Fault maps of each kind, at least 1.
    techniques : tuple of Technique
    gammas, alphas : tuple of float or None
        None: what was fitted, or is computed, for the network.
    places : mapping of str to tuple of str
        File and line of each entry of ``networks``, ``multipliers`` and ``points``, all of which the networks must know.
    """

    networks: tuple[str, ...]
    name: str = "campaign"
    seed: int = 1
    multipliers: tuple[str, ...] = ("v2022/mul8s_1KVP",)
    split: str = "test"
    images: int | None = None
    rows: int = 16
    cols: int = 16
    sites: tuple[str, ...] = ("storage",)
    points: tuple[str, ...] = ("FP1", "FP2", "FP3", "FP4")
    rates: tuple[float, ...] = (0.1, 0.3, 0.5)
    polarities: tuple[int | str, ...] = (1,)
    bits: tuple[str, ...] = ("uniform",)
    bit: tuple[int | None, ...] = (None,)
    maps: int = 3
    techniques: tuple[Technique, ...] = DEFAULT_TECHNIQUES
    gammas: tuple[float | None, ...] = (None,)
    alphas: tuple[float | None, ...] = (None,)
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False, repr=False)

    def describe(self) -> dict:
        """Return everything but ``places`` as plain JSON values."""
        values = {name: value for name, value in vars(self).items() if name != "places"}
        values["techniques"] = [asdict(technique) for technique in self.techniques]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def error(self, entry: str, index: int, sentence: str) -> ValueError:
        """Return an error about one entry of what ``places`` names, with its place where that is known."""
        places = self.places.get(entry, ())
        return ValueError(f"{places[index]}: {sentence}" if index < len(places) else sentence)


def load(path: str | os.PathLike) -> CampaignConfig:
    """Return the campaign of a YAML file.

    Raises
    ------
    ValueError
        Naming the file, the line and what is allowed there.
    OSError
        When the file cannot be read.
    """
    return _read(read_yaml(path, TITLE))


def parse(text: str, source: str) -> CampaignConfig:
    """Return the campaign of a YAML text; see ``load``."""
    return _read(parse_yaml(text, source, TITLE))


def preset_names() -> tuple[str, ...]:
    """Return the names of the campaigns that come with the project."""
    folder = resources.files("epsilon.campaign").joinpath("presets")
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def preset_text(name: str) -> str:
    """Return the YAML of a campaign that comes with the project.

    Raises
    ------
    ValueError
        When there is none of that name.
    """
    if name not in preset_names():
        raise ValueError(f"There is no campaign {name!r} in the project, only {', '.join(preset_names())}")
    return resources.files("epsilon.campaign").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")


def preset(name: str) -> CampaignConfig:
    """Return a campaign that comes with the project; raises ValueError when there is none of that name."""
    return parse(preset_text(name), f"{name}.yaml")


def _read(root: Node) -> CampaignConfig:
    parts = root.mapping(KEYS)
    if "networks" not in parts:
        raise root.error("A campaign must name its networks: networks: [NAME or FILE, ...]")
    values: dict = {"networks": parts["networks"].distinct(Node.text)}
    places = {"networks": tuple(item.place for item in parts["networks"].items())}
    readers = {
        "name": lambda node: node.text(),
        "seed": lambda node: node.integer(0, MAX_SEED),
        "split": lambda node: node.choice(SPLITS),
        "multipliers": lambda node: node.distinct(_multiplier),
        "images": _images,
    }
    values |= {key: read(parts[key]) for key, read in readers.items() if key in parts}
    if "multipliers" in parts:
        places["multipliers"] = tuple(item.place for item in parts["multipliers"].items())
    if "array" in parts:
        sides = parts["array"].mapping(("rows", "cols"))
        values |= {side: node.integer(1, MAX_SIDE) for side, node in sides.items()}
    if "faults" in parts:
        faults = parts["faults"].mapping(FAULT_KEYS)
        values |= _faults(faults)
        if "points" in faults:
            places["points"] = tuple(item.place for item in faults["points"].items())
    sites = values.get("sites", CampaignConfig.sites)
    if "techniques" in parts:
        values["techniques"] = _techniques(parts["techniques"], sites)
    for key, name, word in (("gamma", "gammas", "fitted"), ("alpha", "alphas", "computed")):
        if key in parts:
            values[name] = parts[key].distinct(lambda node, word=word: _number_or(word, node))
    return CampaignConfig(**values, places=places)


def _faults(parts: dict[str, Node]) -> dict:
    readers = {
        "sites": lambda node: node.distinct(lambda item: item.choice(SITES)),
        "points": lambda node: node.distinct(lambda item: item.text("FP1, FP2, FP3, FP4, the name of a layer, or all")),
        "rates": lambda node: node.distinct(lambda item: item.number(0, 1)),
        "polarity": lambda node: node.distinct(_polarity),
        "bits": lambda node: node.distinct(lambda item: item.choice(BITS)),
        "bit": lambda node: node.distinct(lambda item: None if item.is_null else item.integer(0, 7)),
        "maps": lambda node: node.integer(1, 10**6),
    }
    renamed = {"polarity": "polarities"}
    return {renamed.get(key, key): readers[key](node) for key, node in parts.items()}


def _multiplier(node: Node) -> str:
    name = node.text("the name of a multiplier or its file")
    try:
        return multiplier_catalogue.get(name).spec
    except (ValueError, OSError) as error:
        raise node.error(str(error)) from None


def _images(node: Node) -> int | None:
    return None if node.scalar(IMAGES) == "all" else node.integer(1, allowed=IMAGES)


def _polarity(node: Node) -> int | str:
    written = node.choice(str(polarity) for polarity in POLARITIES)
    return next(polarity for polarity in POLARITIES if str(polarity) == written)


def _number_or(word: str, node: Node) -> float | None:
    alternative = f", or {word}"
    return None if node.scalar(f"a number from 0 to 1{alternative}") == word else node.number(0, 1, alternative)


def _techniques(node: Node, sites: tuple[str, ...]) -> tuple[Technique, ...]:
    found: list[Technique] = []
    for item in node.items():
        for technique in _of_entry(item, sites):
            if technique in found:
                raise item.error(f"techniques has {technique.name} twice")
            found.append(technique)
    return tuple(found)


def _of_entry(node: Node, sites: tuple[str, ...]) -> list[Technique]:
    allowed = f"one of {', '.join(PLAIN_KINDS)}, or epsilon: {{repair: ..., target: ..., detector: ..., patrol: ...}}"
    if not node.is_mapping:
        kind = node.text(allowed)
        if kind == "epsilon":
            raise node.error(f"epsilon needs a repair, one of {', '.join(REPAIRS)}: epsilon: {{repair: ...}}")
        if kind not in PLAIN_KINDS:
            raise node.refuse(allowed)
        return [Technique(kind=kind)]
    entry = node.mapping(("epsilon",))
    if "epsilon" not in entry:
        raise node.refuse(allowed)
    parts = entry["epsilon"].mapping(("repair", "target", "detector", "patrol"))
    if "repair" not in parts:
        raise node.error(f"epsilon needs a repair, one of {', '.join(REPAIRS)}")
    repairs = parts["repair"].distinct(lambda item: item.choice(REPAIRS))
    detectors = parts["detector"].distinct(lambda item: item.choice(DETECTORS)) if "detector" in parts else ("exact",)
    targets = _targets(parts["target"], repairs, sites) if "target" in parts else None
    patrol = parts["patrol"].integer(1, allowed="an integer of at least 1") if "patrol" in parts else None
    found = []
    for repair in repairs:
        aims = targets or (("auto",) if _takes_target(repair) else (None,))
        found += [
            Technique(kind="epsilon", repair=repair, target=aim, detector=detector, patrol=patrol)
            for aim, detector in product(aims, detectors)
        ]
    return found


def _targets(node: Node, repairs: tuple[str, ...], sites: tuple[str, ...]) -> tuple[str, ...]:
    without = [repair for repair in repairs if not _takes_target(repair)]
    if without:
        able = ", ".join(repair for repair in REPAIRS if _takes_target(repair))
        raise node.error(f"The repair {without[0]} takes no target; only {able} do")
    targets = node.distinct(lambda item: item.choice(TARGETS))
    if targets == ("golden",) and sites == ("storage",):
        allowed = ", ".join(target for target in TARGETS if target != "golden")
        raise node.error(f"Under faults of site storage no golden weight is left: the target must be one of {allowed}")
    return targets


def _takes_target(repair: str) -> bool:
    try:
        get_repair(repair, target=TARGETS[0])
    except ValueError:
        return False
    return True
