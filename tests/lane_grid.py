"""A small systolic array of nodes that are instances, or modules of their own, and what to drive it with."""

import random
from types import SimpleNamespace

import numpy as np
from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module, Mux, ResetSignal, Signal, signed

CYCLES = 90
SUM_BITS = 10


def node_wires(begin: int = 0) -> SimpleNamespace:
    """Return the ports of a node, and what it hands on as data at power-up."""
    shapes = {"op": 3, "data": signed(4), "sum": signed(SUM_BITS), "word": 4}
    inputs = {name: Signal(shape, name=name) for name, shape in (shapes | {"side": 3}).items()}
    outputs = {name: Signal(shape, name=f"{name}_out", reset_less=True) for name, shape in shapes.items()}
    outputs["data"] = Signal(shapes["data"], name="data_out", reset_less=True, init=begin)
    return SimpleNamespace(**inputs, **{f"{name}_out": signal for name, signal in outputs.items()})


class Node(Elaboratable):
    """A processing element: operations and data go to the right, sums and words downwards, three bits of a sum also to the right.

    ``restless`` sums grow by themselves.
    """

    def __init__(self, wires: SimpleNamespace, *, restless: bool = False) -> None:
        self._wires = wires
        self._restless = restless

    def elaborate(self, platform):
        wires = self._wires
        m = Module()
        held, active = Signal(4, reset_less=True), Signal(signed(4), reset_less=True)
        op = Signal(3)  # has a reset
        m.d.sync += [op.eq(wires.op), wires.data_out.eq(wires.data)]
        m.d.comb += wires.op_out.eq(op)
        m.d.sync += wires.sum_out.eq(wires.sum + wires.data_out * active + wires.side + int(self._restless))
        with m.If(wires.op[0]):
            m.d.sync += [wires.word_out.eq(held), held.eq(wires.word)]
        with m.Elif(wires.op[1]):
            m.d.sync += [active.eq(held ^ wires.op[2]), held.eq(active)]
        return m


class Grid(Elaboratable):
    """Rows and columns of nodes with registers that skew what goes in and comes out; nodes are instances for a platform (any).

    Parameters
    ----------
    seed : int
        Chooses the size, and which registers have a reset.
    straight : bool
        Leave the registers behind the columns out.
    restless : bool
        See ``Node``.
    first : int
        What the top row adds to.
    begin : int
        See ``node_wires``.
    """

    def __init__(self, seed: int, *, straight: bool = False, restless: bool = False, first: int = 0, begin: int = 0) -> None:
        self._random = random.Random(seed)
        self.rows, self.cols = self._random.randrange(1, 5), self._random.randrange(2, 5)
        self._straight, self._restless, self._first, self._begin = straight, restless, first, begin
        self.domain = ClockDomain("sync")
        self.varying = {f"data{r}": Signal(signed(4), name=f"data{r}") for r in range(self.rows)}
        self.varying |= {f"word{c}": Signal(4, name=f"word{c}") for c in range(self.cols)}
        self.inputs = {**self.varying, "op": Signal(3, name="op"), "rst": self.domain.rst}
        shapes = {"total": signed(SUM_BITS + 2), "word": 4, "shown": signed(SUM_BITS), "late": 4}
        self.outputs = [Signal(shape, name=f"out_{name}{c}") for c in range(self.cols) for name, shape in shapes.items()]
        self.outputs.append(Signal(3, name="out_op"))
        self.ports = {"clk": self.domain.clk, **self.inputs, **{output.name: output for output in self.outputs}}

    def node(self) -> tuple[Node, dict]:
        wires = node_wires(self._begin)
        return Node(wires, restless=self._restless), vars(wires)

    def _delayed(self, m: Module, name: str, value, cycles: int, *, plain: bool = False):
        for stage in range(cycles):
            register = Signal(value.shape(), name=f"{name}_{stage}", reset_less=plain or self._random.random() < 0.7)
            m.d.sync += register.eq(value)
            value = register
        return value

    def elaborate(self, platform):
        m = Module()
        m.domains += self.domain
        words = [self._delayed(m, f"word{c}", self.inputs[f"word{c}"], c) for c in range(self.cols)]
        sums = [self._first] * self.cols
        op = self.inputs["op"]
        for r in range(self.rows):
            operation, data, side = op, self._delayed(m, f"data{r}", self.inputs[f"data{r}"], r), 0
            for c in range(self.cols):
                wires = node_wires(self._begin)
                m.d.comb += [wires.op.eq(operation), wires.data.eq(data), wires.sum.eq(sums[c]), wires.word.eq(words[c])]
                m.d.comb += wires.side.eq(side)
                if platform is None:
                    m.submodules[f"node{r}_{c}"] = Node(wires, restless=self._restless)
                else:
                    ports = {f"{'o' if name.endswith('_out') else 'i'}_{name}": signal for name, signal in vars(wires).items()}
                    m.submodules[f"node{r}_{c}"] = Instance("node", i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
                operation, data, sums[c], words[c] = wires.op_out, wires.data_out, wires.sum_out, wires.word_out
                side = wires.sum_out[2:5]
            op = self._delayed(m, f"op{r}", op, 1)
        m.d.comb += self.outputs[-1].eq(operation)
        outputs = iter(self.outputs)
        for c in range(self.cols):
            late = 0 if self._straight else self.cols - 1 - c
            total = Signal(signed(SUM_BITS + 2), name=f"total{c}")
            column = self._delayed(m, f"sum{c}", sums[c], late, plain=True)
            m.d.sync += total.eq(Mux(self.inputs["op"][0], 0, total) + column)
            word = self._delayed(m, f"scan{c}", words[c], late, plain=True)
            # A delay line of which a reset clears the end alone.
            last = Signal(4, name=f"last{c}")
            m.d.sync += last.eq(self._delayed(m, f"late{c}", word, 3, plain=True))
            m.d.comb += [next(outputs).eq(value) for value in (total, word ^ 5, column, last)]
        return m


def stimulus(grid: Grid, lanes: int, seed: int) -> list[dict]:
    """Return the inputs that are new in each cycle: busy and idle times, resets while much is under way."""
    rng = np.random.default_rng(seed)
    cycles = []
    for cycle in range(CYCLES):
        busy = 0.8 if cycle % 45 < 30 else 0.03
        new = {name: rng.integers(0, 16, lanes, dtype=np.uint64) for name in grid.varying if rng.random() < busy}
        new["op"] = int(rng.integers(0, 8)) if rng.random() < busy else 0
        cycles.append(new | {"rst": int(cycle in (0, 24, 70))})
    return cycles
