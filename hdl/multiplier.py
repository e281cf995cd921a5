"""The multiplier of a processing element: generated from the mask of kept partial products, or the user's own gates.

Ref: C. R. Baugh, B. A. Wooley, "A two's complement parallel array multiplication algorithm", IEEE Trans. Computers C-22(12), 1973.
"""

import re

from amaranth.hdl import Array as ValueArray
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from epsilon.imported.netlist import GateNetlist
from epsilon.multipliers import Multiplier

__all__ = ["LEVELS", "MultiplierUnit"]

LEVELS = ("gates", "words")
PRODUCT_BITS = 16


class MultiplierUnit(wiring.Component):
    """Multiply an activation by a weight, combinationally: ``o = multiplier.table()[a + 128, b + 128]``.

    Parameters
    ----------
    multiplier : Multiplier
    level : str
        ``gates``: the user's own netlist where there is one, else a carry-save array of half and full adders over the kept partial
        products, as in the published circuits.
        ``words``: sum of products of masked or looked-up operands; the same function, for fast simulation. A netlist that no mask
        describes stands for itself.

    Members
    -------
    a : In(signed(8)), the activation.
    b : In(signed(8)), the weight.
    o : Out(signed(16)), the product; signed(17) where ``multiplier.product_bits`` says so.

    Raises
    ------
    ValueError
        For an unknown level, and for a table without a form that hardware can have at that level.
    """

    def __init__(self, multiplier: Multiplier, *, level: str = "gates"):
        if level not in LEVELS:
            raise ValueError(f"The level of a multiplier must be one of {', '.join(LEVELS)}, not {level!r}")
        multiplier.require_form(level)
        self._multiplier = multiplier
        self._level = level
        super().__init__({"a": In(signed(8)), "b": In(signed(8)), "o": Out(signed(multiplier.product_bits))})

    @property
    def multiplier(self) -> Multiplier:
        return self._multiplier

    @property
    def level(self) -> str:
        return self._level

    def elaborate(self, platform):
        m = Module()
        multiplier = self._multiplier
        if multiplier.netlist is not None and (self._level == "gates" or multiplier.is_gates_only):
            product = _sign_magnitude if multiplier.sign_magnitude else _signed_netlist
            m.d.comb += self.o.eq(product(m, multiplier.netlist, self.a, self.b))
        elif self._level == "gates":
            m.d.comb += self.o.eq(_carry_save_array(m, multiplier, self.a, self.b))
        elif multiplier.negative_magnitude:
            m.d.comb += self.o.eq(_negative_magnitude_product(multiplier, self.a, self.b))
        else:
            total = Const(0, self.o.shape())
            for index, term in enumerate(multiplier.terms):
                a = _mapped(m, f"a_{index}", self.a, term.a_mask, term.a_map)
                b = _mapped(m, f"b_{index}", self.b, term.b_mask, term.b_map)
                total = total + a * b if term.sign > 0 else total - a * b
            m.d.comb += self.o.eq(total)
        return m


def _mapped(m: Module, name: str, operand: Value, mask: int | None, mapping: tuple[int, ...]) -> Value:
    """Return an operand's map: as a mask, else looked up."""
    if mask is not None:
        return _masked(operand, mask)
    bits = max(max(mapping).bit_length(), (~min(mapping)).bit_length()) + 1
    found = Signal(signed(bits), name=f"map_{name}")
    # Indexed by the code's byte.
    m.d.comb += found.eq(ValueArray(Const(value, signed(bits)) for value in mapping[128:] + mapping[:128])[operand.as_unsigned()])
    return found


def _masked(operand: Value, mask: int) -> Value:
    # The mask as a signed constant keeps the result signed and 8 bits wide.
    return operand if mask == 0xFF else operand & Const(mask - 256 if mask & 0x80 else mask, signed(8))


def _negative_magnitude_product(multiplier: Multiplier, a: Value, b: Value) -> Value:
    """Return AdaPT's product: of the magnitudes where both operands are negative."""
    (term, *_) = multiplier.terms
    both_negative = a[7] & b[7]

    def operand(value: Value, mask: int) -> Value:
        return _masked(Mux(both_negative, -value, value)[:8].as_signed(), mask)

    return operand(a, term.a_mask) * operand(b, term.b_mask)


def _signed_netlist(m: Module, netlist: GateNetlist, a: Value, b: Value) -> Value:
    return _gates(m, netlist, a, b).as_signed()


def _sign_magnitude(m: Module, netlist: GateNetlist, a: Value, b: Value) -> Value:
    """Return the unsigned product of the magnitudes, negated where the signs differ."""
    magnitudes = [
        _named(m, f"magnitude_{name}", Mux(operand[7], -operand, operand)[:8], 8) for name, operand in (("a", a), ("b", b))
    ]
    product = _gates(m, netlist, *magnitudes)
    return Mux(a[7] ^ b[7], -product, product)


def _gates(m: Module, netlist: GateNetlist, a: Value, b: Value) -> Value:
    """Return the outputs of a netlist, lowest bit first, with a signal for every gate."""
    nodes = [Const(0, 1), Const(1, 1), *a, *b]
    for operation, inputs, name in netlist.gates:
        x, *others = (nodes[source] for source in inputs)
        match operation:
            case "not":
                value = ~x
            case "and":
                value = x & others[0]
            case "or":
                value = x | others[0]
            case "xor":
                value = x ^ others[0]
            case _:
                value = Mux(x, others[1], others[0])
        nodes.append(_named(m, re.sub(r"\W", "_", name), value))
    return Cat(*(nodes[source] for source in netlist.outputs))


def _carry_save_array(m: Module, multiplier: Multiplier, a: Value, b: Value) -> Value:
    """Return the sum of the kept partial products, reduced row by row and finished by a ripple-carry adder.

    A product bit of negative weight (exactly one of i, j is 7) enters complemented, ``-x = (1 - x) - 1``; the ones that this
    adds are subtracted as one constant.
    """
    rows: list[list[list]] = []
    correction = 0
    for i in range(8):
        row: list[list] = [[] for _ in range(PRODUCT_BITS)]
        for j in range(8):
            if multiplier.keeps(i, j):
                product = _named(m, f"pp_{i}_{j}", a[i] & b[j])
                if (i == 7) != (j == 7):
                    product = _named(m, f"npp_{i}_{j}", ~product)
                    correction -= 1 << (i + j)
                row[i + j].append(product)
        rows.append(row)
    correction %= 1 << PRODUCT_BITS
    rows.append([[1] if correction >> k & 1 else [] for k in range(PRODUCT_BITS)])

    # Each column holds at most a sum and a carry between rows, so a row never adds more than three bits in one place.
    columns: list[list] = [[] for _ in range(PRODUCT_BITS)]
    for index, row in enumerate(rows):
        carries: list[list] = [[] for _ in range(PRODUCT_BITS + 1)]
        for k in range(PRODUCT_BITS):
            columns[k], carries[k + 1] = _add_bits(m, f"row{index}_{k}", columns[k] + row[k])
        for k in range(PRODUCT_BITS):
            columns[k] = columns[k] + carries[k]

    result, carry = [], []
    for k in range(PRODUCT_BITS):
        total, carry = _add_bits(m, f"ripple_{k}", columns[k] + carry)
        result.append(total[0] if total else 0)
    return Cat(*(Const(bit, 1) if isinstance(bit, int) else bit for bit in result)).as_signed()


def _add_bits(m: Module, name: str, bits: list) -> tuple[list, list]:
    """Add up to three bits of one column, each a signal or the constant 1; return the sum bit and the carry, where not 0."""
    wires = [bit for bit in bits if not isinstance(bit, int)]
    ones = len(bits) - len(wires)
    match len(wires), ones:
        case (0, _):
            return [1] * (ones & 1), [1] * (ones >> 1)
        case (1, 0):
            return wires, []
        case (1, 1):
            return [_named(m, f"{name}_s", ~wires[0])], wires
        case (1, 2):
            return wires, [1]
        case (2, 0):
            x, y = wires
            return [_named(m, f"{name}_s", x ^ y)], [_named(m, f"{name}_c", x & y)]
        case (2, 1):
            x, y = wires
            return [_named(m, f"{name}_s", ~(x ^ y))], [_named(m, f"{name}_c", x | y)]
        case (3, 0):
            x, y, z = wires
            half = _named(m, f"{name}_h", x ^ y)
            return [_named(m, f"{name}_s", half ^ z)], [_named(m, f"{name}_c", (x & y) | (half & z))]
    raise AssertionError(f"a column of {len(wires)} signals and {ones} ones cannot occur")


def _named(m: Module, name: str, value: Value, width: int = 1) -> Signal:
    signal = Signal(width, name=name)
    m.d.comb += signal.eq(value)
    return signal
