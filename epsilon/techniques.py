"""One technique on one fault map: the run that `epsilon run` shows and of which the demo is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from epsilon.accelerator import Accelerator
from epsilon.config import ArrayConfig
from epsilon.controller import Controller, StreamResult, vanilla
from epsilon.devices import require_device
from epsilon.emulator import Emulator
from epsilon.executor import ImageStream
from epsilon.faults import FaultMap
from epsilon.network import QuantizedNetwork
from epsilon.repair import REPAIRS, get_repair, golden_weights
from epsilon.secded import uncorrected
from epsilon.statistics import Proportion

__all__ = ["PLACES", "TECHNIQUES", "Outcome", "gamma_of", "opened", "run_technique", "tau_of"]

#: Where a network can run.
PLACES = ("emulator", "rtl", "lanes")
#: Images that are evaluated ahead, where the accelerator does not run a number of its own at once.
LOOKAHEAD = 64
#: Techniques: the last exit alone; all exits without detection, by confidence, by confidence and energy (AxMENDNet as it is
#: reconstructed here), and by confidence with weight registers under a code (``epsilon.secded``); and EPSILON with each repair.
TECHNIQUES = ("last-exit", "none", "mendnet", "secded", *REPAIRS)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a technique made of a stream of labelled images.

    Parameters
    ----------
    technique : str
    stream : StreamResult
    labels : int64 (images,) or None
        None for images whose class is not known.
    exits : int
        How many exits the network has.
    """

    technique: str
    stream: StreamResult
    labels: np.ndarray | None
    exits: int

    @property
    def accuracy(self) -> Proportion | None:
        """How many predictions are right; None without labels."""
        if self.labels is None:
            return None
        return Proportion(self.stream.correct(self.labels), len(self.labels))

    @property
    def exits_taken(self) -> tuple[int, ...]:
        """How many images each exit answered."""
        return tuple(int(n) for n in np.bincount(self.stream.exits, minlength=self.exits))

    @property
    def cycles_per_image(self) -> float:
        """Mean cycles of the array per image, checks and probes included."""
        return float(self.stream.cycles.mean())

    def describe(self) -> dict:
        """Return plain JSON values."""
        stream, accuracy = self.stream, self.accuracy
        return {
            "technique": self.technique,
            "images": len(stream.predictions),
            "correct": accuracy and accuracy.hits,
            "accuracy": accuracy and accuracy.value,
            "interval_95": accuracy and list(accuracy.interval),
            "exits_taken": list(self.exits_taken),
            "unsure": int(np.count_nonzero(~stream.sure)),
            "checks": len(stream.checks),
            "repairs": len(stream.repairs),
            "weights_rewritten": stream.rewritten,
            "cycles_per_image": self.cycles_per_image,
            "cycles": {name: int(getattr(stream, name).sum()) for name in ("run", "scan", "probe")},
            "events": stream.events.describe(),
            "check_log": [
                {
                    "image": check.image,
                    "flagged": list(check.flagged),
                    "rewritten": check.rewritten,
                    "layers": [asdict(layer) for layer in check.layers],
                }
                for check in stream.checks
            ],
            "predictions": stream.predictions.tolist(),
        }


def gamma_of(network: QuantizedNetwork, config: ArrayConfig) -> float:
    """Return the confidence threshold that was fitted for this multiplier, or one of the same function, on the validation split.

    Raises
    ------
    ValueError
        When none was.
    """
    found = _fitted(network, config, "gamma")
    if found is None:
        raise ValueError(
            f"The network {network.name!r} has no confidence threshold for {config.multiplier.key}: give one with --gamma"
        )
    return float(found)


def tau_of(network: QuantizedNetwork, config: ArrayConfig) -> list[float]:
    """Return the energy threshold of every exit that was fitted for this multiplier, or one of the same function.

    Raises
    ------
    ValueError
        When none was.
    """
    found = _fitted(network, config, "tau")
    if found is None:
        raise ValueError(f"The network {network.name!r} has no energy thresholds for {config.multiplier.key}, which mendnet needs")
    return [float(tau) for tau in found]


def _fitted(network: QuantizedNetwork, config: ArrayConfig, what: str) -> float | list[float] | None:
    fitted = network.metadata.get(what, {})
    for multiplier in (config.multiplier, *config.multiplier.twins):
        if multiplier.key in fitted:
            return fitted[multiplier.key]
    return None


@contextmanager
def opened(
    place: str,
    config: ArrayConfig,
    *,
    device: str = "cpu",
    waves: Path | None = None,
    lanes: int | None = None,
    threads: int = 1,
) -> Iterator[Accelerator]:
    """Give an accelerator; ``rtl`` and ``lanes`` are built first where they are not in the cache.

    Parameters
    ----------
    place : str
        One of ``PLACES``.
    device : str
        Of ``emulator``: where torch computes.
    waves : Path, optional
        Of ``rtl``: where the waveform (VCD) is, once all is done.
    lanes, threads
        Of ``lanes``; see ``sim.lanes.accelerator.LanesAccelerator``.

    Raises
    ------
    ValueError
        For an unknown place, and for waveforms of anything but the simulated hardware.
    """
    if place not in PLACES:
        raise ValueError(f"A network runs on one of {', '.join(PLACES)}, not on {place!r}")
    if device != "cpu" and place != "emulator":
        raise ValueError(f"Only the emulator computes on another device, not the {place}: use --on emulator with --device")
    if waves is not None and place != "rtl":
        raise ValueError("Only the simulated hardware has waveforms: use --on rtl with --waves")
    if lanes is not None and place != "lanes":
        raise ValueError(f"Only the bit lanes have a number of lanes, not the {place}: use --on lanes with --lanes")
    if place == "emulator":
        yield Emulator(config, require_device(device))
        return
    if place == "lanes":
        from sim.lanes.accelerator import LanesAccelerator

        with closing(LanesAccelerator(config, lanes=lanes, threads=threads)) as accelerator:
            yield accelerator
        return
    if waves is not None and not waves.parent.is_dir():
        raise ValueError(f"There is no folder {waves.parent} for the waveform")
    from sim.rtl import RtlAccelerator

    partial = None if waves is None else waves.with_name(f".{waves.name}.{os.getpid()}.part")
    accelerator = RtlAccelerator(config, waves=partial)
    try:
        yield accelerator
    except BaseException:
        accelerator.close()
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise
    accelerator.close()
    if partial is not None:
        partial.replace(waves)


def run_technique(
    technique: str,
    accelerator: Accelerator,
    network: QuantizedNetwork,
    codes: torch.Tensor | ImageStream,
    labels: np.ndarray | None,
    *,
    faults: FaultMap | None,
    gamma: float,
    target: str | None = None,
    detector: str = "exact",
    alpha: float | None = None,
    patrol: int | None = None,
    lookahead: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Run a technique over a stream of images, from freshly loaded weights.

    Parameters
    ----------
    technique : str
        One of ``TECHNIQUES``.
    codes : int8 (images, C, H, W), or a stream of them
    labels : int64 (images,) or None
    faults : FaultMap or None
        There from the first image on.
    gamma : float
        Confidence above which an exit is taken.
    target : str, optional
        Of the repairs that take one; see ``epsilon.repair``.
    detector : str
        See ``epsilon.detector``.
    alpha : float, optional
        The importance of every layer, in place of Eq. (2).
    patrol : int, optional
        Images from one check to the next that happens however sure the exits are; see ``epsilon.controller.Controller``.
    lookahead : int, optional
        Images evaluated ahead; changes the speed, never the result. Left out, as many as the accelerator runs at once.
    """
    if technique not in TECHNIQUES:
        raise ValueError(f"The technique must be one of {', '.join(TECHNIQUES)}, not {technique!r}")
    lookahead = lookahead or getattr(accelerator, "lanes", LOOKAHEAD)
    accelerator.load(network)
    coded = technique == "secded" and faults is not None
    accelerator.set_faults(uncorrected(faults, network, accelerator.config) if coded else faults)
    accelerator.reset_counters()
    if technique == "last-exit":
        stream = vanilla(accelerator, codes, lookahead=lookahead, progress=progress)
    else:
        repair = get_repair(technique, **({} if target is None else {"target": target})) if technique in REPAIRS else None
        tau = tau_of(network, accelerator.config) if technique == "mendnet" else None
        # Stored weights that are themselves damaged are gone; behind faulty PEs memory still has them.
        golden = golden_weights(network) if faults is None or not faults.has_storage else None
        controller = Controller(
            accelerator, gamma=gamma, repair=repair, detector=detector, golden=golden, alpha=alpha, tau=tau, patrol=patrol
        )
        stream = controller.stream(codes, lookahead=lookahead, progress=progress)
    return Outcome(technique, stream, labels, len(network.exits))
