"""Names of the nets that can be stuck: one each, from the hardware description, whatever Yosys calls them."""

import re

import pytest

from epsilon.config import ArrayConfig
from hdl.pe import ProcessingElement
from hdl.shared import named_ports, to_rtlil
from sim.lanes.elaborate import read_rtlil
from sim.lanes.gates import Graph
from sim.lanes.kinds import Kind
from sim.lanes.names import name_nets
from sim.lanes.plan import Varying


def net_names(config, change=lambda text: text):
    pe = ProcessingElement(config)
    netlist = read_rtlil(change(to_rtlil(pe, "pe", named_ports(pe), platform=None)), "pe", literal=True)
    everything = Varying(netlist, bytearray(node > 1 for node in range(len(netlist.graph))))
    return Kind("kind", netlist, everything, forced=True).net_names()


@pytest.mark.parametrize("level", ["words", "gates"])
def test_every_net_of_a_pe_has_a_name_of_its_own(level):
    names = net_names(ArrayConfig(rows=1, cols=1, level=level))
    assert len(set(names)) == len(names) > 700
    assert not [name for name in names if "$" in name]
    assert {f"active[{bit}]" for bit in range(8)} | {f"psum[{bit}]" for bit in range(32)} <= set(names)
    # What has no name is called by what it computes.
    assert {"psum.d[31]/0", "faults.d[15]/0"} <= set(names)
    if level == "gates":
        assert {"multiplier.pp_1_3", "multiplier.row6_6_h"} <= set(names)


def test_names_do_not_depend_on_the_numbers_of_a_synthesis_program():
    """The same netlist with every number that Amaranth made up changed."""
    config = ArrayConfig(rows=1, cols=1, level="gates")

    def renumbered(text):
        changed = re.sub(r"\$(\d+)\b", lambda match: f"${int(match[1]) + 5000}", text)
        assert changed != text
        return changed

    assert net_names(config, renumbered) == net_names(config)


def test_nets_are_called_by_the_first_that_they_are_part_of():
    graph = Graph(literal=True)
    a, b, c = (graph.source(("input", name, 0)) for name in "abc")
    inner = graph.and_(a, b)
    middle = graph.xor(inner, c)
    outer = graph.or_(middle, graph.not_(inner))
    result = graph.xor(outer, a)
    named = {a: "a", b: "b", c: "c", middle: "m[0]"}
    assert name_nets(graph, named, [("q.d[1]", result)]) == {
        **named,
        inner: "m[0]/0",
        graph.not_(inner): "q.d[1]/0",
        outer: "q.d[1]/1",
        result: "q.d[1]/2",
    }
