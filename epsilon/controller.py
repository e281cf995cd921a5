"""The EPSILON controller: exit confidence, a check of the signatures when no exit is sure, repair, and on with the stream.

Implements Algorithm 1 of [Khalil & Hoque] on a stream of images: a repair stays in the weight memory, so images up to the first one
that no exit is sure of run on the faulty weights, that one triggers the check, and the rest run on the repaired weights. The
controller sees nothing but the ``Accelerator`` protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from epsilon.accelerator import Accelerator, ScanRecords, StuckBits, WeightWords
from epsilon.confidence import confidences, energies, require_gamma
from epsilon.detector import Detector, get_detector
from epsilon.energy import EVENTS, Events
from epsilon.executor import Execution, ImageStream, encode
from epsilon.importance import OFFSET, LayerImportance, importances
from epsilon.network import QuantizedNetwork
from epsilon.repair import Repair, RepairContext, golden_totals, input_grid, useful_bits
from epsilon.signatures import golden_records, golden_signature

__all__ = ["Check", "Controller", "LayerCheck", "StreamResult", "repair_all", "vanilla"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LayerCheck:
    """What a check found of one layer.

    ``score`` and ``threshold`` are the detector's, the layer is ``flagged`` when the score is above; ``rewritten`` words changed.
    """

    layer: str
    score: float
    threshold: float
    rewritten: int = 0

    @property
    def flagged(self) -> bool:
        return self.score > self.threshold


@dataclass(frozen=True)
class Check:
    """One check of all layers, triggered by an image (its index in the stream) that no exit was sure of, or on patrol."""

    image: int
    layers: tuple[LayerCheck, ...]

    @property
    def flagged(self) -> tuple[str, ...]:
        """Names of the layers that were found faulty."""
        return tuple(layer.layer for layer in self.layers if layer.flagged)

    @property
    def rewritten(self) -> int:
        """Words that were changed in all layers."""
        return sum(layer.rewritten for layer in self.layers)


@dataclass(frozen=True, eq=False)
class StreamResult:
    """What became of a stream of images.

    Parameters
    ----------
    predictions : int64 (images,)
    exits : int64 (images,)
        The exit that each prediction was taken from, 0 for the first; the last one for images that no exit was sure of.
    confidences : float64 (images,)
        Of the exit taken.
    sure : bool (images,)
        Whether that exit's confidence is above gamma, when it first ran.
    run, scan, probe : int64 (images,)
        Cycles spent on the image; what a check costs counts for the image that triggered it.
    checks : tuple of Check
        Every check, in order.
    events : Events
        What the hardware did for all images, in those cycles.
    """

    predictions: np.ndarray
    exits: np.ndarray
    confidences: np.ndarray
    sure: np.ndarray
    run: np.ndarray
    scan: np.ndarray
    probe: np.ndarray
    checks: tuple[Check, ...] = ()
    events: Events = field(default_factory=Events)

    @property
    def cycles(self) -> np.ndarray:
        """All cycles spent on each image, int64 (images,)."""
        return self.run + self.scan + self.probe

    @property
    def repairs(self) -> tuple[Check, ...]:
        """The checks that rewrote anything."""
        return tuple(check for check in self.checks if check.rewritten)

    @property
    def rewritten(self) -> int:
        """Words that were changed by all repairs."""
        return sum(check.rewritten for check in self.checks)

    def correct(self, labels: np.ndarray) -> int:
        """Return how many predictions are those of ``labels``."""
        labels = np.asarray(labels)
        if labels.shape != self.predictions.shape:
            raise ValueError(f"There are {len(self.predictions)} predictions, but labels of shape {labels.shape}")
        return int(np.count_nonzero(self.predictions == labels))

    def accuracy(self, labels: np.ndarray) -> float:
        """Return the fraction of predictions that are those of ``labels``."""
        return self.correct(labels) / len(self.predictions)


class Controller:
    """Runs images on an accelerator, watches their confidence, and repairs what a check finds faulty.

    Parameters
    ----------
    accelerator : Accelerator
        With the network freshly loaded; its faults may change at any time.
    gamma : float
        Confidence above which an exit is taken, 0..1.
    repair : Repair or None
        None for a multi-exit network without detection: no check is ever made.
    detector : str or Detector
        ``pattern`` (Eq. 6) or ``exact``.
    golden : dict of str to int8 (N, K), optional
        The golden weights, where memory still has them (only PEs are faulty); ``epsilon.repair.golden_weights``.
    offset : float
        m of Eq. (3).
    alpha : float, optional
        The importance of every layer, in place of Eq. (2).
    tau : sequence of float, optional
        One per exit: an exit is taken only when its energy (``epsilon.confidence.energies``) is at most this, too.
    patrol : int, optional
        Check at every so many images of a stream as well, from its first one on, however sure the exits are. Algorithm 1 has no
        such check, and never looks at a network whose faults make it confidently wrong.

    Raises
    ------
    ValueError
        When gamma, alpha or patrol is out of range, there is not one tau per exit, or the repair needs flags that the accelerator
        is built without.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        *,
        gamma: float,
        repair: Repair | None,
        detector: str | Detector = "pattern",
        golden: Mapping[str, np.ndarray] | None = None,
        offset: float = OFFSET,
        alpha: float | None = None,
        tau: Sequence[float] | None = None,
        patrol: int | None = None,
    ) -> None:
        if repair is not None and repair.needs_flags and not accelerator.config.repair:
            raise ValueError(f"The repair {repair.name} needs the repair flags, which the accelerator is built without")
        exits = len(accelerator.network.exits)
        if tau is not None and len(tau) != exits:
            raise ValueError(f"The network has {exits} exits, but there are {len(tau)} thresholds tau")
        self.accelerator = accelerator
        self.gamma = require_gamma(gamma)
        self.tau = tau
        if patrol is not None:
            _require_positive("images from one patrol to the next", patrol)
        self.patrol = patrol
        self.repair = repair
        self.detector = get_detector(detector)
        self.importances = importances(accelerator.network, offset, alpha)
        self._layers = {name: _LayerBook(accelerator, name, importance, golden) for name, importance in self.importances.items()}
        #: Records that a check found nothing in, and what it found.
        self._quiet: tuple[dict[str, ScanRecords], tuple[LayerCheck, ...]] = ({}, ())

    def stream(
        self, images: np.ndarray | torch.Tensor | ImageStream, *, lookahead: int = 256, progress: Progress | None = None
    ) -> StreamResult:
        """Run a stream of images one after another; the results are the same for every ``lookahead``.

        What was found and repaired stays known to the next stream.

        Parameters
        ----------
        images : uint8 or int8 (images, C, H, W)
            Images, or codes from ``encode``; or an ``ImageStream`` of them.
        lookahead : int
            Images that are evaluated ahead in one batch; those after a repair are evaluated again.
        progress : callable, optional
            Called with the images done and all images.
        """
        source = _source(self.accelerator.network, images)
        _require_positive("lookahead", lookahead)
        book = _StreamBook(len(source))
        start = 0
        while start < len(source):
            stop = min(start + lookahead, len(source))
            self._evaluate(source, book, start, stop)
            start = self._settle(source, book, start, stop)
            if progress is not None:
                progress(start, len(source))
        return book.result()

    def _evaluate(self, source: ImageStream, book: _StreamBook, start: int, stop: int) -> None:
        """Take every image's first sure exit, the last where none is."""
        execution = source.execution(self.accelerator, start, stop)
        waiting = np.arange(start, stop)
        for exit_index in range(len(self.accelerator.network.exits)):
            logits = execution.exit(exit_index)
            predictions, found = confidences(logits)
            unsure = found <= self.gamma
            if self.tau is not None:
                unsure |= energies(logits) > self.tau[exit_index]
            book.take(waiting, exit_index, predictions, found, ~unsure, execution)
            waiting = waiting[unsure]
            if not len(waiting):
                break
            execution.narrow(torch.from_numpy(unsure))

    def _settle(self, source: ImageStream, book: _StreamBook, start: int, stop: int) -> int:
        """Check for each unsure image of those evaluated, and on patrol; return where to go on: after a repair, or at the end."""
        if self.repair is None:
            return stop
        triggers = ~book.sure[start:stop]
        if self.patrol is not None:
            triggers[-start % self.patrol :: self.patrol] = True
        for image in start + np.flatnonzero(triggers):
            before = self.accelerator.counters()
            check = self._check(int(image))
            if check.rewritten:
                self._recompute(source, book, int(image))
                self._renew(check)
            after = self.accelerator.counters()
            book.scan[image], book.probe[image] = after.scan - before.scan, after.probe - before.probe
            # With the second prediction, whose cycles were added to those of the run.
            book.events[image] += (after.events - before.events).as_array()
            book.checks.append(check)
            if check.rewritten:
                return int(image) + 1
        return stop

    def _check(self, image: int) -> Check:
        """Compare every layer with its reference and repair those that are faulty."""
        records = self.accelerator.read_records()
        unchanged, found = self._quiet
        if unchanged and all(records[name] is unchanged[name] for name in self._layers):
            return Check(image, found)
        found = []
        for name, layer in self._layers.items():
            score = self.detector.score(layer.reference, records[name])
            finding = LayerCheck(name, score, self.detector.threshold(layer.importance.threshold))
            if finding.flagged:
                finding = LayerCheck(name, score, finding.threshold, self._repair(name))
                # Also where nothing could be done: the same fault does not raise a second alarm.
                layer.reference = records[name]
            found.append(finding)
        check = Check(image, tuple(found))
        if not check.flagged:
            # An accelerator that gives the very same records again need not be compared again.
            self._quiet = records, check.layers
        return check

    def _repair(self, name: str) -> int:
        """Read a layer back, repair it, and return how many words were rewritten."""
        layer, accelerator = self._layers[name], self.accelerator
        seen = accelerator.read_weights(name)
        stuck = None
        if self.repair.needs_probe:
            stuck = useful_bits(accelerator.probe(name), layer.used_weight_bits)
        words = self.repair.repair_layer(layer.context(seen, stuck))
        changed = layer.words.differing(words)
        if changed:
            accelerator.write_weights(name, words)
        layer.words, layer.known = words, stuck
        return changed

    def _recompute(self, source: ImageStream, book: _StreamBook, image: int) -> None:
        """Predict the triggering image again, at the last exit, with the repaired weights."""
        execution = source.execution(self.accelerator, image, image + 1)
        predictions, found = confidences(execution.exit(-1))
        book.predictions[image], book.confidences[image] = predictions[0], found[0]
        book.run[image] += execution.cycles

    def _renew(self, check: Check) -> None:
        """Make the records of the repaired layers their reference."""
        records = self.accelerator.read_records()
        for layer in check.layers:
            if layer.rewritten:
                self._layers[layer.layer].reference = records[layer.layer]


def vanilla(
    accelerator: Accelerator,
    images: np.ndarray | torch.Tensor | ImageStream,
    *,
    lookahead: int = 256,
    progress: Progress | None = None,
) -> StreamResult:
    """Run images through to the last exit alone, without any detection; see ``Controller.stream``."""
    source = _source(accelerator.network, images)
    _require_positive("lookahead", lookahead)
    book = _StreamBook(len(source))
    last = len(accelerator.network.exits) - 1
    for start in range(0, len(source), lookahead):
        execution = source.execution(accelerator, start, min(start + lookahead, len(source)))
        predictions, found = confidences(execution.exit(last))
        taken = np.arange(start, start + len(predictions))
        book.take(taken, last, predictions, found, np.ones(len(taken), bool), execution)
        if progress is not None:
            progress(start + len(taken), len(source))
    return book.result()


def repair_all(accelerator: Accelerator, repair: Repair, golden: Mapping[str, np.ndarray] | None = None) -> dict[str, int]:
    """Repair every layer of a freshly loaded network once, without detection; return the words rewritten, by layer.

    Parameters
    ----------
    golden : dict of str to int8 (N, K), optional
        As for ``Controller``.
    """
    controller = Controller(accelerator, gamma=1.0, repair=repair, golden=golden)
    accelerator.read_records()  # a check begins with it: what was probed before is probed again
    return {name: controller._repair(name) for name in controller.importances}


class _LayerBook:
    """What the controller knows of a layer: from before deployment, and from its own repairs."""

    def __init__(
        self, accelerator: Accelerator, name: str, importance: LayerImportance, golden: Mapping[str, np.ndarray] | None
    ) -> None:
        layer = accelerator.network[name]
        self.importance = importance
        self.golden = None if golden is None else golden[name]
        self.used_weight_bits = accelerator.config.multiplier.used_weight_bits
        self.totals = golden_totals(layer.matrix, self.used_weight_bits)
        self.signature = golden_signature(layer)
        self.reference: ScanRecords = golden_records(layer)
        self.words = WeightWords.plain(layer.matrix)
        self.known: StuckBits | None = None
        self.grid = input_grid(accelerator.network, name)

    def context(self, seen: np.ndarray, stuck: StuckBits | None) -> RepairContext:
        return RepairContext(
            words=self.words,
            seen=seen,
            signature=self.signature,
            totals=self.totals,
            threshold=self.importance.threshold_codes,
            stuck=stuck,
            known=self.known,
            golden=self.golden,
            used_weight_bits=self.used_weight_bits,
            grid=self.grid,
        )


class _StreamBook:
    """The results of a stream while they are being made."""

    def __init__(self, images: int) -> None:
        self.predictions, self.exits, self.run, self.scan, self.probe = np.zeros((5, images), dtype=np.int64)
        self.confidences = np.zeros(images)
        self.sure = np.zeros(images, dtype=bool)
        self.events = np.zeros((images, len(EVENTS)), dtype=np.int64)
        self.checks: list[Check] = []

    def take(
        self, images: np.ndarray, exit_index: int, predictions: np.ndarray, found: np.ndarray, sure: np.ndarray, spent: Execution
    ) -> None:
        """Note an exit's results; a later exit's replace them."""
        self.predictions[images], self.confidences[images] = predictions, found
        self.exits[images], self.sure[images], self.run[images] = exit_index, sure, spent.cycles
        self.events[images] = spent.events.as_array()

    def result(self) -> StreamResult:
        return StreamResult(
            self.predictions,
            self.exits,
            self.confidences,
            self.sure,
            self.run,
            self.scan,
            self.probe,
            tuple(self.checks),
            Events.from_array(self.events.sum(axis=0)),
        )


def _source(network: QuantizedNetwork, images: np.ndarray | torch.Tensor | ImageStream) -> ImageStream:
    if isinstance(images, ImageStream):
        return images
    codes = images if isinstance(images, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    return ImageStream(codes if codes.dtype == torch.int8 else encode(network, codes))


def _require_positive(what: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"The {what} must be an integer of at least 1, not {value!r}")
