"""The processing element at gate level, cycle by cycle, against the golden model."""

import cocotb
import numpy as np

from sim.benches.golden import ArrayModel
from sim.benches.runner import GOLDEN_VARIABLE, config_of
from sim.benches.stimuli import IDLE, SHIFT, SWAP, OperationBench, Stimuli, pack

OUTPUTS = ("op_o", "activation_o", "chain_o", "faults_o", "psum_o")
#: Cycles from an activation to the partial sum that holds its product.
LATENCY = 2


@cocotb.test()
@cocotb.parametrize(idle=IDLE)
async def any_operations(dut, idle):
    """Shifts and swaps in any order, with and without idle cycles."""
    rng = np.random.default_rng([cocotb.RANDOM_SEED, round(10 * idle)])
    await _check(dut, rng, Stimuli.random(rng, 1500, 1, 1, idle=idle))


@cocotb.test()
async def every_stuck_bit(dut):
    """Each bit stuck at 0 and at 1, under weights and flags of every kind, used by the multiplier and scanned out."""
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    words = np.array([code | flags << 8 for code in (0x00, 0xFF, 0x55, 0xAA) for flags in range(4)], np.uint16)
    faults = np.array([0, *(1 << bit for bit in range(16))], np.uint16)
    words, faults = (grid.reshape(-1, 1, 1) for grid in np.meshgrid(words, faults))
    await _check(dut, rng, Stimuli.loads(rng, words, faults))


async def _check(dut, rng: np.random.Generator, stimuli: Stimuli) -> None:
    # Registers without a reset hold anything until two words have gone through; two more cycles empty the pipeline.
    preamble = Stimuli.loads(rng, np.zeros((3, 1, 1), np.uint16), np.zeros((3, 1, 1), np.uint16))
    stimuli = preamble + stimuli + Stimuli.random(rng, LATENCY, 1, 1, idle=1.0)
    psums = rng.integers(-(2**31), 2**31, len(stimuli))
    inputs = {
        "op_i": stimuli.op.tolist(),
        "activation_i": pack(stimuli.activations, 8),
        "chain_i": pack(stimuli.words, 10),
        "faults_i": pack(stimuli.faults, 16),
        "psum_i": (psums % 2**32).tolist(),
    }
    observed = await OperationBench(dut, OUTPUTS).run(inputs, unchecked=len(preamble))
    expected = _expected(stimuli, psums, inputs)
    for cycle in range(len(preamble), len(stimuli)):
        for name, got, right in zip(OUTPUTS, observed[cycle], expected[cycle], strict=True):
            assert got == right, f"cycle {cycle}: {name} is {got:#x} instead of {right:#x}"


def _expected(stimuli: Stimuli, psums: np.ndarray, inputs: dict[str, list[int]]) -> list[tuple[int, ...]]:
    """Return the outputs in each cycle: what the registers took in the cycles before."""
    model = ArrayModel(config_of(GOLDEN_VARIABLE))
    word = faults = product = psum = 0
    expected = [(0, 0, 0, 0, 0)]
    for cycle, op in enumerate(stimuli.op):
        psum = (int(psums[cycle]) + product) % 2**32
        if op & SHIFT:
            (word,), (faults,) = model.shift(stimuli.words[cycle], stimuli.faults[cycle])
        elif op & SWAP:
            model.swap(masks=bool(op >> 2))
        product = int(model.multiply(stimuli.activations[cycle])[0])
        expected.append((int(op), inputs["activation_i"][cycle], int(word), int(faults), psum))
    return expected
