"""Lanes in which little changes: what is not renewed must be what it would have become."""

from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.hdl import Cat, ClockDomain, ClockSignal, Elaboratable, Instance, Module, ResetSignal, Signal
from lane_bench import in_lane, in_lanes, simulated

from sim.lanes import backend as backends
from sim.lanes.design import compile_design

CELLS = 3
CYCLES = 240
DATA = {"x": 4, "word": 5}
CONTROL = ("shift", "swap", "rst")


def cell_wires() -> SimpleNamespace:
    """Return the ports of a cell."""
    widths = {"x": 4, "sum": 6, "word": 5, "shift": 1, "swap": 1}
    outputs = {f"{name}_out": Signal(widths[name], name=f"{name}_out", reset_less=True) for name in ("x", "sum", "word")}
    inputs = {name: Signal(width, name=name) for name, width in widths.items()}
    return SimpleNamespace(**inputs, **outputs, total_out=Signal(3, name="total_out", init=5))


class Cell(Elaboratable):
    """Registers with and without an enable that read each other, as in a processing element."""

    def __init__(self, wires: SimpleNamespace) -> None:
        self._wires = wires

    def elaborate(self, platform):
        wires = self._wires
        m = Module()
        held, active, mask = Signal(5, reset_less=True), Signal(5), Signal(5, init=9)
        seen = active & ~mask
        m.d.sync += [wires.x_out.eq(wires.x), wires.sum_out.eq(wires.sum + wires.x_out * seen[:2] + seen)]
        with m.If(wires.shift):
            m.d.sync += [wires.word_out.eq(held), held.eq(wires.word), wires.total_out.eq(wires.total_out + seen)]
        with m.Elif(wires.swap):
            m.d.sync += [active.eq(held), held.eq(seen), mask.eq(mask ^ wires.word)]
        return m


class Chain(Elaboratable):
    """Cells one after the other, instances for a platform (any), else modules; then delay lines, one of them long."""

    def __init__(self, long: int = 70):
        self._long = long
        self.domain = ClockDomain("sync")
        self.inputs = {name: Signal(width, name=name) for name, width in DATA.items()}
        self.inputs |= {name: Signal(name=name) for name in CONTROL[:2]} | {"rst": self.domain.rst}
        self.outputs = {
            name: Signal(width, name=f"out_{name}") for name, width in (("sum", 6), ("word", 5), ("total", 3), ("x", 4))
        }
        self.ports = {"clk": self.domain.clk, **self.inputs, **{signal.name: signal for signal in self.outputs.values()}}

    def elaborate(self, platform):
        m = Module()
        m.domains += self.domain
        x, word, total = self.inputs["x"], self.inputs["word"], 0
        sums = 0
        for index in range(CELLS):
            cell = cell_wires()
            m.d.comb += [cell.x.eq(x), cell.word.eq(word), cell.sum.eq(sums)]
            m.d.comb += [cell.shift.eq(self.inputs["shift"]), cell.swap.eq(self.inputs["swap"])]
            if platform is None:
                m.submodules[f"cell{index}"] = Cell(cell)
            else:
                ports = {f"{'o' if name.endswith('_out') else 'i'}_{name}": signal for name, signal in vars(cell).items()}
                m.submodules[f"cell{index}"] = Instance("cell", i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
            x, word, sums, total = cell.x_out, cell.word_out, cell.sum_out, total ^ cell.total_out
        m.d.comb += [self.outputs["total"].eq(total)]
        for name, value, stages in (("sum", sums, 3), ("word", word, 9), ("x", x, self._long)):
            for stage in range(stages):
                # Of the short line, every stage has a reset; of the others the first.
                register = Signal(value.shape(), name=f"{name}_{stage}", reset_less=stage > 0 and name != "sum")
                m.d.sync += register.eq(value)
                value = register
            m.d.comb += self.outputs[name].eq(value)
        return m


def held_inputs(lanes: int) -> list[dict]:
    """Return the inputs that are new in each cycle: many, then for a long time none, over and over; a reset in between."""
    rng = np.random.default_rng(8)
    cycles = []
    for cycle in range(CYCLES):
        busy = 0.5 if cycle % 120 < 20 else 0.02
        new = {name: rng.integers(0, 1 << width, lanes, dtype=np.uint64) for name, width in DATA.items() if rng.random() < busy}
        control = {name: int(rng.random() < (0.4 if cycle % 40 < 25 else 0)) for name in CONTROL[:2]}
        cycles.append(new | control | {"rst": int(cycle in (0, 150, 151))})
    return cycles


@pytest.mark.parametrize("backend", backends.available())
def test_held_inputs_equal_amaranth(backend):
    module, cell = Chain(), cell_wires()
    shared = {"cell": (Cell(cell), vars(cell))}
    design = compile_design(module, module.ports, varying_inputs=set(DATA), shared=shared, platform=object(), backend=backend)
    cycles = held_inputs(design.lanes)
    assert all(name in design.ports for inputs in cycles for name in inputs)
    seen = in_lanes(design, module.outputs.values(), cycles)
    for lane in (0, design.lanes - 1):
        plain = Chain()
        mine = [[in_lane(value, lane) for value in outputs] for outputs in seen]
        assert mine == simulated(plain, plain.inputs, plain.outputs.values(), cycles, lane)


class Compared(Elaboratable):
    """A comparison whose carry meets a half sum of what is the same in all lanes."""

    def __init__(self) -> None:
        self.domain = ClockDomain("sync")
        self.inputs = {name: Signal(width, name=name) for name, width in (("varied", 3), ("same", 1), ("limit", 4))}
        self.outputs = [Signal(name="less"), Signal(name="half")]
        self.ports = {"clk": self.domain.clk, "rst": self.domain.rst, **self.inputs, **{o.name: o for o in self.outputs}}

    def elaborate(self, platform):
        m = Module()
        m.domains += self.domain
        varied, same, limit = self.inputs.values()
        m.d.sync += self.outputs[0].eq(Cat(same, varied) < limit)
        m.d.comb += self.outputs[1].eq(limit[1] ^ (~same & limit[0]))
        return m


@pytest.mark.parametrize("backend", backends.available())
def test_half_sum_of_scalars_equals_amaranth(backend):
    module, plain = Compared(), Compared()
    design = compile_design(module, module.ports, varying_inputs={"varied"}, backend=backend)
    rng = np.random.default_rng(4)
    varied = rng.integers(0, 8, (40, design.lanes), dtype=np.uint64)
    cycles = [{"varied": new, "same": int(rng.integers(2)), "limit": int(rng.integers(16))} for new in varied]
    seen = in_lanes(design, module.outputs, cycles)
    mine = [[in_lane(value, 1) for value in outputs] for outputs in seen]
    assert mine == simulated(plain, plain.inputs, plain.outputs, cycles, 1)
