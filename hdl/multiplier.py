"""The multiplier of a processing element, generated from the mask of kept partial products.

Ref: C. R. Baugh, B. A. Wooley, "A two's complement parallel array multiplication algorithm", IEEE Trans. Computers C-22(12), 1973.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

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
        ``gates``: carry-save array of half and full adders over the kept partial products, as in the published circuits.
        ``words``: sum of at most five products of masked operands; the same function, for fast simulation.

    Members
    -------
    a : In(signed(8)), the activation.
    b : In(signed(8)), the weight.
    o : Out(signed(16)), the product.
    """

    a: In(signed(8))
    b: In(signed(8))
    o: Out(signed(PRODUCT_BITS))

    def __init__(self, multiplier: Multiplier, *, level: str = "gates"):
        if level not in LEVELS:
            raise ValueError(f"The level of a multiplier must be one of {', '.join(LEVELS)}, not {level!r}")
        if level == "gates" and not multiplier.is_circuit:
            raise ValueError(f"{multiplier.key} is a table without a netlist: use the level 'words'")
        self._multiplier = multiplier
        self._level = level
        super().__init__()

    @property
    def multiplier(self) -> Multiplier:
        return self._multiplier

    @property
    def level(self) -> str:
        return self._level

    def elaborate(self, platform):
        m = Module()
        if self._level == "gates":
            m.d.comb += self.o.eq(_carry_save_array(m, self._multiplier, self.a, self.b))
        elif self._multiplier.negative_magnitude:
            m.d.comb += self.o.eq(_negative_magnitude_product(self._multiplier, self.a, self.b))
        else:
            products = [_masked(self.a, t.a_mask) * _masked(self.b, t.b_mask) for t in self._multiplier.terms]
            m.d.comb += self.o.eq(sum(products, Const(0, signed(PRODUCT_BITS))))
        return m


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


def _named(m: Module, name: str, value: Value) -> Signal:
    signal = Signal(name=name)
    m.d.comb += signal.eq(value)
    return signal
