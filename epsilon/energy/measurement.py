"""Joules of this machine while it runs the emulator, by pyJoules: nothing to do with the energy of the accelerator.

Ref: https://github.com/powerapi-ng/pyJoules
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Measured", "NoMeterError", "measure", "meters"]

#: Joules in the unit of a domain, by the module of pyJoules that its device is in: RAPL counts microjoules, NVML millijoules.
UNITS = {"rapl_device": 1e-6, "nvidia_device": 1e-3}


class NoMeterError(ValueError):
    """A machine on which no energy can be measured."""


@dataclass(frozen=True)
class Measured:
    """What the meters counted.

    Parameters
    ----------
    joules : dict of str to float
        By domain. Domains overlap: a package includes its cores. Whatever else the machine did is in them.
    seconds : float
        Wall-clock time.
    """

    joules: dict[str, float]
    seconds: float


def meters() -> list:
    """Return pyJoules' devices of this machine, configured with all their domains.

    Raises
    ------
    NoMeterError
        When pyJoules is not installed, or the machine has neither RAPL nor NVML, or they may not be read.
    """
    # pyJoules warns of a missing NVML binding while it is imported; that is no news where RAPL is.
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from pyJoules.device import DeviceFactory
    except ImportError:
        raise NoMeterError("Measuring needs pyJoules: install the extra `energy` of this package") from None
    finally:
        logging.disable(disabled)
    devices = DeviceFactory.create_devices()
    if not devices:
        raise NoMeterError("This machine has no energy meter that pyJoules can read: neither RAPL (Intel, AMD) nor NVML (NVIDIA)")
    for device in devices:
        try:
            device.get_energy()
        except OSError as error:
            raise NoMeterError(f"The energy meter of this machine may not be read: {error.filename}: {error.strerror}") from None
        except Exception as error:
            if type(error).__module__ != "pynvml":
                raise
            raise NoMeterError(f"The GPU does not tell its energy: NVML says {error}") from None
    return devices


def measure(work: Callable[[], object], devices: list) -> Measured:
    """Return what ``devices`` (of ``meters``) counted while ``work`` ran.

    Raises
    ------
    ValueError
        When a counter wrapped around in between.
    """
    from pyJoules.energy_meter import EnergyMeter

    meter = EnergyMeter(devices)
    meter.start(tag="emulator")
    work()
    meter.stop()
    (sample,) = meter.get_trace()
    units = [_unit(device) for device in devices for _ in device.get_configured_domains()]
    joules = {domain: unit * count for (domain, count), unit in zip(sample.energy.items(), units, strict=True)}
    wrapped = [domain for domain, count in joules.items() if count < 0]
    if wrapped:
        raise ValueError(f"The energy counter of {wrapped[0]} wrapped around while it was read: measure again, with fewer images")
    return Measured(joules, sample.duration)


def _unit(device: object) -> float:
    """Return the joules in a unit of a device, or of the device that it is derived from."""
    for kind in type(device).__mro__:
        if (unit := UNITS.get(kind.__module__.rpartition(".")[2])) is not None:
            return unit
    raise NoMeterError(f"The unit of the energy meter {type(device).__name__} is not known")
