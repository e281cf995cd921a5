"""Multipliers of the user's own: an 8x8 circuit in Verilog, or a table of products.

``epsilon.multipliers.get`` comes here for the name of a file, so that every command takes one:

``mine.v``
    A combinational module of two 8-bit inputs and one 16-bit output, in the dialect of EvoApproxLib or any other. ``mine.v:NAME``
    where the file has several.
``mine.npy``, ``mine.npz``
    Integers (256, 256), element ``[a + 128, b + 128]`` of a signed multiplier, ``[a, b]`` of an unsigned one.

Operands are signed or unsigned as ``mine.v:signed`` or ``mine.v:unsigned`` says; else as the name does (``mul8s...``,
``mul8u...``) or the declaration of the ports (``signed``); else as it fits the exact product better, in mean absolute error.

The accelerator's operands are int8. An unsigned M serves them by sign-magnitude: ``s M(|a|, |b|)``, magnitudes 0..128, s = -1
where exactly one operand is negative, else +1 (so a zero counts as positive).
"""

from __future__ import annotations

import hashlib
import io
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from epsilon.imported.factors import exact_terms, mask_of
from epsilon.imported.netlist import GateNetlist
from epsilon.multipliers import CODES, Multiplier, Tabulated

__all__ = ["from_table", "read"]

SIGNS = ("signed", "unsigned")


def read(path: str | Path, *options: str) -> Multiplier:
    """Return the multiplier of a file.

    Parameters
    ----------
    path : str or Path
        Ending in ``.v``, ``.npy`` or ``.npz``.
    options : str
        ``signed`` or ``unsigned``, and the name of a Verilog module.

    Raises
    ------
    ValueError, OSError
        When the file cannot be read, or holds no 8x8 multiplier.
    """
    path = Path(path)
    signs = [option for option in options if option in SIGNS]
    modules = [option for option in options if option not in SIGNS]
    is_verilog = path.suffix.lower() == ".v"
    if len(signs) > 1 or len(modules) > (1 if is_verilog else 0):
        allowed = "signed or unsigned" + (" and one module" if is_verilog else "")
        raise ValueError(f"Of {path.name}, {allowed} can be said, not {':'.join(options)!r}")
    spec = ":".join([str(path.absolute()), *options])
    sign = signs[0] if signs else None
    if is_verilog:
        return _from_verilog(path.read_bytes(), path.name, spec, sign, modules[0] if modules else None)
    return _from_array(path.read_bytes(), path.name, spec, sign)


def from_table(
    table: np.ndarray, name: str, *, signed: bool = True, netlist: GateNetlist | None = None, spec: str = ""
) -> Multiplier:
    """Return the multiplier of a table of products.

    Parameters
    ----------
    table : integers (256, 256)
        Signed: int16 values, element ``[a + 128, b + 128]``. Unsigned: uint16 values, element ``[a, b]``; used by sign-magnitude.
    name : str
        Its key becomes ``file/NAME-HASH``, the hash that of the function and the gates.
    netlist : GateNetlist, optional
        Gates of this function.
    spec : str
        See ``Multiplier``.

    Raises
    ------
    ValueError
        For another shape, values that are no integers, and values out of range.
    """
    table = _in_range(_integers(table, name), name, signed)
    products = (table if signed else _by_sign_magnitude(table)).astype("<i4").tobytes()
    gates = "" if netlist is None else netlist.digest
    digest = hashlib.sha256(products + gates.encode()).hexdigest()[:8]
    square = np.frombuffer(products, "<i4").reshape(256, 256)
    mask = mask_of(square)
    return Multiplier(
        release="file",
        name=f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{digest}",
        mask=mask,
        tabulated=Tabulated(products, exact_terms(square)) if mask is None else None,
        netlist=netlist,
        sign_magnitude=netlist is not None and not signed,
        spec=spec,
    )


# A configuration looks its multiplier up whenever it is made.
@lru_cache(maxsize=64)
def _from_verilog(content: bytes, file: str, spec: str, sign: str | None, module: str | None) -> Multiplier:
    from epsilon.imported.verilog import read_verilog

    circuit = read_verilog(content, file, module)
    unsigned = circuit.netlist.evaluate()
    signed = np.roll(unsigned.view(np.int16), (128, 128), axis=(0, 1))
    is_signed = _is_signed(signed, unsigned, sign, circuit.module, file, declared=circuit.declared_signed)
    return from_table(signed if is_signed else unsigned, circuit.module, signed=is_signed, netlist=circuit.netlist, spec=spec)


@lru_cache(maxsize=64)
def _from_array(content: bytes, file: str, spec: str, sign: str | None) -> Multiplier:
    name = Path(file).stem
    table = _integers(_loaded(content, file), name)
    return from_table(table, name, signed=_is_signed(table, table, sign, name), spec=spec)


def _loaded(content: bytes, file: str) -> np.ndarray:
    """Return the one array of an NPY or NPZ file."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        arrays = dict(found)
    except Exception:  # a damaged file ends in whatever the part that stumbles over it raises
        raise ValueError(f"{file} is no NPY or NPZ file that can be read") from None
    if len(arrays) != 1:
        raise ValueError(f"{file} must hold one table, not {len(arrays)}: save the one that is meant as a file of its own")
    return next(iter(arrays.values()))


def _integers(table: np.ndarray, name: str) -> np.ndarray:
    table = np.asarray(table)
    if table.shape != (256, 256) or table.dtype.kind not in "iu":
        raise ValueError(f"The table {name} must be integers (256, 256), not {table.dtype} {table.shape}")
    return table


def _in_range(table: np.ndarray, name: str, signed: bool) -> np.ndarray:
    low, high = (-(2**15), 2**15 - 1) if signed else (0, 2**16 - 1)
    if table.min() < low or table.max() > high:
        kind = "a signed" if signed else "an unsigned"
        raise ValueError(f"Products of {kind} multiplier are {low}..{high}; those of {name} are {table.min()}..{table.max()}")
    return table.astype(np.int64)


def _by_sign_magnitude(table: np.ndarray) -> np.ndarray:
    magnitude = np.abs(CODES.astype(np.int64))
    sign = np.where(CODES < 0, -1, 1)
    return np.multiply.outer(sign, sign) * table[np.ix_(magnitude, magnitude)]


def _is_signed(signed: np.ndarray, unsigned: np.ndarray, given: str | None, *names: str, declared: bool = False) -> bool:
    """Return whether the operands of a multiplier are signed; ``signed`` and ``unsigned`` are its table in either reading."""
    if given is not None:
        return given == "signed"
    for name in names:
        if (found := re.match(r"mul8([su])", name, re.IGNORECASE)) is not None:
            return found[1].lower() == "s"
    return declared or _distance(signed, CODES) <= _distance(unsigned, np.arange(256))


def _distance(table: np.ndarray, codes: np.ndarray) -> float:
    exact = np.multiply.outer(codes.astype(np.int64), codes.astype(np.int64))
    return float(np.abs(table.astype(np.float64) - exact).mean())
