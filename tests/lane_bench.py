"""A small design in Amaranth's simulator and in bit lanes, driven alike."""

from collections.abc import Iterable, Mapping

import numpy as np
from amaranth.hdl import Signal
from amaranth.sim import Simulator


def in_lane(value, lane: int) -> int:
    """Return what a lane has of a value, which is one for all or an array of one per lane."""
    return int(value if np.isscalar(value) else value[lane])


def simulated(module, inputs: Mapping[str, Signal], outputs: Iterable[Signal], cycles: list[dict], lane: int) -> list[list[int]]:
    """Return the outputs in every cycle as Amaranth's simulator has them, unsigned; ``module`` has a ``domain``."""
    outputs, seen = list(outputs), []

    async def bench(ctx):
        for given in cycles:
            for name, value in given.items():
                target, value = inputs[name], in_lane(value, lane)
                sign = 1 << len(target) - 1
                ctx.set(target, (value ^ sign) - sign if target.shape().signed else value)
            await ctx.delay(1e-7)
            seen.append([int(ctx.get(output)) % (1 << len(output)) for output in outputs])
            ctx.set(module.domain.clk, 1)
            await ctx.delay(1e-7)
            ctx.set(module.domain.clk, 0)

    simulator = Simulator(module)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


def in_lanes(design, outputs: Iterable[Signal], cycles: list[dict]) -> list[list]:
    """Return the outputs of a compiled design in every cycle, each one value or one per lane; inputs it has not are left out."""
    outputs, seen = list(outputs), []
    for given in cycles:
        for name, value in given.items():
            if name in design.ports:
                design.set(name, value)
        design.settle()
        seen.append([design.get(output.name) for output in outputs])
        design.edge()
    return seen
