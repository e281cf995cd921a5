"""What a campaign is made of: techniques, faults, settings, units of work, and the columns of a row.

A *unit* is one network under one multiplier with one fault map; all its techniques and settings run on that map and on the same
images. Every (unit, technique, setting) is one row, and its key is the hash of everything that decides the row.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

__all__ = ["COLUMNS", "ENGINE", "KINDS", "Column", "FaultSpec", "Setting", "Technique", "Unit", "compact"]

#: Counts up whenever the same configuration would give another row, so that old rows are not taken for new ones.
ENGINE = 1

#: ``vanilla``: the last exit alone (AxVanDNN); ``mendnet``: exits by confidence and energy, no repair (AxMENDNet as it is
#: reconstructed here); ``exits``: exits by confidence alone, no detection; ``epsilon``: Algorithm 1 with a repair; ``secded``:
#: exits by confidence, every weight register under a code that corrects one wrong bit and detects two.
KINDS = ("vanilla", "mendnet", "exits", "epsilon", "secded")


@dataclass(frozen=True, kw_only=True)
class Technique:
    """A protection, by name.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    repair, target : str, optional
        Of ``epsilon``: see ``epsilon.repair``; the target only for repairs that take one.
    detector : str, optional
        Of ``epsilon``: see ``epsilon.detector``.
    patrol : int, optional
        Of ``epsilon``: see ``epsilon.controller.Controller``.
    """

    kind: str
    repair: str | None = None
    target: str | None = None
    detector: str | None = None
    patrol: int | None = None

    @property
    def name(self) -> str:
        """The name in tables: the kind, and of ``epsilon`` its repair, target, (where it is not ``exact``) detector, and patrol."""
        parts = [self.kind, self.repair, self.target, self.detector if self.detector != "exact" else None]
        parts.append(f"patrol-{self.patrol}" if self.patrol else None)
        return "/".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class FaultSpec:
    """How a fault map is drawn; see ``epsilon.faults.FaultMap.sample``.

    Parameters
    ----------
    site : str
        ``storage`` or ``array``.
    point : str
        Where: ``FP1`` to ``FP4``, the name of a layer, or ``all``; always ``all`` for site ``array``.
    rate : float
        0 draws nothing.
    polarity : 0, 1 or "both"
    bits : str
    bit : int, optional
        Only this bit of each faulty weight, instead of a random one.
    seed : int
        Of this map alone.
    """

    site: str
    point: str
    rate: float
    polarity: int | str
    bits: str
    seed: int
    bit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Overrides of what the network file says; None leaves it.

    Parameters
    ----------
    gamma : float, optional
        Confidence of every exit.
    alpha : float, optional
        Importance of every layer (Eq. 2), 0..1.
    """

    gamma: float | None = None
    alpha: float | None = None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One network, one multiplier, one fault map, and what runs on it.

    Parameters
    ----------
    network : str
        Name or file, as ``epsilon.network_io.load`` takes it.
    network_digest : str
        ``epsilon.network_io.network_digest`` of it.
    multiplier : str
        Key, as ``epsilon.multipliers.get`` takes it.
    function : str
        Digest of the multiplier's function, so that a changed circuit is another row.
    rows, cols : int
        Of the array.
    fault : FaultSpec
    split : str
        Of the data set.
    images : int
        The first so many of the split.
    variants : tuple of (Technique, Setting)
    """

    network: str
    network_digest: str
    multiplier: str
    function: str
    rows: int
    cols: int
    fault: FaultSpec
    split: str
    images: int
    variants: tuple[tuple[Technique, Setting], ...]

    def configuration(self, technique: Technique, setting: Setting) -> dict:
        """Return everything that decides one row, plain JSON."""
        values = asdict(self)
        del values["variants"], values["network"]
        named = asdict(technique)
        if technique.patrol is None:
            del named["patrol"]  # so that rows without it keep their keys
        return {"engine": ENGINE, **values, "technique": named, "setting": asdict(setting)}

    def key(self, technique: Technique, setting: Setting) -> str:
        """Return the key of one row: a hash of its configuration, 32 hexadecimal digits."""
        text = json.dumps(self.configuration(technique, setting), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Column:
    """A column of the results: its SQLite type, what it holds, and whether files that were begun before there was one lack it."""

    type: str
    meaning: str
    later: bool = False


def compact(value: object) -> str:
    """Return a value of a JSON column as it is written there: the same text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


#: The columns of a row, in order. JSON columns are TEXT; a value that does not apply is NULL.
COLUMNS = {
    "key": Column("TEXT", "hash of the configuration"),
    "configuration": Column("TEXT", "JSON: everything that decides the row"),
    "network": Column("TEXT", "name of the network"),
    "network_digest": Column("TEXT", "hash of the network"),
    "dataset": Column("TEXT", "data set of the images"),
    "multiplier": Column("TEXT", "key of the multiplier"),
    "function": Column("TEXT", "hash of the multiplier's function"),
    "rows": Column("INTEGER", "rows of the array"),
    "cols": Column("INTEGER", "columns of the array"),
    "site": Column("TEXT", "storage or array"),
    "point": Column("TEXT", "fault point, layer, or all"),
    "layers": Column("TEXT", "JSON: names of the layers with faults"),
    "rate": Column("REAL", "fraction of registers with a stuck bit"),
    "polarity": Column("TEXT", "0, 1 or both"),
    "bits": Column("TEXT", "distribution of the stuck bits"),
    "bit": Column("INTEGER", "the one stuck bit, where it is chosen"),
    "seed": Column("INTEGER", "seed of the fault map"),
    "map_digest": Column("TEXT", "hash of the fault map"),
    "technique": Column("TEXT", "Technique.name"),
    "kind": Column("TEXT", "Technique.kind"),
    "repair": Column("TEXT", "repair policy"),
    "target": Column("TEXT", "target of the repair"),
    "detector": Column("TEXT", "detector"),
    "gamma": Column("REAL", "confidence of an exit, as used"),
    "alpha": Column("REAL", "importance of every layer, where it is overridden"),
    "gamma_fitted": Column("INTEGER", "1 where gamma is the network's own"),
    "images": Column("INTEGER", "images"),
    "correct_fault_free": Column("INTEGER", "top-1 right without faults, same exits"),
    "correct_faulty": Column("INTEGER", "top-1 right with faults, same exits, no detection"),
    "correct": Column("INTEGER", "top-1 right with the technique"),
    "correct_bits": Column("BLOB", "numpy.packbits of which images are right with the technique"),
    "sdc": Column("INTEGER", "silent data corruptions: top-1 not the fault-free one, nothing flagged till then"),
    "faults_asked": Column("INTEGER", "stuck bits asked for: round(rate * registers)"),
    "faults": Column("INTEGER", "stuck bits in the map"),
    "masked_multiplier": Column("INTEGER", "stuck bits that the multiplier ignores"),
    "masked_value": Column("INTEGER", "other stuck bits under golden weights that have that value already"),
    "weights_wrong": Column("INTEGER", "weights whose useful bits differ from the golden ones, before repair"),
    "weights_wrong_after": Column("INTEGER", "the same at the end of the stream"),
    "layers_faulty": Column("INTEGER", "layers with a wrong weight"),
    "layers_detected": Column("INTEGER", "of those, flagged in any check"),
    "layers_missed": Column("INTEGER", "of those, checked and never flagged"),
    "layers_false": Column("INTEGER", "layers without a wrong weight that were flagged"),
    "checks": Column("INTEGER", "checks of the signatures"),
    "first_check": Column("INTEGER", "image that triggered the first one"),
    "scores": Column("TEXT", "JSON: of the first check, per layer [name, faulty 0/1, pattern score, T_l]"),
    "repairs": Column("INTEGER", "checks that rewrote anything"),
    "words_written": Column("INTEGER", "words rewritten"),
    "words_exact": Column("INTEGER", "of those, read back equal to golden in all useful bits at the end"),
    "words_uncorrectable": Column(
        "INTEGER", "of secded: words that the code detected as wrong and could not correct, counted once", later=True
    ),
    "exits": Column("TEXT", "JSON: images that each exit answered"),
    "unsure": Column("INTEGER", "images that no exit was sure of"),
    "run_cycles": Column("INTEGER", "cycles of the array running images, all images"),
    "scan_cycles": Column("INTEGER", "cycles of signature read-out"),
    "probe_cycles": Column("INTEGER", "cycles of probing"),
    "events": Column("TEXT", "JSON: events of the hardware by name, all images"),
    "energy_pj": Column("REAL", "energy of those events, pJ, all images"),
    "energy_parts": Column("TEXT", "JSON: the same by part, pJ"),
    "bound_missed": Column("REAL", "P_md of Eq. 8"),
    "bound_error": Column("REAL", "P_error of Eq. 9"),
}
