"""The catalogue of 8x8 signed approximate multipliers.

Every 8x8 signed circuit of EvoApproxLib is a Baugh-Wooley array multiplier without some of its partial products, so a 64-bit mask
describes it completely; the published truth table, the exact products it is the sum of, and the netlist all follow from the mask.

Ref: V. Mrazek, R. Hrbacek, Z. Vasicek, L. Sekanina, "EvoApprox8b", DATE 2017, pp. 258-261, doi 10.23919/DATE.2017.7926993.
Ref: V. Mrazek, Z. Vasicek, L. Sekanina, H. Jiang, J. Han, IEEE TVLSI 26(11), 2018, pp. 2572-2576 (the signed 8x8 circuits).

Operand order, everywhere in the project: **A is the activation, B is the weight**.
"""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

import numpy as np

__all__ = ["ErrorFigures", "Multiplier", "Term", "UnknownMultiplierError", "catalogue", "get"]

#: All int8 codes in table order: index ``a + 128`` holds ``a``.
CODES = np.arange(-128, 128, dtype=np.int16)
DEFAULT_RELEASE = "v2022"


class UnknownMultiplierError(ValueError):
    """A multiplier name that the catalogue does not hold."""


@dataclass(frozen=True)
class Term:
    """One exact product ``sign * a_map[A] * b_map[B]`` of a multiplier's sum.

    Parameters
    ----------
    a_mask, b_mask : int or None
        The operand maps as bit masks (0..255) of the two's complement codes; None where the map is no mask.
    a_map, b_map : tuple of 256 ints in [-128, 127]
        The operand maps, index ``code + 128``.
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
class Multiplier:
    """An 8x8 signed multiplier, described by the partial products it keeps.

    Parameters
    ----------
    release : str
        ``v1`` or ``v2022`` (EvoApproxLib), or ``adapt`` for the compatibility table.
    name : str
        The circuit's published name, for example ``mul8s_1KVP``. Names repeat between releases for different circuits.
    mask : bytes
        Kept partial products: byte ``i`` belongs to activation bit A[i], its bit ``j`` says that A[i] & B[j] is kept.
    power_mw, area_um2, delay_ns : float or None
        Cost as published with the circuit (45 nm PDK); None where nothing is published.
    negative_magnitude : bool
        AdaPT's table: where both operands are negative the product of the magnitudes is used. No published circuit does this.
    """

    release: str
    name: str
    mask: bytes
    power_mw: float | None = None
    area_um2: float | None = None
    delay_ns: float | None = None
    negative_magnitude: bool = False

    def __post_init__(self) -> None:
        if len(self.mask) != 8:
            raise ValueError(f"A multiplier mask has 8 bytes, one per activation bit, not {len(self.mask)}")

    @property
    def key(self) -> str:
        """Release and name, the unique key of the catalogue, for example ``v2022/mul8s_1KVP``."""
        return f"{self.release}/{self.name}"

    @property
    def short_name(self) -> str:
        """The name without its common prefix, for example ``KVP``."""
        return self.name.removeprefix("mul8s_1").removeprefix("mul8s_")

    @property
    def is_circuit(self) -> bool:
        """Whether this is a circuit with a netlist, and not only a table."""
        return not self.negative_magnitude

    def keeps(self, i: int, j: int) -> bool:
        """Return whether the partial product A[i] & B[j] is kept."""
        return bool(self.mask[i] >> j & 1)

    @property
    def partial_products(self) -> int:
        """How many of the 64 partial products are kept."""
        return sum(row.bit_count() for row in self.mask)

    @property
    def used_weight_bits(self) -> int:
        """Mask (0..255) of the weight bits that can change a product; a fault in any other bit is never seen."""
        if self.negative_magnitude:
            return 0xFF  # every bit can change the magnitude
        used = 0
        for row in self.mask:
            used |= row
        return used

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The exact products that this multiplier is the sum of: rows of the mask with equal bytes merge into one."""
        merged: dict[int, int] = {}
        for i, row in enumerate(self.mask):
            if row:
                merged[row] = merged.get(row, 0) | 1 << i
        terms = tuple(Term.masked(a_mask, b_mask) for b_mask, a_mask in merged.items())
        if not self.negative_magnitude:
            return terms
        if len(terms) != 1:
            raise ValueError("The negative-magnitude form is defined for multipliers that are a single product")
        return (*terms, *_negative_magnitude_terms(terms[0]))

    def table(self) -> np.ndarray:
        """Return the truth table, int16 (256, 256): element ``[a + 128, b + 128]`` is the output for activation a, weight b."""
        return _table(self)

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
            ``gates`` (carry-save array of the kept partial products) or ``words`` (sum of masked products).
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


@lru_cache(maxsize=64)
def _table(multiplier: Multiplier) -> np.ndarray:
    total = np.zeros((256, 256), dtype=np.int32)
    if multiplier.negative_magnitude:
        for term in multiplier.terms:
            total += term.sign * np.multiply.outer(np.array(term.a_map, np.int32), np.array(term.b_map, np.int32))
    else:
        # Straight from the definition of Baugh and Wooley, not from the merged terms, so that the two check each other.
        bits = (CODES.astype(np.int32)[:, None] >> np.arange(8)) & 1
        for i in range(8):
            for j in range(8):
                if multiplier.keeps(i, j):
                    sign = -1 if (i == 7) != (j == 7) else 1
                    total += sign * np.multiply.outer(bits[:, i], bits[:, j]) << (i + j)
    table = total.astype(np.int16)
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


def get(name: str | Multiplier) -> Multiplier:
    """Return the multiplier of that name.

    Parameters
    ----------
    name : str
        A key (``v1/mul8s_1L2H``), a bare name (``mul8s_1KVP``) or a short name (``KVP``); without a release, ``v2022``.

    Raises
    ------
    UnknownMultiplierError
        Naming the nearest names, when there is no such multiplier.
    """
    if isinstance(name, Multiplier):
        return name
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
