"""Energy of the accelerator per event of the hardware; joules of the emulator are measured apart (``epsilon.energy.measurement``)."""

from epsilon.energy.events import EVENTS, Events

__all__ = ["EVENTS", "Events"]
