"""The command line: what it prints, and one sentence with exit code 2 for everything that a user can get wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import epsilon, refused
from PIL import Image

from epsilon.multipliers import catalogue
from epsilon.network_io import load, save


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "copy.safetensors"
    save(load("digits"), path)
    return path


def test_help_names_every_command_and_imports_nothing_heavy():
    script = (
        "import sys, epsilon.cli\n"
        "try: epsilon.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'amaranth', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for command in (
        "demo",
        "run",
        "crosscheck",
        "multipliers",
        "verilog",
        "train",
        "import",
        "networks",
        "data",
        "energy",
        "bench",
    ):
        assert f" {command} " in done.stdout
    assert done.stderr.strip() == "[]"


def test_multipliers_shows_all_circuits():
    shown = epsilon("multipliers").stdout
    for key in catalogue():
        assert key in shown


def test_multipliers_csv_holds_the_figures():
    rows = list(csv.DictReader(io.StringIO(epsilon("multipliers", "--csv", "-").stdout)))
    assert [row["multiplier"] for row in rows] == list(catalogue())
    kvp = next(row for row in rows if row["multiplier"] == "v2022/mul8s_1KVP")
    assert (float(kvp["mae"]), int(kvp["wce"]), float(kvp["power_mw"])) == (33.28125, 137, 0.363)
    table = next(row for row in rows if row["multiplier"].startswith("adapt/"))
    assert table["power_mw"] == ""


def test_multipliers_csv_file(tmp_path):
    assert epsilon("multipliers", "--csv", tmp_path / "m.csv").exit_code == 0
    assert (tmp_path / "m.csv").read_text() == epsilon("multipliers", "--csv", "-").stdout
    assert "No such file" in refused("multipliers", "--csv", tmp_path / "missing" / "m.csv")


def test_verilog_writes_one_file(tmp_path):
    result = epsilon("verilog", "--rows", 2, "--cols", 3, "--multiplier", "L2N", "-o", tmp_path / "a.v")
    assert result.exit_code == 0, result.stderr
    assert "2x3 PEs, v2022/mul8s_1L2N" in result.stdout
    assert "endmodule" in (tmp_path / "a.v").read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.v"]


@pytest.mark.parametrize("sides", [("--rows", 0), ("--cols", 0), ("--rows", 65), ("--cols", -1)])
def test_verilog_of_an_impossible_array(tmp_path, sides):
    sentence = refused("verilog", *sides, "-o", tmp_path / "a.v")
    assert sentence == f"The number of array {sides[0][2:]} must be an integer from 1 to 64, not {sides[1]}"
    assert not list(tmp_path.iterdir())


def test_verilog_keeps_the_old_file_when_it_cannot_write_a_new_one(tmp_path):
    (tmp_path / "a.v").write_text("old")
    refused("verilog", "--multiplier", "nonsense", "-o", tmp_path / "a.v")
    assert (tmp_path / "a.v").read_text() == "old"


def test_unknown_multiplier_names_the_near_ones():
    for command in (["run"], ["crosscheck"], ["verilog", "-o", "/dev/null"]):
        sentence = refused(*command, "--multiplier", "KVB")
        assert sentence.startswith("Unknown multiplier 'KVB'; did you mean")
        assert "KVP" in sentence or "v1/mul8s_1KVB" in sentence


@pytest.mark.parametrize("rate", ["1.5", "-0.1", "nan"])
@pytest.mark.parametrize("command", ["run", "crosscheck"])
def test_fault_rate_out_of_range(command, rate):
    assert refused(command, "--faults", rate) == f"The fault rate must be a number from 0 to 1, not {float(rate)}"


def test_other_fault_options_out_of_range():
    assert "site of faults must be one of storage, array" in refused("run", "--faults", 0.1, "--site", "cache")
    assert "polarity of stuck bits must be 0, 1 or 'both'" in refused("run", "--faults", 0.1, "--polarity", 2)
    assert "no weighted layer 'nowhere'" in refused("run", "--faults", 0.1, "--layers", "nowhere")


def test_unknown_words_are_refused():
    assert "one of emulator, rtl" in refused("run", "--on", "fpga")
    assert "technique must be one of" in refused("run", "--repair", "magic")
    assert "repair must be one of" in refused("crosscheck", "--repair", "magic")
    assert "gamma must be a number from 0 to 1" in refused("run", "--gamma", 7)
    assert "takes no option" in refused("run", "--repair", "clip", "--target", "golden")
    assert "level of the array must be one of" in refused("run", "--level", "atoms")


def test_more_images_than_there_are():
    sentence = refused("run", "--images", 100_000)
    assert sentence == "The test split of digits has 597 images: the number must lie in 1..597, not 100000"


def test_waves_need_the_simulated_hardware(tmp_path):
    assert "--on rtl" in refused("run", "--waves", tmp_path / "w.vcd")
    assert not list(tmp_path.iterdir())


def test_missing_network():
    assert "no network file 'nothing.safetensors'" in refused("run", "--network", "nothing.safetensors")


@pytest.mark.parametrize("damage", ["cut", "bit", "foreign", "empty"])
def test_damaged_network_file(tmp_path, digits_file, damage):
    content = bytearray(digits_file.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "bit":
        content[-10] ^= 4
    elif damage == "foreign":
        content = b"\x89PNG\r\n\x1a\n" * 20
    else:
        content = b""
    path = tmp_path / "network.safetensors"
    path.write_bytes(content)
    output = tmp_path / "result.json"
    assert str(path) in refused("run", "--network", path, "--json", output)
    assert not output.exists()


def test_network_from_a_file_runs_like_the_built_in_one(tmp_path, digits_file):
    for name, source in (("file", digits_file), ("builtin", "digits")):
        assert epsilon("run", "--network", source, "--images", 20, "--json", tmp_path / f"{name}.json").exit_code == 0
    file, builtin = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("file", "builtin"))
    assert file["predictions"] == builtin["predictions"]


def test_run_with_faults_reports_what_it_did(tmp_path):
    path = tmp_path / "result.json"
    options = ["--faults", 0.3, "--site", "array", "--repair", "nearest", "--images", 60, "--seed", 3]
    result = epsilon("run", *options, "--json", path, "--save-fault-map", tmp_path / "map.json")
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert found["images"] == len(found["predictions"]) == sum(found["exits_taken"]) == 60
    assert found["faults"]["count"] == round(0.3 * 64)
    low, high = found["interval_95"]
    assert low <= found["accuracy"] <= high
    assert f"{100 * found['accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in result.stdout
    # The saved map gives the same run.
    again = epsilon("run", *options[4:8], "--fault-map", tmp_path / "map.json", "--json", tmp_path / "again.json")
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "again.json").read_text()) == found


def test_fault_map_of_another_array(tmp_path):
    epsilon("run", "--faults", 0.3, "--site", "array", "--images", 1, "--save-fault-map", tmp_path / "map.json")
    sentence = refused("run", "--fault-map", tmp_path / "map.json", "--rows", 4)
    assert sentence == "The fault map is for an array of 8x8 PEs, not of 4x8"


def test_own_images(tmp_path):
    from epsilon import data

    test = data.load("digits", "test")
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(test.images[index, 0]).save(paths[-1])
    paths.append(tmp_path / "3.npy")
    np.save(paths[-1], test.images[3, 0])
    result = epsilon("run", *[part for path in paths for part in ("--image", path)], "--json", tmp_path / "own.json")
    assert result.exit_code == 0, result.output
    assert epsilon("run", "--images", 4, "--json", tmp_path / "split.json").exit_code == 0
    own, split = (json.loads((tmp_path / name).read_text()) for name in ("own.json", "split.json"))
    assert own["predictions"] == split["predictions"]
    assert own["accuracy"] is None
    assert "3.npy" in result.stdout


def test_image_of_the_wrong_shape(tmp_path):
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "colour.png")
    np.save(tmp_path / "float.npy", np.zeros((8, 8), np.float32))
    (tmp_path / "text.png").write_text("no picture")
    assert refused("run", "--image", tmp_path / "wide.png").endswith(
        "wide.png is an image of 1x8x9, and network 'digits' takes 1x8x8"
    )
    assert "3x8x8" in refused("run", "--image", tmp_path / "colour.png")
    assert "8-bit" in refused("run", "--image", tmp_path / "float.npy")
    (tmp_path / "empty.npy").write_bytes(b"")
    assert "not an image" in refused("run", "--image", tmp_path / "text.png")
    assert "not an array" in refused("run", "--image", tmp_path / "empty.npy")
    assert "No such file" in refused("run", "--image", tmp_path / "missing.png")


def test_results_that_cannot_be_written(tmp_path):
    assert "No such file" in refused("multipliers", "--csv", tmp_path / "no" / "x.csv")


def test_no_compiler_is_a_sentence(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "env"):
        (tools / name).symlink_to(shutil.which(name))
    environment = {name: value for name, value in os.environ.items() if name != "CXX"}
    environment |= {"PATH": str(tools), "EPSILON_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "epsilon", "run", "--on", "rtl", "--images", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "epsilon: No C++ compiler: install g++" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_on_rtl_gives_what_the_emulator_gives_and_its_waveform(tmp_path):
    found = {}
    for place, more in (("emulator", []), ("rtl", ["--waves", tmp_path / "waves.vcd"])):
        options = ["--images", 8, "--rows", 4, "--cols", 3, "--multiplier", "KV6", "--faults", 0.4, "--repair", "invert"]
        result = epsilon("run", "--on", place, *options, *more, "--json", tmp_path / f"{place}.json")
        assert result.exit_code == 0, result.output
        found[place] = json.loads((tmp_path / f"{place}.json").read_text())
        assert found[place].pop("on") == place
    assert found["rtl"] == found["emulator"]
    assert sum(found["rtl"]["cycles"].values()) > 0
    with (tmp_path / "waves.vcd").open() as waves:
        head = waves.read(2000)
    assert "$timescale" in head
    assert (tmp_path / "waves.vcd").stat().st_size > 100_000
    assert {path.suffix for path in tmp_path.iterdir()} == {".vcd", ".json"}


def test_waves_into_a_missing_folder(tmp_path):
    assert "There is no folder" in refused("run", "--on", "rtl", "--waves", tmp_path / "missing" / "w.vcd")


def test_bench_array_counts_what_it_ran(tmp_path):
    options = ["--rows", 4, "--cols", 3, "--multiplier", "KV6", "--repeat", 1]
    result = epsilon("bench", "array", *options, "--json", tmp_path / "bench.json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert row["array"] == "4x3 KV6"
    assert row["mac_per_s"] > 1e5
    # 64 outputs fill 21 columns of three and leave two empty once; the reduction of 576 fills the rows.
    assert 0.9 < row["busy"] < 1
    assert row["mac_per_cycle"] == pytest.approx(row["busy"] * 12)


def test_train_writes_a_network_that_runs(tmp_path):
    path = tmp_path / "mine.safetensors"
    result = epsilon("train", "digits", "--epochs", 2, "--tuning-epochs", 0, "-o", path)
    assert result.exit_code == 0, result.output
    assert "v2022/mul8s_1KVP" in result.stdout
    assert epsilon("run", "--network", path, "--images", 5).exit_code == 0


def test_train_refuses_before_it_works(tmp_path):
    assert "must be digits, mnist or ARCHITECTURE" in refused("train", "imagenet", "-o", tmp_path / "n.safetensors")
    assert "There is no folder" in refused("train", "digits", "-o", tmp_path / "missing" / "n.safetensors")
    assert "number of epochs" in refused("train", "digits", "--epochs", 0, "-o", tmp_path / "n.safetensors")
    assert not list(tmp_path.iterdir())


def test_traceback_on_request():
    result = epsilon("--traceback", "run", "--faults", 2)
    assert isinstance(result.exception, ValueError)
