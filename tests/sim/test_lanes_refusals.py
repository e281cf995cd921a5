"""What the lane generator refuses, each in one sentence that names the cell or net: small designs of Amaranth and of Yosys."""

import re

import pytest
from amaranth.hdl import ClockDomain, Elaboratable, Module, Signal
from amaranth.lib.memory import Memory

from sim.lanes.design import compile_design
from sim.lanes.elaborate import read_rtlil
from sim.lanes.gates import UnsupportedDesign

WIRES = """
module \\small
  wire input 1 \\clk
  wire input 2 \\rst
  wire input 3 width 2 \\d
  wire width 2 \\p
  wire output 4 width 2 \\q
"""
LATCH = """
  cell $dlatch $1
    parameter \\WIDTH 2
    parameter \\EN_POLARITY 1'1
    connect \\EN \\rst
    connect \\D \\d
    connect \\Q \\q
  end
"""
#: As a latch is written of gates: Amaranth has no word for it, Yosys reads it.
LOOP = """
  cell $and $1
    parameter \\A_SIGNED 0
    parameter \\B_SIGNED 0
    parameter \\A_WIDTH 2
    parameter \\B_WIDTH 2
    parameter \\Y_WIDTH 2
    connect \\A \\q
    connect \\B \\d
    connect \\Y \\p
  end
  cell $or $2
    parameter \\A_SIGNED 0
    parameter \\B_SIGNED 0
    parameter \\A_WIDTH 2
    parameter \\B_WIDTH 2
    parameter \\Y_WIDTH 2
    connect \\A \\p
    connect \\B { \\rst \\rst }
    connect \\Y \\q
  end
"""
MEMORY = """
  memory width 2 size 4 \\table
  cell $memrd_v2 $1
    parameter \\MEMID "\\\\table"
    parameter \\ABITS 2
    parameter \\WIDTH 2
    parameter \\CLK_ENABLE 1'1
    parameter \\CLK_POLARITY 1'1
    parameter \\TRANSPARENCY_MASK 0'
    parameter \\COLLISION_X_MASK 0'
    parameter \\ARST_VALUE 2'00
    parameter \\SRST_VALUE 2'00
    parameter \\INIT_VALUE 2'00
    parameter \\CE_OVER_SRST 1'0
    connect \\CLK \\clk
    connect \\EN 1'1
    connect \\ARST {arst}
    connect \\SRST 1'0
    connect \\ADDR \\d
    connect \\DATA \\q
  end
  cell $memwr_v2 $2
    parameter \\MEMID "\\\\table"
    parameter \\ABITS 2
    parameter \\WIDTH 2
    parameter \\CLK_ENABLE 1'1
    parameter \\CLK_POLARITY 1'{edge}
    parameter \\PORTID 0
    parameter \\PRIORITY_MASK 0'
    connect \\CLK \\clk
    connect \\EN 2'11
    connect \\ADDR \\d
    connect \\DATA \\d
  end
"""


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (LATCH, "The lane generator does not know the latch q[0] of type $dlatch"),
        (LOOP, "small has a combinational loop through the net q[0]"),
        (
            MEMORY.replace("{arst}", "\\rst").replace("{edge}", "1"),
            "The lane generator does not know the asynchronous reset of the memory table",
        ),
        (MEMORY.replace("{arst}", "1'0").replace("{edge}", "0"), "table is not clocked by the rising edge of clk"),
    ],
    ids=["latch", "loop", "asynchronous reset", "falling edge"],
)
def test_netlist_of_yosys_is_refused_by_name(body, sentence):
    with pytest.raises(UnsupportedDesign) as refused:
        read_rtlil(f"{WIRES}{body}end\n", "small")
    assert str(refused.value) == sentence


def test_the_memory_itself_is_known():
    """So that the refusals above are not of something else."""
    netlist = read_rtlil(WIRES + MEMORY.replace("{arst}", "1'0").replace("{edge}", "1") + "end\n", "small")
    (memory,) = netlist.memories
    assert (memory.name, memory.width, memory.depth, len(memory.reads), len(memory.writes)) == ("table", 2, 4, 1, 1)


a, x = Signal(2, name="a"), Signal(2, name="x")
clocked = ClockDomain("sync", async_reset=True)


class AsynchronousReset(Elaboratable):
    def elaborate(self, platform):
        m = Module()
        m.domains += clocked
        m.d.sync += x.eq(a)
        return m


class MixedTransparency(Elaboratable):
    """A read that sees what the second write port writes in the same cycle, and not what the first one writes."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = memory = Memory(shape=2, depth=4, init=[])
        first, second = memory.write_port(), memory.write_port()
        read = memory.read_port(transparent_for=[second])
        m.d.comb += [port.data.eq(a) for port in (first, second)]
        m.d.comb += [port.en.eq(1) for port in (first, second)]
        m.d.comb += x.eq(read.data)
        return m


@pytest.mark.parametrize(
    ("design", "ports", "message"),
    [
        (AsynchronousReset, {"clk": clocked.clk, "rst": clocked.rst}, r"does not know the flip-flop x\[0\] of type \$adff"),
        (MixedTransparency, {}, "does not know the mixed transparency of the memory table"),
    ],
)
def test_design_of_amaranth_is_refused_by_name(design, ports, message):
    with pytest.raises(UnsupportedDesign) as refused:
        compile_design(design(), ports | {"a": a, "x": x}, varying_inputs={"a"})
    assert re.search(message, str(refused.value)), refused.value
