"""The events of the cycle model equal those of what crosses the RTL's streams, and the pulses on its own control signals."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epsilon.accelerator import WeightWords
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.energy import Events
from epsilon.faults import FaultMap
from epsilon.network import Convolution, QuantizedNetwork
from sim import activity, program
from sim.rtl import RtlAccelerator
from sim.tiling import Gemm, tiles


def one_layer(groups: int, outputs: int, channels: int, kernel: int) -> QuantizedNetwork:
    """Return a network of one convolution."""
    weight = np.random.default_rng(1).integers(-128, 128, (groups * outputs, channels, kernel, kernel)).astype(np.int8)
    layer = Convolution(
        name="conv",
        inputs=("input",),
        weight=weight,
        bias=np.zeros(len(weight), np.int32),
        requantization=None,
        groups=groups,
    )
    return QuantizedNetwork(
        name="one",
        input_shape=(groups * channels, 8, 8),
        input_table=np.zeros((groups * channels, 256), np.int8),
        layers=(layer,),
        classes=1,
    )


@pytest.fixture(scope="module", params=["1x1", "3x5", "2x3-gates", "4x2-plain"])
def rtl(request, arrays):
    made = RtlAccelerator(arrays[request.param])
    yield made
    made.close()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.integers(1, 3),
    outputs=st.integers(1, 7),
    channels=st.integers(1, 4),
    kernel=st.integers(1, 2),
    side=st.integers(2, 7),
    batch=st.integers(1, 3),
    storage=st.booleans(),
)
def test_events_equal_the_streams(rtl, groups, outputs, channels, kernel, side, batch, storage):
    """Runs, scans, readbacks, probes and writes of a layer of any shape: every count is what the streams carried."""
    network = one_layer(groups, outputs, channels, kernel)
    model = Emulator(rtl.config)
    rng = np.random.default_rng(2)
    images = torch.from_numpy(rng.integers(-128, 128, (batch, groups * channels, side, side)).astype(np.int8))
    words = WeightWords.plain(network["conv"].matrix.copy())
    words.code[0, 0] ^= 1
    faults = None
    if rtl.config.fault_injection:
        faults = FaultMap.sample(network, rtl.config, site="storage" if storage else "array", rate=0.5, seed=3)
    operations = [
        lambda place: place.read_records(),  # the layer has not run: it is loaded for the purpose
        lambda place: place.run_layer("conv", images),
        lambda place: place.read_records(),
        lambda place: place.read_weights("conv"),
        lambda place: place.probe("conv"),
        lambda place: place.write_weights("conv", words),
        lambda place: place.run_layer("conv", images[:1]),
    ]
    for place in (model, rtl):
        place.set_faults(None)  # those of the example before do not fit
        place.load(network)
        place.set_faults(faults)
        place.reset_counters()
    before = Events()
    for operation in operations:
        for place in (model, rtl):
            operation(place)
        assert model.counters().events == rtl.counters().events
        assert rtl.counters().events != before
        before = rtl.counters().events
    assert before.weight_writes == 1
    assert before.multiplications == (batch + 1) * network["conv"].weight.size * (side - kernel + 1) ** 2


def test_run_events_by_hand():
    """3 rows, 5 columns, depth 20: two groups of 6 outputs by 4 inputs are 2 x 2 tiles each; 25 vectors are two chunks."""
    config = ArrayConfig(rows=3, cols=5, accumulator_depth=20)
    events = activity.events_of(config, activity.run_activity(config, Gemm(2, 6, 4, 25)))
    vectors, loads = 8 * 25, 16
    assert events == Events(
        multiplications=2 * 6 * 4 * 25,
        idle_multiplications=vectors * 15 - 1200,
        additions=vectors * (15 + 5),
        activation_registers=vectors * (3 + (0 + 1 + 2) + 15),
        psum_registers=vectors * (15 + (0 + 1 + 2 + 3 + 4) + 5),
        weight_shifts=loads * 3 * (5 + 10 + 10 + 30),
        weight_swaps=loads * 15,
        weight_reads=loads * 3 * 5,
        activation_reads=vectors * 3,
        activation_writes=12 * 25,
        accumulator_reads=vectors * 5,
        accumulator_writes=vectors // 2 * 5,
        result_words=vectors // 2 * 5,
        record_words=8 * 5,
        signature_words=2 * 6 * 4,
    )


@given(
    rows=st.integers(1, 6),
    cols=st.integers(1, 6),
    depth=st.integers(1, 9),
    gemm=st.builds(Gemm, st.integers(1, 3), st.integers(1, 13), st.integers(1, 13), st.integers(1, 20)),
)
def test_run_activity_is_that_of_its_tiles(rows, cols, depth, gemm):
    """The closed form is the sum over the tiles, one by one."""
    config = ArrayConfig(rows=rows, cols=cols, accumulator_depth=depth)
    sequence = list(tiles(config, gemm))
    first_chunk = [tile for tile in sequence if tile.m0 == 0]
    assert activity.run_activity(config, gemm) == activity.Activity(
        tiles=len(sequence),
        weight_beats=len(sequence) * rows,
        vectors=sum(tile.vectors for tile in sequence),
        products=sum(tile.vectors * (tile.n1 - tile.n0) * (tile.k1 - tile.k0) for tile in sequence),
        result_beats=sum(tile.vectors for tile in sequence if tile.last),
        results=sum(tile.vectors * (tile.n1 - tile.n0) for tile in sequence if tile.last),
        record_beats=len(first_chunk),
        signature_words=sum((tile.n1 - tile.n0) * (tile.k1 - tile.k0) for tile in first_chunk),
    )


def test_command_fields_are_those_of_command_beats():
    fields = {"vectors": [0, 1024, 65535], "rows": [1, 64, 3], "cols": [64, 2, 1], "first": [1, 0, 1], "last": [0, 1, 1]}
    beats = program.command_beats(**{name: np.array(values) for name, values in fields.items()}, readback=1, quartiles=(-1, 0, 127))
    found = program.command_fields(beats)
    assert {name: found[name].tolist() for name in fields} == fields
    assert found["readback"].tolist() == [1, 1, 1]
    assert found["signature"].tolist() == found["masks"].tolist() == [0, 0, 0]


def pulses(vcd: Path) -> dict[str, int]:
    """Return in how many clock cycles each one-bit signal of a waveform was 1, by its scope and name."""
    header, _, changes = vcd.read_text().partition("$enddefinitions $end")
    scopes, high, before = [], set(), set()
    names: dict[str, list[str]] = {}
    for kind, rest in re.findall(r"\$(scope module|upscope|var wire 1) ?([^\n]*?) ?\$end", header):
        if kind == "scope module":
            scopes.append(rest)
        elif kind == "upscope":
            scopes.pop()
        else:
            code, name = rest.split(maxsplit=1)
            names.setdefault(code, []).append(f"{scopes[-1]}.{name}")
    (clock,) = (code for code, found in names.items() if "TOP.clk" in found)
    counts = dict.fromkeys(names, 0)
    for line in changes.splitlines():
        code = line[1:]
        if line[:1] == "1" and code in names:
            if code == clock:
                # What the edge acts on: the values before it. Those that change with it are listed behind the clock or not at all.
                for other in before:
                    counts[other] += 1
            high.add(code)
        elif line[:1] == "0" and code in names:
            high.discard(code)
        elif line[:1] == "#":
            before = set(high)
    return {name: counts[code] for code, found in names.items() for name in found}


def test_events_equal_the_control_signals(arrays, layers_network, layer_shapes, tmp_path):
    """Shifts and swaps of the PEs, reads and writes of the accumulators: as often as their enables are 1 in the waveform."""
    config = arrays["1x1"]
    rtl = RtlAccelerator(config, waves=tmp_path / "run.vcd")
    rtl.load(layers_network)
    rng = np.random.default_rng(4)
    rtl.run_layer("full", torch.from_numpy(rng.integers(-128, 128, (2, *layer_shapes["full"])).astype(np.int8)))
    rtl.read_records()
    rtl.read_weights("full")
    rtl.probe("full")
    events = rtl.counters().events
    rtl.close()
    seen = pulses(tmp_path / "run.vcd")
    shifts, swaps = (seen[f"pe_0.op_i.{name}"] for name in ("shift", "swap"))
    # Every shift fills two registers of a PE; those outside the PEs are not among these.
    assert 2 * shifts == events.weight_shifts * 2 * config.pes // (2 * config.pes + config.cols**2)
    assert swaps == events.weight_swaps > 0
    assert seen["accumulators.column_0_read_enable"] == events.accumulator_reads > 0
    assert seen["accumulators.column_0_write_enable"] == events.accumulator_writes > 0
    assert config.cols * seen["epsilon_accelerator.results_tvalid"] == events.result_words > 0
