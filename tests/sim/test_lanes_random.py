"""Random small Amaranth modules (registers, memories, muxes, arithmetic, resets, enables, submodules), lane by lane."""

import random

import numpy as np
import pytest
from amaranth.hdl import Cat, ClockDomain, Elaboratable, EnableInserter, Module, Mux, ResetInserter, Signal, Value, signed, unsigned
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from lane_bench import in_lane, in_lanes, simulated

from sim.lanes import backend as backends
from sim.lanes.design import compile_design

CYCLES = 24
LANES_COMPARED = 3
#: The inputs, the first group different in every lane.
VARYING = {"a": signed(8), "b": unsigned(7), "c": signed(3)}
SCALAR = {"enable": unsigned(1), "select": unsigned(3), "address": unsigned(3), "write": unsigned(1)}


class RandomModule(Elaboratable):
    """A module made from a seed; ``ports`` has its inputs, ``rst`` and its outputs."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.domain = ClockDomain("sync")
        self.inputs = {name: Signal(shape, name=name) for name, shape in (VARYING | SCALAR).items()}
        self.outputs = [Signal(self._shape(), name=f"o{index}") for index in range(10)]
        self.ports = {"clk": self.domain.clk, "rst": self.domain.rst, **self.inputs, **{o.name: o for o in self.outputs}}

    def elaborate(self, platform):
        m = Module()
        m.domains += self.domain
        pool = list(self.inputs.values())
        scalars = [self.inputs[name] for name in SCALAR]
        registers = [self._register(f"r{index}") for index in range(6)]
        pool += registers
        counter = self._register("counter", unsigned(3))
        scalars.append(counter)
        m.d.sync += counter.eq(counter + self._expression(scalars, 2))
        for index in range(3):
            wire = Signal(self._shape(), name=f"w{index}")
            self._assign(m, m.d.comb, wire, pool, scalars)
            pool.append(wire)
        pool += self._memory(m, "unseen", pool, transparent=False) + self._memory(m, "seen", pool, transparent=True)
        pool.append(self._fifo(m, pool))
        pool += [self._controlled(m, f"controlled{index}", pool, controls) for index, controls in enumerate((scalars, pool))]
        for register in registers:
            self._assign(m, m.d.sync, register, pool, scalars)
        # A delay line, its first stage with a reset of its own.
        value = self._expression(pool, 2)
        for stage in range(self._random.randrange(2, 6)):
            register = Signal(6, name=f"delay{stage}", reset_less=stage > 1)
            m.d.sync += register.eq(value)
            value = register
        m.d.comb += self.outputs[0].eq(value)
        for output in self.outputs[1:]:
            m.d.comb += output.eq(self._expression(pool, 3))
        return m

    def _shape(self):
        width = self._random.randrange(1, 12)
        return self._random.choice([unsigned, signed])(width)

    def _register(self, name: str, shape=None) -> Signal:
        shape = shape or self._shape()
        init = self._random.randrange(1 << shape.width - 1) if self._random.random() < 0.5 else 0
        return Signal(shape, name=name, init=init, reset_less=self._random.random() < 0.4)

    def _assign(self, m: Module, domain, target: Signal, pool: list, scalars: list) -> None:
        """Assign under a condition that is the same in all lanes, or not, or under a switch."""
        kind = self._random.randrange(4)
        condition = self._expression(scalars if kind < 2 else pool, 1)
        if kind == 3:
            with m.Switch(Cat(condition, condition.any())[:2]):
                for case in range(self._random.randrange(1, 4)):
                    with m.Case(case):
                        domain += target.eq(self._expression(pool, 2))
                with m.Default():
                    domain += target.eq(self._expression(pool, 1))
            return
        with m.If(condition.any()):
            domain += target.eq(self._expression(pool, 3))
        if kind % 2:
            with m.Elif(self._random.choice(scalars)[0]):
                domain += target[:1].eq(self._expression(pool, 2))

    def _memory(self, m: Module, name: str, pool: list, *, transparent: bool) -> list:
        depth = self._random.choice([5, 8])
        memory = Memory(shape=unsigned(6), depth=depth, init=[self._random.randrange(64) for _ in range(depth)])
        m.submodules[name] = memory
        write = memory.write_port(granularity=self._random.choice([None, 3]))
        read = memory.read_port(transparent_for=[write] if transparent else [])
        fetch = memory.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.inputs["address"]),
            write.data.eq(self._expression(pool, 2)),
            write.en.eq(self.inputs["select"]),
            read.addr.eq(self.inputs["address"] ^ self.inputs["select"][:1]),
            # Amaranth's simulator, unlike the netlist, clears a read port at a reset unless it reads.
            read.en.eq(self.inputs["enable"] | self.domain.rst),
            fetch.addr.eq(self.inputs["select"]),
        ]
        return [read.data, fetch.data]

    def _fifo(self, m: Module, pool: list) -> Value:
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=5, depth=3)
        m.d.comb += [
            fifo.w_data.eq(self._expression(pool, 1)),
            fifo.w_en.eq(self.inputs["write"]),
            fifo.r_en.eq(self.inputs["enable"]),
        ]
        return Mux(fifo.r_rdy, fifo.r_data, 0)

    def _controlled(self, m: Module, name: str, pool: list, controls: list) -> Value:
        """Return a register of a submodule with an enable and a reset of its own, either of which may go before the other."""
        part = Module()
        register = self._register(name)
        part.d.sync += register.eq(register + self._expression(pool, 1))
        enable, reset = Signal(name=f"{name}_enable"), Signal(name=f"{name}_reset")
        m.d.comb += [enable.eq(self._expression(controls, 1).any()), reset.eq(self._expression(controls, 1).all())]
        inserters = [EnableInserter(enable), ResetInserter(reset)]
        self._random.shuffle(inserters)
        for inserter in inserters:
            part = inserter(part)
        m.submodules[name] = part
        return register

    def _expression(self, pool: list, depth: int) -> Value:
        rng = self._random
        if depth == 0:
            return rng.choice(pool)
        x, y = self._expression(pool, depth - 1), self._expression(pool, rng.randrange(depth))
        match rng.randrange(25):
            case 0:
                return x + y
            case 1:
                return x - y
            case 2:
                return x[:9] * y[:5].as_signed()
            case 3:
                return x[:5] * y[:6]
            case 4:
                return x & y
            case 5:
                return x | ~y
            case 6:
                return x ^ y
            case 7:
                return Mux(self._expression(pool, 0), x, y)
            case 8:
                return x < y
            case 9:
                return x >= y
            case 10:
                return x == y
            case 11:
                return x >> y[:3]
            case 12:
                return x << y[:2]
            case 13:
                return Cat(x[:4], y[-1:], y.xor(), x.all())
            case 14:
                return -x
            case 15:
                return x.as_signed() >> y[:2]
            case 16:
                return x.bit_select(y[:3], 2)
            case 17:
                return x.word_select(y[:2], 3)
            case 18:
                return x != y
            case 19:
                return Mux(x > y, x, y)
            case 20:
                return Mux(x <= y, x, y)
            case 21:
                return abs(x)
            case 22:
                return x.any().replicate(3) ^ y
            case 23:
                return x.as_unsigned().rotate_left(rng.randrange(4)) & (y.bool() | y.xor())
            case _:
                return x[len(x) // 2 :]


def stimulus(seed: int, lanes: int) -> list[dict]:
    """Return the inputs of every cycle: an int, or an array (lanes,)."""
    rng = np.random.default_rng(seed)
    cycles = []
    for cycle in range(CYCLES):
        inputs = {name: rng.integers(0, 1 << shape.width, lanes, dtype=np.uint64) for name, shape in VARYING.items()}
        inputs |= {name: int(rng.integers(0, 1 << shape.width)) for name, shape in SCALAR.items()}
        cycles.append(inputs | {"rst": int(cycle in (0, 15))})
    return cycles


@pytest.mark.parametrize("seed", range(12))
def test_random_module_equals_amaranth(seed):
    module = RandomModule(seed)
    names = backends.available()
    design = compile_design(module, module.ports, varying_inputs=set(VARYING), backend=names[seed % len(names)])
    cycles = stimulus(seed, design.lanes)
    seen = in_lanes(design, module.outputs, cycles)
    for lane in np.linspace(0, design.lanes - 1, LANES_COMPARED).astype(int):
        plain = RandomModule(seed)
        expected = simulated(plain, plain.ports, plain.outputs, cycles, lane)
        for cycle in range(CYCLES):
            mine = [in_lane(value, lane) for value in seen[cycle]]
            assert mine == expected[cycle], f"seed {seed}, lane {lane}, cycle {cycle}"
