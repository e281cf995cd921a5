# amaranth: UnusedElaboratable=no
"""The processing element: every stuck bit, every flag, and the swap, against the golden definition of a faulty register."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Fragment

from epsilon.accelerator import StuckBits, WeightWords, seen_by_multiplier
from epsilon.config import ArrayConfig
from hdl.pe import ProcessingElement, pe_signature

#: 0x00 and 0xFF show every stuck bit; the others have either value in every bit.
WEIGHTS = (0x00, 0xFF, 0x55, 0xAA, 0x80, 0x7F)
STUCK = [(0, 0), *((1 << bit, 0) for bit in range(8)), *((0, 1 << bit) for bit in range(8)), (0x0F, 0xF0), (0xFF, 0), (0x3C, 0x5A)]


def seen_code(weight, sa0=0, sa1=0, invert=False, bypass=False):
    """Return the code that the multiplier sees, by the golden definition."""
    words = WeightWords(np.array([weight], np.uint8).view(np.int8), np.array([invert]), np.array([bypass]))
    return int(seen_by_multiplier(words, StuckBits(np.array([sa0], np.uint8), np.array([sa1], np.uint8)))[0])


def product(config, activation, weight):
    return int(config.multiplier.multiply(np.array(activation), np.array(weight)))


class Driver:
    """Issues operations to a processing element, one per cycle."""

    def __init__(self, ctx, pe):
        self.ctx = ctx
        self.pe = pe

    async def step(self, *, shift=0, swap=0, masks=0, activation=0, psum=0, word=(0, 0, 0), faults=None):
        """Do one operation; afterwards the outputs are those of the cycle after it."""
        ctx, pe = self.ctx, self.pe
        weight, invert, bypass = word
        ctx.set(pe.op_i, {"shift": shift, "swap": swap, "masks": masks})
        ctx.set(pe.activation_i, activation)
        ctx.set(pe.psum_i, psum)
        ctx.set(pe.chain_i, {"weight": weight % 256, "invert": int(invert), "bypass": int(bypass)})
        if faults is not None:
            ctx.set(pe.faults_i, {"sa0": faults[0], "sa1": faults[1]})
        await ctx.tick()

    async def load(self, word, faults=None):
        """Make a word active, with these stuck bits if given."""
        await self.step(shift=1, word=word, faults=faults)
        await self.step(swap=1, masks=faults is not None)

    async def multiply(self, activation, psum=0):
        """Return the partial sum below: the activation enters, meets the weight one cycle later."""
        await self.step(activation=activation)
        await self.step(psum=psum)
        return self.ctx.get(self.pe.psum_o)

    async def scan_out(self):
        """Return the word that the active register gave away, as (weight, invert, bypass); it is replaced by zero."""
        await self.step(swap=1)
        await self.step(shift=1)
        word = self.ctx.get(self.pe.chain_o)
        return word.weight, word.invert, word.bypass


def run(hardware, config, scenario):
    pe = ProcessingElement(config)

    async def bench(ctx):
        await scenario(Driver(ctx, pe))

    hardware.simulate(pe, bench)


@pytest.mark.parametrize("multiplier", ["KV6", "KVP"])
def test_sim_every_stuck_bit(hardware, multiplier):
    """Each bit, stuck at either value, under weights with either value: the product and the scanned-out word."""
    config = ArrayConfig(rows=1, cols=1, multiplier=multiplier)

    async def scenario(pe):
        for (sa0, sa1), weight in itertools.product(STUCK, WEIGHTS):
            seen = seen_code(weight, sa0, sa1)
            await pe.load((weight, 0, 0), faults=(sa0, sa1))
            assert await pe.multiply(activation=-77, psum=1000) == 1000 + product(config, -77, seen)
            assert await pe.scan_out() == (seen % 256, 0, 0), f"weight {weight:02x}, sa0 {sa0:02x}, sa1 {sa1:02x}"

    run(hardware, config, scenario)


def test_sim_every_flag(hardware):
    """The complement and the zero come after the stuck bits; the flags are scanned out with the word."""
    config = ArrayConfig(rows=1, cols=1)

    async def scenario(pe):
        for (sa0, sa1), weight, invert, bypass in itertools.product(STUCK, (0x00, 0xC5), (False, True), (False, True)):
            seen = seen_code(weight, sa0, sa1, invert, bypass)
            await pe.load((weight, invert, bypass), faults=(sa0, sa1))
            assert await pe.multiply(activation=104) == product(config, 104, seen)
            assert await pe.scan_out() == (seen % 256, invert, bypass)

    run(hardware, config, scenario)


def test_sim_masks_change_only_when_told(hardware):
    """A swap without ``masks`` leaves the stuck bits, whatever passes on the fault chain."""
    config = ArrayConfig(rows=1, cols=1)

    async def scenario(pe):
        await pe.load((0x3C, 0, 0))
        assert (await pe.scan_out())[0] == 0x3C
        await pe.load((0x3C, 0, 0), faults=(0x04, 0x01))
        assert (await pe.scan_out())[0] == 0x39
        await pe.step(shift=1, word=(0x3C, 0, 0), faults=(0xFF, 0x00))
        await pe.step(swap=1)
        assert (await pe.scan_out())[0] == 0x39
        await pe.load((0x3C, 0, 0), faults=(0, 0))
        assert (await pe.scan_out())[0] == 0x3C

    run(hardware, config, scenario)


def test_sim_swap_exchanges(hardware):
    """The next word waits in the shift register while the active one works; a swap exchanges the two, back and forth."""
    config = ArrayConfig(rows=1, cols=1, multiplier="KV6")

    async def scenario(pe):
        await pe.load((3, 0, 0))
        await pe.step(shift=1, word=(5, 0, 0))
        assert await pe.multiply(10) == 30
        await pe.step(swap=1)
        assert await pe.multiply(10) == 50
        await pe.step(swap=1)
        assert await pe.multiply(10) == 30
        await pe.step(shift=1, word=(7, 0, 0))
        assert pe.ctx.get(pe.pe.chain_o.weight) == 5

    run(hardware, config, scenario)


def test_sim_shifting_does_not_disturb(hardware):
    """Chain and multiplier work at once: one product a cycle while words pass through the shift register."""
    config = ArrayConfig(rows=1, cols=1, multiplier="KV6")

    async def scenario(pe):
        await pe.load((-128, 0, 0))
        sums, words = [], []
        for n in range(20):
            await pe.step(shift=1, word=(n, 0, 0), activation=n - 10, psum=1000 * n)
            sums.append(pe.ctx.get(pe.pe.psum_o))
            words.append(pe.ctx.get(pe.pe.chain_o.weight))
        # One register for a sum's way down, two (shift and link) for a word's.
        assert sums[1:] == [1000 * n - 128 * (n - 11) for n in range(1, 20)]
        assert words[1:] == list(range(19))

    run(hardware, config, scenario)


def test_sim_link_holds_while_not_shifting(hardware):
    config = ArrayConfig(rows=1, cols=1)

    async def scenario(pe):
        for value in (11, 22):
            await pe.step(shift=1, word=(value, 1, 0))
        for _ in range(5):
            await pe.step(word=(99, 0, 1), activation=5)
            assert pe.ctx.get(pe.pe.chain_o.weight) == 11
        await pe.step(shift=1)
        assert pe.ctx.get(pe.pe.chain_o) == {"weight": 22, "invert": 1, "bypass": 0}

    run(hardware, config, scenario)


def test_sim_operation_travels_with_activation(hardware):
    """To the right, both are one cycle later."""
    config = ArrayConfig(rows=1, cols=1)
    rng = np.random.default_rng(3)

    async def scenario(pe):
        for _ in range(30):
            kind = int(rng.integers(3))
            op = {"shift": int(kind == 1), "swap": int(kind == 2), "masks": int(rng.integers(2))}
            activation = int(rng.integers(-128, 128))
            await pe.step(**op, activation=activation)
            assert pe.ctx.get(pe.pe.op_o) == op
            assert pe.ctx.get(pe.pe.activation_o) == activation

    run(hardware, config, scenario)


def test_sim_psum_wraps(hardware):
    """The partial sum is 32 bits, modulo 2**32."""
    config = ArrayConfig(rows=1, cols=1, multiplier="KV6")

    async def scenario(pe):
        await pe.load((1, 0, 0))
        assert await pe.multiply(1, psum=2**31 - 1) == -(2**31)

    run(hardware, config, scenario)


@pytest.mark.parametrize(("fault_injection", "repair"), list(itertools.product([False, True], repeat=2)))
def test_sim_features(hardware, fault_injection, repair):
    """What a build lacks has no effect: flags are ignored and read back as 0 without ``repair``."""
    config = ArrayConfig(rows=1, cols=1, fault_injection=fault_injection, repair=repair)

    async def scenario(pe):
        for word in itertools.product((0x5A, 0x81), (0, 1), (0, 1)):
            await pe.load(word, faults=(0x10, 0x04) if fault_injection else None)
            flags = word[1:] if repair else (0, 0)
            seen = seen_code(word[0], *((0x10, 0x04) if fault_injection else (0, 0)), *flags)
            assert await pe.multiply(33) == product(config, 33, seen)
            assert await pe.scan_out() == (seen % 256, *flags)

    run(hardware, config, scenario)


@pytest.mark.parametrize("fault_injection", [True, False])
def test_fault_ports(fault_injection):
    config = ArrayConfig(rows=1, cols=1, fault_injection=fault_injection)
    assert {"faults_i", "faults_o"} <= set(pe_signature(config).members) or not fault_injection
    pe = ProcessingElement(config)
    assert pe.config is config
    assert hasattr(pe, "faults_i") == fault_injection
    Fragment.get(pe, None)
