"""8x8 signed approximate multipliers: what they compute, and the catalogue of the published ones.

Every 8x8 signed circuit of EvoApproxLib is a Baugh-Wooley array multiplier without some of its partial products, so a 64-bit mask
describes it completely; the published truth table, the exact products it is the sum of, and the netlist all follow from the mask.

Ref: V. Mrazek, R. Hrbacek, Z. Vasicek, L. Sekanina, "EvoApprox8b", DATE 2017, pp. 258-261, doi 10.23919/DATE.2017.7926993.
Ref: V. Mrazek, Z. Vasicek, L. Sekanina, H. Jiang, J. Han, IEEE TVLSI 26(11), 2018, pp. 2572-2576 (the signed 8x8 circuits).

Operand order, everywhere in the project: **A is the activation, B is the weight**.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from epsilon.imported.netlist import GateNetlist

__all__ = [
    "CODES",
    "ErrorFigures",
    "Multiplier",
    "Tabulated",
    "Term",
    "UnknownMultiplierError",
    "baugh_wooley",
    "catalogue",
    "get",
    "mask_terms",
]

#: All int8 codes in table order: index ``a + 128`` holds ``a``.
CODES = np.arange(-128, 128, dtype=np.int16)
DEFAULT_RELEASE = "v2022"
#: The name of a file of the user's own, and what is said about it: ``mine.v:signed``.
FILE = re.compile(r"(?P<path>.*\.(?:v|npy|npz))(?P<options>(?::[^:/]*)*)", re.IGNORECASE | re.DOTALL)


class UnknownMultiplierError(ValueError):
    """A multiplier name that the catalogue does not hold."""


@dataclass(frozen=True)
class Term:
    """One exact product ``sign * a_map[A] * b_map[B]`` of a multiplier's sum.

    Parameters
    ----------
    a_mask, b_mask : int or None
        The operand maps as bit masks (0..255) of the two's complement codes; None where the map is no mask.
    a_map, b_map : tuple of 256 ints in [-32767, 32767]
        The operand maps, index ``code + 128``; in [-128, 127] for every multiplier of the catalogue. Any product is exact in int32.
    sign : int
        +1 or -1.
    """

    a_mask: int | None
    b_mask: int | None
    a_map: tuple[int, ...]
    b_map: tuple[int, ...]
    sign: int = 1

    @classmethod
    def masked(cls, a_mask: int, b_mask: int) -> Term:
        """Return the product of two bit-masked operands."""

        def apply(mask: int) -> tuple[int, ...]:
            return tuple(int(v) for v in (CODES.astype(np.int8) & np.uint8(mask).view(np.int8)))

        return cls(a_mask, b_mask, apply(a_mask), apply(b_mask))


@dataclass(frozen=True)
class ErrorFigures:
    """Error of a multiplier against the exact product over all 65,536 operand pairs, in units of the product's last place.

    ``mae`` mean absolute error, ``wce`` worst-case absolute error, ``mean`` signed mean error, ``mse`` mean squared error,
    ``probability`` fraction of pairs with any error (0..1).
    """

    mae: float
    wce: int
    mean: float
    mse: float
    probability: float


@dataclass(frozen=True)
class Tabulated:
    """The function of a multiplier that no mask describes.

    Parameters
    ----------
    products : bytes
        int32, little-endian, (256, 256): element ``[a + 128, b + 128]`` for activation a, weight b; each in -65535..65535.
    terms : tuple of Term or None
        The exact products that the table is the sum of; None: it is no sum of few.
    """

    products: bytes = field(repr=False)
    terms: tuple[Term, ...] | None = field(compare=False, repr=False)


@dataclass(frozen=True)
class Multiplier:
    """An 8x8 signed multiplier: a circuit of the catalogue, or one of the user's own (``epsilon.imported``).

    Parameters
    ----------
    release : str
        ``v1`` or ``v2022`` (EvoApproxLib), ``adapt`` for the compatibility table, or ``file`` for the user's own.
    name : str
        The circuit's published name, for example ``mul8s_1KVP``. Names repeat between releases for different circuits.
    mask : bytes or None
        Kept partial products: byte ``i`` belongs to activation bit A[i], its bit ``j`` says that A[i] & B[j] is kept. None: the
        function is no sum of partial products, and ``tabulated`` says what it is.
    power_mw, area_um2, delay_ns : float or None
        Cost as published with the circuit (45 nm PDK); None where nothing is published.
    negative_magnitude : bool
        AdaPT's table: where both operands are negative the product of the magnitudes is used. No published circuit does this.
    tabulated : Tabulated or None
        The function, where ``mask`` is None.
    netlist : GateNetlist or None
        The user's own gates, which the hardware then uses as they stand.
    sign_magnitude : bool
        The netlist is an unsigned M, used as ``o = s M(|a|, |b|)`` with magnitudes 0..128 and s = -1 where exactly one operand is
        negative, else +1.
    spec : str
        What ``get`` takes to give this multiplier again; its key unless it comes from a file.
    """

    release: str
    name: str
    mask: bytes | None
    power_mw: float | None = None
    area_um2: float | None = None
    delay_ns: float | None = None
    negative_magnitude: bool = False
    tabulated: Tabulated | None = None
    netlist: GateNetlist | None = None
    sign_magnitude: bool = False
    spec: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if (self.mask is None) == (self.tabulated is None):
            raise ValueError("A multiplier is described by a mask or by a table, one of the two")
        if self.mask is not None and len(self.mask) != 8:
            raise ValueError(f"A multiplier mask has 8 bytes, one per activation bit, not {len(self.mask)}")
        if not self.spec:
            object.__setattr__(self, "spec", self.key)

    @property
    def key(self) -> str:
        """Release and name, the unique key of the multiplier, for example ``v2022/mul8s_1KVP``."""
        return f"{self.release}/{self.name}"

    @property
    def short_name(self) -> str:
        """The name without its common prefix, for example ``KVP``."""
        return self.name.removeprefix("mul8s_1").removeprefix("mul8s_")

    @property
    def is_circuit(self) -> bool:
        """Whether this is a circuit with a netlist, and not only a table."""
        return self.netlist is not None or (self.mask is not None and not self.negative_magnitude)

    @property
    def is_gates_only(self) -> bool:
        """Whether its own netlist is the only form that the hardware has of it, at every level."""
        return self.netlist is not None and self.mask is None

    def require_form(self, level: str) -> None:
        """Raise ValueError where the hardware can have no form of this multiplier at a level (``words`` or ``gates``)."""
        if self.terms is None and self.netlist is None:
            lacking = "a table without a netlist that is no sum of few products"
            raise ValueError(f"{self.key} is {lacking}: only the emulator runs it, at the level 'words'")
        if level == "gates" and not self.is_circuit:
            raise ValueError(f"{self.key} is a table without a netlist: use the level 'words'")

    def describe(self) -> dict:
        """Return what identifies the multiplier as plain JSON values."""
        values: dict = {"key": self.key}
        if self.mask is not None:
            values["mask"] = self.mask.hex()
        if self.tabulated is not None:
            values["table"] = hashlib.sha256(self.tabulated.products).hexdigest()[:16]
        if self.netlist is not None:
            values |= {"netlist": self.netlist.digest, "sign_magnitude": self.sign_magnitude}
        return values

    def keeps(self, i: int, j: int) -> bool:
        """Return whether the partial product A[i] & B[j] is kept (of a multiplier that a mask describes)."""
        return bool(self.mask[i] >> j & 1)

    @property
    def partial_products(self) -> int | None:
        """How many of the 64 partial products are kept; None where no mask describes the multiplier."""
        return None if self.mask is None else sum(row.bit_count() for row in self.mask)

    @property
    def used_weight_bits(self) -> int:
        """Mask (0..255) of the weight bits that can change a product; a fault in any other bit is never seen."""
        if self.negative_magnitude:
            return 0xFF  # every bit can change the magnitude
        if self.mask is None:
            by_code = np.roll(self.table(), 128, axis=1)  # index: the weight's byte
            return sum(1 << bit for bit in range(8) if (by_code != by_code[:, np.arange(256) ^ 1 << bit]).any())
        used = 0
        for row in self.mask:
            used |= row
        return used

    @cached_property
    def terms(self) -> tuple[Term, ...] | None:
        """The exact products that this multiplier is the sum of; None where its table is all there is."""
        if self.mask is None:
            return self.tabulated.terms
        terms = mask_terms(self.mask)
        if not self.negative_magnitude:
            return terms
        if len(terms) != 1:
            raise ValueError("The negative-magnitude form is defined for multipliers that are a single product")
        return (*terms, *_negative_magnitude_terms(terms[0]))

    def table(self) -> np.ndarray:
        """Return the truth table, int16 (256, 256): element ``[a + 128, b + 128]`` is the output for activation a, weight b.

        int32 where it does not fit: an unsigned circuit by sign-magnitude can have products of 17 bits.
        """
        return _table(self)

    @property
    def product_bits(self) -> int:
        """Width of a product in two's complement: 16, or 17 where the table is int32."""
        return 16 if self.table().dtype == np.int16 else 17

    @cached_property
    def keeps_zero(self) -> bool:
        """Whether an activation of 0 gives the product 0 with every weight, as all published circuits do."""
        return not self.table()[128].any()

    @cached_property
    def twins(self) -> tuple[Multiplier, ...]:
        """The multipliers of the catalogue that compute the same function."""
        table = self.table()
        return tuple(other for other in catalogue().values() if np.array_equal(other.table(), table))

    def multiply(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the products of int8 activations ``a`` and int8 weights ``b`` (broadcast), int32: the golden definition."""
        index_a = np.asarray(a, dtype=np.int64) + 128
        index_b = np.asarray(b, dtype=np.int64) + 128
        return self.table()[index_a, index_b].astype(np.int32)

    @cached_property
    def error(self) -> ErrorFigures:
        """Error figures over all operand pairs, computed from the table."""
        exact = np.multiply.outer(CODES.astype(np.int64), CODES.astype(np.int64))
        error = self.table().astype(np.int64) - exact
        return ErrorFigures(
            mae=float(np.abs(error).mean()),
            wce=int(np.abs(error).max()),
            mean=float(error.mean()),
            mse=float((error**2).mean()),
            probability=float((error != 0).mean()),
        )

    def component(self, level: str = "gates"):
        """Return the multiplier as an Amaranth component.

        Parameters
        ----------
        level : str
            ``gates`` (carry-save array of the kept partial products, or the user's own netlist) or ``words`` (sum of masked
            products).
        """
        from hdl.multiplier import MultiplierUnit  # Amaranth stays out of the way of software-only users

        return MultiplierUnit(self, level=level)


def _negative_magnitude_terms(term: Term) -> tuple[Term, Term]:
    """Return what turns ``term`` into the product of magnitudes where both operands are negative."""

    def magnitude(mapping: tuple[int, ...]) -> tuple[int, ...]:
        # |-128| does not fit int8 and stays -128, as in the published table.
        return tuple(mapping[(-a if a > -128 else a) + 128] if a < 0 else 0 for a in range(-128, 128))

    def negative_part(mapping: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(mapping[a + 128] if a < 0 else 0 for a in range(-128, 128))

    return (
        Term(None, None, magnitude(term.a_map), magnitude(term.b_map)),
        Term(None, None, negative_part(term.a_map), negative_part(term.b_map), sign=-1),
    )


def mask_terms(mask: bytes) -> tuple[Term, ...]:
    """Return the products that the kept partial products add up to: rows of the mask with equal bytes merge into one."""
    merged: dict[int, int] = {}
    for i, row in enumerate(mask):
        if row:
            merged[row] = merged.get(row, 0) | 1 << i
    return tuple(Term.masked(a_mask, b_mask) for b_mask, a_mask in merged.items())


def baugh_wooley(mask: bytes) -> np.ndarray:
    """Return the sum of the kept partial products, int32 (256, 256), index ``code + 128``, from the definition."""
    total = np.zeros((256, 256), dtype=np.int32)
    bits = (CODES.astype(np.int32)[:, None] >> np.arange(8)) & 1
    for i in range(8):
        for j in range(8):
            if mask[i] >> j & 1:
                sign = -1 if (i == 7) != (j == 7) else 1
                total += sign * np.multiply.outer(bits[:, i], bits[:, j]) << (i + j)
    return total


@lru_cache(maxsize=64)
def _table(multiplier: Multiplier) -> np.ndarray:
    if multiplier.tabulated is not None:
        total = np.frombuffer(multiplier.tabulated.products, dtype="<i4").reshape(256, 256)
    elif multiplier.negative_magnitude:
        maps = ((np.array(t.a_map, np.int32), np.array(t.b_map, np.int32), t.sign) for t in multiplier.terms)
        total = sum(sign * np.multiply.outer(a_map, b_map) for a_map, b_map, sign in maps)
    else:
        # Straight from the definition, not from the merged terms, so that the two check each other.
        total = baugh_wooley(multiplier.mask)
    table = total.astype(np.int16)
    if not np.array_equal(table, total):
        table = total.astype(np.int32)
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Multiplier]:
    """Return every multiplier by its key: the 26 published circuits, then AdaPT's compatibility table."""
    text = resources.files("epsilon").joinpath("data_files/evoapprox_mul8s.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    found = {}
    for row in rows:
        multiplier = Multiplier(
            release=row["release"],
            name=row["name"],
            mask=bytes.fromhex(row["mask"]),
            power_mw=float(row["power_mw"]),
            area_um2=float(row["area_um2"]),
            delay_ns=float(row["delay_ns"]),
        )
        found[multiplier.key] = multiplier
    # What AdaPT ships as mul8s_1L2H: a wrong table of that circuit, kept under a name that says so.
    faulty = Multiplier("adapt", "mul8s_1L2H_adapt_table", found["v1/mul8s_1L2H"].mask, negative_magnitude=True)
    found[faulty.key] = faulty
    return found


def get(name: str | os.PathLike | Multiplier) -> Multiplier:
    """Return the multiplier of that name.

    Parameters
    ----------
    name : str or path
        A key (``v1/mul8s_1L2H``), a bare name (``mul8s_1KVP``) or a short name (``KVP``); without a release, ``v2022``. Or the
        file of a multiplier of your own, see ``epsilon.imported``.

    Raises
    ------
    UnknownMultiplierError
        Naming the nearest names, when there is no such multiplier.
    ValueError, OSError
        When a file cannot be read, or is no multiplier.
    """
    if isinstance(name, Multiplier):
        return name
    name = str(name)
    if (found := FILE.fullmatch(name)) is not None:
        from epsilon.imported import read  # it builds on this module

        return read(found["path"], *filter(None, found["options"].split(":")))
    release, _, bare = name.rpartition("/")
    wanted = bare.lower().removeprefix("mul8s_").removeprefix("1")
    for multiplier in catalogue().values():
        same_release = multiplier.release == (release.lower() or DEFAULT_RELEASE)
        if same_release and wanted == multiplier.short_name.lower():
            return multiplier
    raise UnknownMultiplierError(f"Unknown multiplier {name!r}; {_suggestion(wanted)}")


def _suggestion(wanted: str) -> str:
    """Return the end of the error sentence: near names, and how to see all of them."""
    by_short: dict[str, list[str]] = {}
    for multiplier in catalogue().values():
        shown = multiplier.short_name if multiplier.release == DEFAULT_RELEASE else multiplier.key
        by_short.setdefault(multiplier.short_name.lower(), []).append(shown)
    near = [shown for match in difflib.get_close_matches(wanted, by_short, n=3, cutoff=0.3) for shown in by_short[match]]
    ending = "`epsilon multipliers` lists all"
    return f"did you mean {', '.join(near)}? ({ending})" if near else ending
