"""The systolic array with its skew, cycle by cycle, against the golden model."""

import cocotb
import numpy as np

from epsilon.config import ArrayConfig
from sim.benches.golden import ArrayModel, random_words
from sim.benches.runner import CONFIG_VARIABLE, GOLDEN_VARIABLE, config_of
from sim.benches.stimuli import IDLE, SHIFT, SWAP, OperationBench, Stimuli, pack

OUTPUTS = ("psums", "chain_o")


@cocotb.test()
@cocotb.parametrize(idle=IDLE)
async def any_operations(dut, idle):
    """Shifts and swaps in any order, with and without idle cycles; a vector in every cycle."""
    config = config_of(CONFIG_VARIABLE)
    rng = np.random.default_rng([cocotb.RANDOM_SEED, round(10 * idle)])
    await _check(dut, config, rng, Stimuli.random(rng, 1000, config.rows, config.cols, idle=idle))


@cocotb.test()
async def tiles_without_a_gap(dut):
    """Tiles with stuck bits follow each other, each shifting the one before out while the one between runs."""
    config = config_of(CONFIG_VARIABLE)
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    shape = (60, config.rows, config.cols)
    faults = (1 << rng.integers(0, 16, shape)).astype(np.uint16)
    await _check(dut, config, rng, Stimuli.loads(rng, random_words(rng, shape), faults))


async def _check(dut, config: ArrayConfig, rng: np.random.Generator, stimuli: Stimuli) -> None:
    latency = config.rows + config.cols
    # Registers without a reset hold anything until two tiles have gone through.
    nothing = np.zeros((3, config.rows, config.cols), np.uint16)
    preamble = Stimuli.loads(rng, nothing, nothing)
    idle = Stimuli.random(rng, latency, config.rows, config.cols, idle=1.0)
    driven = preamble + stimuli + idle
    observed = await OperationBench(dut, OUTPUTS).run(
        {
            "op": driven.op.tolist(),
            "activations": pack(driven.activations, 8),
            "chain_i": pack(driven.words, 10),
            "faults_i": pack(driven.faults, 16),
        },
        unchecked=len(preamble) + latency,
    )
    psums, scanned = _expected(driven)
    for cycle in range(len(preamble) + latency, len(driven)):
        expected = psums[cycle - latency], scanned[cycle - latency + 1]
        assert observed[cycle] == expected, f"cycle {cycle}: {OUTPUTS} {observed[cycle]} instead of {expected}"


def _expected(stimuli: Stimuli) -> tuple[list[int], list[int]]:
    """Return the sums of the vector of each cycle, and the row that the last shift up to it pushes out."""
    model = ArrayModel(config_of(GOLDEN_VARIABLE))
    psums, scanned = [], []
    left = np.zeros(stimuli.words.shape[1], np.uint16)
    for cycle, op in enumerate(stimuli.op):
        if op & SHIFT:
            left, _ = model.shift(stimuli.words[cycle], stimuli.faults[cycle])
        elif op & SWAP:
            model.swap(masks=bool(op >> 2))
        psums.append(model.multiply(stimuli.activations[cycle]))
        scanned.append(left)
    return pack(np.array(psums), 32), pack(np.array(scanned), 10)
