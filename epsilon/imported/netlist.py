"""A combinational 8x8 circuit as a list of gates: read by the import, evaluated on every operand pair, rebuilt by the hardware."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["FIRST_GATE", "OPERATIONS", "GateNetlist", "NetlistError"]

#: The gates, with their numbers of inputs; ``mux`` takes select, the value of 0 and the value of 1.
OPERATIONS = {"not": 1, "and": 2, "or": 2, "xor": 2, "mux": 3}
#: Nodes 0 and 1 are the constants, then come the bits of the first and of the second operand, then the gates.
FIRST_OPERAND, SECOND_OPERAND, FIRST_GATE = 2, 10, 18
OUTPUTS = 16


class NetlistError(ValueError):
    """A netlist that is no combinational 8x8 multiplier; the message names what is wrong."""


@dataclass(frozen=True, eq=False)
class GateNetlist:
    """Gates in topological order; node numbers as in ``FIRST_GATE``.

    Parameters
    ----------
    gates : tuple of (str, tuple of int, str)
        Operation, input nodes (each smaller than the gate's own), and the name of its net in the file. Gate k is node 18 + k.
    outputs : tuple of 16 ints
        The node of each product bit, lowest first.

    Raises
    ------
    NetlistError
        For an unknown operation, a wrong number of inputs, an input that is not an earlier node, and other than 16 outputs.
    """

    gates: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        for node, (operation, inputs, name) in enumerate(self.gates, start=FIRST_GATE):
            if OPERATIONS.get(operation) != len(inputs):
                raise NetlistError(f"The gate {name} is a {operation} of {len(inputs)} inputs")
            if not all(0 <= source < node for source in inputs):
                raise NetlistError(f"The gate {name} has an input that is not before it")
        if len(self.outputs) != OUTPUTS or not all(0 <= source < FIRST_GATE + len(self.gates) for source in self.outputs):
            raise NetlistError(f"A multiplier has {OUTPUTS} outputs, each a node of its netlist")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GateNetlist) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"GateNetlist({len(self.gates)} gates, {self.digest})"

    @cached_property
    def digest(self) -> str:
        """Hash of the gates and their names (16 hexadecimal digits)."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the netlist as JSON text, the inverse of ``from_json``."""
        return json.dumps({"gates": self.gates, "outputs": self.outputs}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> GateNetlist:
        """Return the netlist of a JSON text."""
        values = json.loads(text)
        return cls(tuple((op, tuple(inputs), name) for op, inputs, name in values["gates"]), tuple(values["outputs"]))

    def evaluate(self) -> np.ndarray:
        """Return the outputs for every operand pair, uint16 (256, 256): element ``[a, b]`` for operand bytes a and b."""
        codes = np.arange(256, dtype=np.uint8)
        first, second = np.repeat(codes, 256), np.tile(codes, 256)
        # One bit per pair, 64 pairs per word: a gate is one operation on 1024 words.
        zero = np.zeros(len(first) // 64, dtype=np.uint64)
        nodes = [zero, ~zero]
        nodes += [np.packbits(operand >> bit & 1).view(np.uint64) for operand in (first, second) for bit in range(8)]
        for operation, inputs, _ in self.gates:
            x, *others = (nodes[source] for source in inputs)
            match operation:
                case "not":
                    nodes.append(~x)
                case "and":
                    nodes.append(x & others[0])
                case "or":
                    nodes.append(x | others[0])
                case "xor":
                    nodes.append(x ^ others[0])
                case _:
                    nodes.append((x & others[1]) | (~x & others[0]))
        bits = np.stack([np.unpackbits(nodes[source].view(np.uint8)) for source in self.outputs])
        weights = np.uint16(1) << np.arange(OUTPUTS, dtype=np.uint16)
        return (bits * weights[:, None]).sum(axis=0, dtype=np.uint16).reshape(256, 256)
