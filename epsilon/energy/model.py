"""The energy of events: how many bits, words and operations of each kind, times what one costs."""

from __future__ import annotations

from dataclasses import dataclass

from epsilon.energy.events import Events
from epsilon.energy.table import EnergyTable
from epsilon.multipliers import Multiplier

__all__ = ["SECDED", "Secded", "energy", "missing_energy"]

#: A weight word in the array and in the weight memory: the code and the two flags of a repair.
WORD_BITS = 10
#: A weight word on the readback stream, a record on the signature stream and in the registers of the signature unit.
READBACK_BITS, RECORD_BITS = 16, 64
ACTIVATION_BITS, PSUM_BITS = 8, 32


@dataclass(frozen=True)
class Secded:
    """A code that corrects one wrong bit of a weight and detects two: what it adds to a register and in front of a multiplier.

    Parameters
    ----------
    data_bits, check_bits : int
    ones : int
        Of the parity check matrix.
    """

    data_bits: int
    check_bits: int
    ones: int

    @property
    def decoder_gates(self) -> int:
        """Gates with two inputs between the register and the multiplier.

        Each check bit's parity is an XOR tree over the ones of its row; each data bit compares the syndrome with its column (an AND
        tree over all check bits; inverters are free) and is corrected by an XOR.
        """
        syndrome = self.ones - self.check_bits
        return syndrome + self.data_bits * (self.check_bits - 1) + self.data_bits


#: M. Y. Hsiao, "A class of optimal minimum odd-weight-column SEC-DED codes", IBM J. Res. Dev. 14(4), 1970: for 8 data bits 5 check
#: bits, the data's columns of weight 3, those of the check bits of weight 1.
SECDED = Secded(data_bits=8, check_bits=5, ones=8 * 3 + 5)


def energy(events: Events, table: EnergyTable, multiplier: Multiplier | None, *, secded: bool = False) -> dict[str, float] | None:
    """Return the dynamic energy of events by part, pJ; None where nobody knows what a product of this multiplier costs.

    Leakage, clock tree and the cycles in which nothing moves are not in it, nor is anything outside the accelerator and its three
    memories, which are taken to be on the chip.

    Parameters
    ----------
    multiplier : Multiplier or None
        None: one that nothing is published of.
    secded : bool
        Whether the weights are stored in the code ``SECDED``: 5 check bits more wherever a weight is stored, and a decoder behind
        every active register, which switches when a weight becomes active. One part more, called ``secded``.

    Returns
    -------
    dict of str to float
        ``registers`` includes the weights' way through the array in a scan or probe; ``repair`` is the writing of the words.
    """
    product = table.multiplication(multiplier)
    if product is None:
        return None
    register_bit, weight_bit = table["register_bit"], table["weight_memory_bit"]
    # A swap writes the active register, and the shift register with what was active.
    weight_registers = events.weight_shifts + 2 * events.weight_swaps
    weight_accesses = events.weight_reads + events.weight_writes
    register_bits = ACTIVATION_BITS * events.activation_registers + PSUM_BITS * events.psum_registers + WORD_BITS * weight_registers
    accumulated = events.accumulator_reads + events.accumulator_writes
    moved = events.activation_reads + events.activation_writes
    parts = {
        "multiplications": events.multiplications * product.pj + events.idle_multiplications * table["idle_multiplication"],
        "additions": events.additions * table["addition"],
        "registers": register_bits * register_bit,
        "weight memory": events.weight_reads * WORD_BITS * weight_bit,
        "activation memory": moved * ACTIVATION_BITS * table["activation_memory_bit"],
        "accumulators": accumulated * PSUM_BITS * table["accumulator_bit"],
        "results": events.result_words * PSUM_BITS * register_bit,
        "signatures": events.signature_words * (table["signature_word"] + RECORD_BITS * register_bit)
        + events.record_words * RECORD_BITS * register_bit,
        # The patterns of a probe are made in a register; what comes back of them, and of weights, leaves through another.
        "readback": events.readback_words * READBACK_BITS * register_bit + events.probe_words * WORD_BITS * register_bit,
        "repair": events.weight_writes * WORD_BITS * weight_bit,
    }
    if secded:
        stored = weight_registers * register_bit + weight_accesses * weight_bit
        decoded = events.weight_swaps * SECDED.decoder_gates * table["gate"]
        parts["secded"] = SECDED.check_bits * stored + decoded
    return parts


def missing_energy(multiplier: Multiplier) -> str:
    """Return the sentence that says why ``energy`` is None."""
    return (
        f"No power and delay are published for {multiplier.key}, so there is no energy: give the energy of a "
        "multiplication in a table of your own"
    )
