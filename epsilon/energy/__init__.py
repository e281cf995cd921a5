"""Energy of the accelerator per event of the hardware; joules of the emulator are apart (``epsilon.energy.measurement``)."""

from epsilon.energy.events import EVENTS, Events
from epsilon.energy.model import energy, missing_energy
from epsilon.energy.table import EnergyTable, Entry

__all__ = ["EVENTS", "EnergyTable", "Entry", "Events", "energy", "missing_energy"]
