"""The Verilated model: builds and their cache, stalls, waves, and programs that cannot end."""

import json

import numpy as np
import pytest

from epsilon.config import ArrayConfig
from sim import program, toolchain, verilated
from sim.program import Program
from sim.toolchain import ToolError
from sim.verilated import INPUTS, OUTPUTS, SimulationError, VerilatedModel, build


def random_program(config, seed, *, tiles=12, images=2):
    """Return a program of random tiles that uses every stream (the last two report nothing and push the others out)."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(0, 9, tiles)
    flags = {name: rng.integers(0, 2, tiles) for name in ("readback", "signature")}
    masks = rng.integers(0, 2, tiles) * config.fault_injection
    for values in flags.values():
        values[-2:] = 0

    def beats(count, width):
        return rng.integers(0, 256, (count, width)).astype(np.uint8)

    commands = program.command_beats(
        vectors=vectors, rows=config.rows, cols=config.cols, first=1, last=1, masks=masks, quartiles=(-20, 0, 20), **flags
    )
    return Program(
        commands=commands,
        weights=beats(tiles * config.rows, 2 * config.cols),
        activations=beats(images * int(vectors.sum()), config.rows),
        faults=beats(int(masks.sum()) * config.rows, 2 * config.cols),
        results=images * int(vectors.sum()),
        readback=images * int(flags["readback"].sum()) * config.rows,
        signatures=images * int(flags["signature"].sum()),
        images=images,
    )


def fill(config, **streams):
    """Return a program with these beats, and nothing else."""
    empty = {"commands": (0, 8), "weights": (0, 2 * config.cols), "activations": (0, config.rows), "faults": (0, 2 * config.cols)}
    inputs = {name: streams.pop(name, np.zeros(shape, np.uint8)) for name, shape in empty.items()}
    return Program(**inputs, **{"results": 0, "readback": 0, "signatures": 0, **streams})


@pytest.fixture(scope="module")
def model(arrays):
    made = VerilatedModel(arrays["3x5"])
    yield made
    made.close()


@pytest.mark.parametrize("stalled", [*INPUTS, *OUTPUTS, "all"])
def test_stalls_change_nothing_but_time(model, stalled):
    """Each stream resting most of the time: the same beats in the same order, only later."""
    work = random_program(model.config, seed=1)
    model.reset()
    straight = model.run(work, max_cycles=10_000)
    pauses = dict.fromkeys([*INPUTS, *OUTPUTS], 0.75) if stalled == "all" else {stalled: 0.97}
    for seed in range(3):
        model.reset()
        stalling = model.run(work, max_cycles=100_000, pauses=pauses, seed=seed)
        for name in OUTPUTS:
            assert len(getattr(straight, name))
            assert np.array_equal(getattr(stalling, name), getattr(straight, name)), name
        assert stalling.clock_cycles > straight.clock_cycles


def test_reset(model):
    """After a reset a program gives what it gave at first; without, it meets the stuck bits of the one before."""
    work = random_program(model.config, seed=2, images=1)
    model.reset()
    once = model.run(work, max_cycles=10_000)
    again = model.run(work, max_cycles=10_000)
    model.reset()
    after_reset = model.run(work, max_cycles=10_000)
    for name in OUTPUTS:
        assert np.array_equal(getattr(after_reset, name), getattr(once, name))
    assert not np.array_equal(again.results, once.results)


def test_wrong_beats(model):
    commands = program.command_beats(vectors=np.array([1]))
    with pytest.raises(ValueError, match=r"^Beats of weights must be uint8 \(beats, 10\), not uint8 \(3, 4\)$"):
        model.run(fill(model.config, commands=commands, weights=np.zeros((3, 4), np.uint8)), max_cycles=10)
    with pytest.raises(ValueError, match=r"^Beats of weights must be uint8 \(beats, 10\), not int64 \(3, 10\)$"):
        model.run(fill(model.config, commands=commands, weights=np.zeros((3, 10), np.int64)), max_cycles=10)
    with pytest.raises(ValueError, match=r"^3 activation beats cannot be shared by 2 images$"):
        model.run(fill(model.config, commands=commands, activations=np.zeros((3, 3), np.uint8), images=2), max_cycles=10)


@pytest.mark.parametrize(
    ("streams", "sentence"),
    [
        # A weight beat too few: the tile never gets in.
        ({"weights": 2, "activations": 1, "results": 1}, "^The accelerator did not finish within 500 cycles$"),
        # A vector too few.
        ({"weights": 3, "activations": 0, "results": 1}, "^The accelerator did not finish within 500 cycles$"),
        ({"weights": 3, "activations": 1, "results": 0}, "^The accelerator put out more beats than the program asks for$"),
        ({"weights": 3, "activations": 1, "results": 2}, "^The accelerator put out 1 beats of results, not 2$"),
        ({"weights": 4, "activations": 1, "results": 1}, "^The accelerator left beats of an input stream that no command takes$"),
    ],
)
def test_programs_that_cannot_end(arrays, streams, sentence):
    model = VerilatedModel(arrays["3x5"])
    work = fill(
        model.config,
        commands=program.command_beats(vectors=np.array([1]), first=1, last=1),
        weights=np.zeros((streams["weights"], 10), np.uint8),
        activations=np.zeros((streams["activations"], 3), np.uint8),
        results=streams["results"],
    )
    with pytest.raises(SimulationError, match=sentence):
        model.run(work, max_cycles=500)
    model.close()


def test_close_twice(arrays):
    model = VerilatedModel(arrays["3x5"])
    model.close()
    model.close()


def test_build_is_cached(arrays, monkeypatch):
    """What is in the cache is not built again: no tool runs."""
    library = build(arrays["3x5"])
    before = library.stat().st_mtime_ns

    def fail(*args, **options):
        raise AssertionError("a tool was started")

    monkeypatch.setattr(verilated, "run_tool", fail)
    assert build(arrays["3x5"]) == library
    assert library.stat().st_mtime_ns == before
    assert json.loads((library.parent / "config.json").read_text()) == arrays["3x5"].describe()
    with pytest.raises(AssertionError, match="a tool was started"):
        build(ArrayConfig(rows=3, cols=5, accumulator_depth=21))


def test_key_depends_on_everything(tmp_path):
    config = ArrayConfig(rows=2, cols=2)
    keys = {
        verilated._key(config, False, "g++", "5.48"),
        verilated._key(config, True, "g++", "5.48"),
        verilated._key(config, False, compiler_that(tmp_path, "exit 1"), "5.48"),
        verilated._key(config, False, "g++", "5.49"),
        verilated._key(ArrayConfig(rows=2, cols=2, multiplier="L2N"), False, "g++", "5.48"),
        verilated._key(ArrayConfig(rows=2, cols=2, level="gates"), False, "g++", "5.48"),
    }
    assert len(keys) == 6


def compiler_that(tmp_path, script):
    """Return a program that answers ``--version`` and otherwise does what the script says."""
    path = tmp_path / "broken-c++"
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "broken-c++ 1.0"; exit 0; fi\n{script}\n')
    path.chmod(0o755)
    return str(path)


def assert_no_library(cache):
    """Neither a build nor what is left of one; locks and what other builds share may stay."""
    config = ArrayConfig(rows=1, cols=1, accumulator_depth=1)
    key = verilated._key(config, False, toolchain.cxx_compiler(), toolchain.find_verilator().version)
    assert not list(cache.rglob("*.so"))
    assert not [entry for entry in cache.rglob("*") if entry.is_dir() and entry.name.startswith(("build-", key))]


def test_failing_compiler(tmp_path, monkeypatch):
    """Its error in one sentence, and nothing in the cache that a later build could take for a library."""
    monkeypatch.setenv("CXX", compiler_that(tmp_path, "echo 'accelerator.cpp:1: error: I am out of order' >&2; exit 3"))
    monkeypatch.setenv("EPSILON_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ToolError, match=r"^Compiling .* failed \(exit status 3\): accelerator.cpp:1: error: I am out of order$"):
        build(ArrayConfig(rows=1, cols=1, accumulator_depth=1))
    assert_no_library(tmp_path / "cache")


def test_failing_linker(tmp_path, monkeypatch):
    """The same at the very last step."""
    script = 'case "$*" in *-shared*) echo "cannot link: error" >&2; exit 1;; esac\nfor last; do :; done\n: > "$last"'
    monkeypatch.setenv("CXX", compiler_that(tmp_path, script))
    monkeypatch.setenv("EPSILON_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ToolError, match=r"^Linking the model failed \(exit status 1\): cannot link: error$"):
        build(ArrayConfig(rows=1, cols=1, accumulator_depth=1))
    assert_no_library(tmp_path / "cache")


def test_missing_compiler(tmp_path, monkeypatch):
    """Said before anything is generated."""
    toolchain.find_verilator()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("EPSILON_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ToolError, match=r"^No C\+\+ compiler: install g\+\+ \(or set CXX\)"):
        VerilatedModel(ArrayConfig(rows=1, cols=1))
    assert not (tmp_path / "cache").exists()


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EPSILON_CACHE", str(tmp_path / "file"))
    with pytest.raises(ToolError, match=r"^Cannot write the build cache \(EPSILON_CACHE moves it\)"):
        build(ArrayConfig(rows=1, cols=1))


def test_waves(arrays, tmp_path):
    """A VCD with the hardware's own names in it, complete once the model is closed; the results are those without."""
    config = arrays["1x1"]
    work = random_program(config, seed=3)
    plain = VerilatedModel(config)
    straight = plain.run(work, max_cycles=10_000)
    plain.close()
    path = tmp_path / "run.vcd"
    model = VerilatedModel(config, waves=path)
    traced = model.run(work, max_cycles=10_000)
    model.close()
    for name in OUTPUTS:
        assert np.array_equal(getattr(traced, name), getattr(straight, name))
    text = path.read_text()
    header, _, changes = text.partition("$enddefinitions $end")
    for name in ("clk", "results_tdata", "pe_0", "column_0", "swap", "vectors_left", "so_far"):
        assert name in header, name
    # A time stamp for each half of a clock cycle at least.
    assert changes.count("\n#") >= 2 * traced.clock_cycles


def test_waves_that_cannot_be_written(arrays, tmp_path):
    with pytest.raises(ToolError, match=r"^Cannot write waves to '.*run\.vcd'$"):
        VerilatedModel(arrays["1x1"], waves=tmp_path / "missing" / "run.vcd")
