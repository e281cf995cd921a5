"""The multiplier on all pairs of operands, against its table."""

import cocotb
import numpy as np
from cocotb.triggers import Timer

from sim.benches.runner import GOLDEN_VARIABLE, config_of


@cocotb.test()
async def every_product(dut):
    """All 65,536 products are those of ``Multiplier.table``."""
    table = config_of(GOLDEN_VARIABLE).multiplier.table()
    settle = Timer(1, "ns")
    products = np.empty((256, 256), dtype=np.int16)
    for a in range(-128, 128):
        dut.a.value = a % 256
        for b in range(-128, 128):
            dut.b.value = b % 256
            await settle
            products[a + 128, b + 128] = dut.o.value.to_signed()
    wrong = np.argwhere(products != table)
    if len(wrong):
        a, b = wrong[0] - 128
        raise AssertionError(
            f"{len(wrong)} of 65536 products are wrong, the first {a} * {b}: "
            f"{products[tuple(wrong[0])]} instead of {table[tuple(wrong[0])]}"
        )
