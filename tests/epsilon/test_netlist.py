"""The gate list: every gate's function, evaluation on all pairs, and what is no netlist."""

import pickle

import numpy as np
import pytest

from epsilon.imported.netlist import FIRST_GATE, GateNetlist, NetlistError

A, B = range(2, 10), range(10, 18)


def netlist_of(*gates, outputs=None):
    """Return a netlist of gates (operation, inputs); the last ones are the outputs, else constants."""
    named = tuple((operation, inputs, f"g{index}") for index, (operation, inputs) in enumerate(gates))
    last = [FIRST_GATE + index for index in range(len(gates))]
    return GateNetlist(named, tuple(outputs or [*last, *[0] * (16 - len(last))]))


def test_every_gate():
    netlist = netlist_of(
        ("not", (A[0],)),
        ("and", (A[1], B[1])),
        ("or", (A[2], B[2])),
        ("xor", (A[7], B[7])),
        ("mux", (A[3], B[3], B[4])),
        ("and", (FIRST_GATE, 1)),
    )
    found = netlist.evaluate()
    assert found.shape == (256, 256)
    a, b = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")

    def bit(operand, index):
        return operand >> index & 1

    wanted = (
        (1 - bit(a, 0))
        | (bit(a, 1) & bit(b, 1)) << 1
        | (bit(a, 2) | bit(b, 2)) << 2
        | (bit(a, 7) ^ bit(b, 7)) << 3
        | np.where(bit(a, 3), bit(b, 4), bit(b, 3)) << 4
        | (1 - bit(a, 0)) << 5
    )
    assert np.array_equal(found, wanted)


def test_wires_and_constants():
    netlist = netlist_of(outputs=[*A, *B[:6], 1, 0])
    a, b = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    assert np.array_equal(netlist.evaluate(), a | (b & 63) << 8 | 1 << 14)


def test_equality_is_of_content():
    one, same = (netlist_of(("and", (2, 10))) for _ in range(2))
    other = netlist_of(("or", (2, 10)))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert GateNetlist.from_json(one.to_json()) == one
    assert pickle.loads(pickle.dumps(one)) == one


def test_init_wrong_gate():
    with pytest.raises(NetlistError, match=r"^The gate g0 is a nand of 2 inputs$"):
        netlist_of(("nand", (2, 3)))
    with pytest.raises(NetlistError, match=r"^The gate g0 is a mux of 2 inputs$"):
        netlist_of(("mux", (2, 3)))


def test_init_wrong_order():
    with pytest.raises(NetlistError, match=r"^The gate g0 has an input that is not before it$"):
        netlist_of(("not", (FIRST_GATE,)))


def test_init_wrong_outputs():
    for outputs in ([2] * 15, [2] * 15 + [FIRST_GATE]):
        with pytest.raises(NetlistError, match=r"^A multiplier has 16 outputs, each a node of its netlist$"):
            GateNetlist((), tuple(outputs))
