"""Trains, quantises and fine-tunes the networks that come with the project.

The floating-point network is trained with the exits' joint loss, quantised, and fine-tuned as integers under several multipliers in
turn. Thresholds are fitted on the validation split; the test split is read once, for the accuracies that the file states. One seed
decides everything; one thread computes, so that equal seeds give equal bytes on the same machine.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from epsilon import data as datasets
from epsilon import models, multipliers
from epsilon.checkpoint import Checkpoint
from epsilon.config import ArrayConfig
from epsilon.data import Dataset
from epsilon.emulator import Emulator
from epsilon.executor import Execution, encode
from epsilon.multipliers import Multiplier
from epsilon.network import QuantizedNetwork
from epsilon.network_io import save
from epsilon.quantize import TOP, quantize
from epsilon.thresholds import exits_taken, fit_gamma, multi_exit_accuracy
from epsilon.tuning import TrainableNetwork
from epsilon.validation import macs

__all__ = ["RECIPES", "Progress", "Recipe", "evaluate", "names", "train"]

#: Called with what is being done (``train``, ``tune`` or ``measure``), steps done, all steps, and figures in words.
Progress = Callable[[str, int, int, str], None]

#: Multipliers whose thresholds a network file holds: the newer release, and the one whose name repeats with another meaning.
RELEASE = "v2022"
EXTRA_MULTIPLIERS = ("v1/mul8s_1L2H",)
#: Multipliers whose accuracies on the test split it states, with those that it is tuned for on request.
REPORTED = ("KV6", "KVP")
#: Tuned for unless others are named: the newer release but for L12, which sees 2 bits of an activation, so that weights that serve
#: it cost every other multiplier most of a point.
TUNED_FOR = ("KV6", "KV8", "KV9", "KVA", "KVM", "KVP", "KVQ", "KX5", "KXF", "L2J", "L2L", "L2N")
EVALUATION_BATCH = 1000
ADAM_EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    epochs, tuning_epochs : int
        Passes over the training split in floating point, and as integers.
    batch : int
    learning_rate : float
        Peak of the one-cycle schedule in floating point.
    tuning_rate : float
        The same for the integers, in weight codes per step.
    label_smoothing : float
        Keeps confidences off 1, so that a threshold tells sure from unsure.
    rotation_degrees, shift_pixels, zoom : float
        Largest random distortion of a training image.
    calibration : int
        Training images on which activation ranges are measured.
    tuned_for : tuple of str
        Multipliers under which the integers are fine-tuned.
    """

    epochs: int
    tuning_epochs: int
    batch: int
    learning_rate: float = 6e-3
    tuning_rate: float = 0.2
    label_smoothing: float = 0.05
    rotation_degrees: float = 10.0
    shift_pixels: float = 2.0
    zoom: float = 0.1
    calibration: int = 1000
    tuned_for: tuple[str, ...] = TUNED_FOR


RECIPES = {
    "digits": Recipe(epochs=200, tuning_epochs=100, batch=50, shift_pixels=1.0),
    "mnist": Recipe(epochs=12, tuning_epochs=6, batch=128),
}


def names() -> tuple[str, ...]:
    """Return the names of the networks that can be trained."""
    return tuple(RECIPES)


def train(
    name: str,
    data: str | os.PathLike | None = None,
    *,
    epochs: int | None = None,
    tuning_epochs: int | None = None,
    tuned_for: Sequence[str] | None = None,
    seed: int = 0,
    out: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> QuantizedNetwork:
    """Return the trained integer network, and write it to a file when one is named.

    Parameters
    ----------
    name : str
        ``digits`` or ``mnist``.
    data : path, optional
        Where the data set is; see ``epsilon.data.load``.
    epochs, tuning_epochs : int, optional
        Instead of the recipe's.
    tuned_for : sequence of str, optional
        Multipliers to fine-tune for, instead of the recipe's.
    seed : int
    out : path, optional
    checkpoint : path, optional
        Written after every epoch and deleted at the end; a training that was killed goes on from it, to the same bytes.
    progress : callable, optional

    Raises
    ------
    ValueError
        For an unknown network or multiplier, a number of epochs below 1 (0 for tuning), a checkpoint of another training, and
        where the data cannot be read.
    """
    if name not in RECIPES:
        raise ValueError(f"The network must be one of {', '.join(RECIPES)}, not {name!r}")
    recipe = RECIPES[name]
    for field, value, low in (("epochs", epochs, 1), ("tuning_epochs", tuning_epochs, 0)):
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"The number of {field.replace('_', ' ')} must be an integer of at least {low}, not {value!r}")
            recipe = replace(recipe, **{field: value})
    if tuned_for is not None:
        chosen = [multipliers.get(wanted) for wanted in tuned_for]
        for multiplier in chosen:
            if multiplier.terms is None or not multiplier.keeps_zero:
                needed = "a sum of exact products that gives 0 for an activation of 0"
                raise ValueError(f"The network cannot be fine-tuned for {multiplier.key}: fine-tuning needs {needed}")
        recipe = replace(recipe, tuned_for=tuple(multiplier.spec for multiplier in chosen))
        if not recipe.tuned_for:
            raise ValueError("The network must be fine-tuned for at least one multiplier")
    splits = {split: datasets.load(name, split, data) for split in datasets.SPLITS}
    report = progress or (lambda *_: None)
    state = Checkpoint(checkpoint, json.dumps({"name": name, "seed": seed, **asdict(recipe)}, sort_keys=True))
    with _one_thread():
        generator = torch.Generator().manual_seed(seed)
        model = _train_float(models.build(name, seed), splits["train"], recipe, generator, state, report)
        network = quantize(model, splits["train"].images[: recipe.calibration], name=name)
        network = _tune(network, splits["train"], recipe, generator, state, report)
        network = replace(network, metadata=_measured(network, splits, recipe, seed, report))
    if out is not None:
        save(network, out)
    state.discard()
    return network


def evaluate(network: QuantizedNetwork, images: np.ndarray, multiplier: Multiplier | str) -> list[np.ndarray]:
    """Return the logits of every exit under a multiplier, fault-free, float64 (count, classes) each."""
    accelerator = Emulator(ArrayConfig(multiplier=multiplier))
    accelerator.load(network)
    collected: list[list[np.ndarray]] = [[] for _ in network.exits]
    for start in range(0, len(images), EVALUATION_BATCH):
        execution = Execution(accelerator, encode(network, images[start : start + EVALUATION_BATCH]))
        for index, parts in enumerate(collected):
            parts.append(execution.exit(index).numpy())
    return [np.concatenate(parts) for parts in collected]


def _train_float(
    model: models.MultiExit, dataset: Dataset, recipe: Recipe, generator: torch.Generator, state: Checkpoint, report: Progress
) -> models.MultiExit:
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=1e-2)
    schedule = _schedule(optimizer, recipe.learning_rate, recipe.epochs, dataset, recipe, warm_up=0.3)
    model.train()
    done = state.restore("train", recipe.epochs, model, optimizer, schedule, generator)
    for epoch in range(done, recipe.epochs):
        losses = []
        for pixels, labels in _batches(dataset, recipe, generator):
            loss = models.joint_loss(model(pixels), labels, label_smoothing=recipe.label_smoothing)
            losses.append(_step(loss, optimizer, schedule))
        state.save("train", epoch + 1, model, optimizer, schedule, generator)
        report("train", epoch + 1, recipe.epochs, f"loss {np.mean(losses):.3f}")
    return model.eval()


def _tune(
    network: QuantizedNetwork, dataset: Dataset, recipe: Recipe, generator: torch.Generator, state: Checkpoint, report: Progress
) -> QuantizedNetwork:
    if not recipe.tuning_epochs:
        return network
    trainable = TrainableNetwork(network)
    optimizer = torch.optim.Adam(trainable.parameters(), lr=recipe.tuning_rate, eps=ADAM_EPSILON)
    schedule = _schedule(optimizer, recipe.tuning_rate, recipe.tuning_epochs, dataset, recipe, warm_up=0.1)
    chosen = [multipliers.get(wanted) for wanted in recipe.tuned_for]
    done = state.restore("tune", recipe.tuning_epochs, trainable, optimizer, schedule, generator)
    for epoch in range(done, recipe.tuning_epochs):
        losses = []
        turns = _turns(chosen, generator)
        for pixels, labels in _batches(dataset, recipe, generator):
            logits = trainable((pixels * TOP).round(), next(turns))
            losses.append(_step(models.joint_loss(logits, labels, label_smoothing=recipe.label_smoothing), optimizer, schedule))
        state.save("tune", epoch + 1, trainable, optimizer, schedule, generator)
        report("tune", epoch + 1, recipe.tuning_epochs, f"loss {np.mean(losses):.3f}")
    return trainable.freeze()


def _measured(network: QuantizedNetwork, splits: dict[str, Dataset], recipe: Recipe, seed: int, report: Progress) -> dict:
    """Return the metadata: thresholds from the validation split, accuracies on the test split, and how the network was made."""
    named = recipe.tuned_for if recipe.tuned_for != TUNED_FOR else ()
    released = [m for m in multipliers.catalogue().values() if m.release == RELEASE]
    chosen = list(dict.fromkeys([*released, *map(multipliers.get, (*EXTRA_MULTIPLIERS, *named))]))
    reported = list(dict.fromkeys(map(multipliers.get, (*REPORTED, *named))))
    steps = len(chosen) + len(reported)
    validation, test = splits["validation"], splits["test"]
    gamma, validated = {}, {}
    for step, multiplier in enumerate(chosen, start=1):
        logits = evaluate(network, validation.images, multiplier)
        gamma[multiplier.key] = fit_gamma(logits, validation.labels)
        validated[multiplier.key] = _accuracies(logits, validation.labels, gamma[multiplier.key])
        report("measure", step, steps, f"gamma {gamma[multiplier.key]:.2f} with {multiplier.short_name}")
    tested = {}
    for step, multiplier in enumerate(reported, start=len(chosen) + 1):
        logits = evaluate(network, test.images, multiplier)
        tested[multiplier.key] = _accuracies(logits, test.labels, gamma[multiplier.key])
        report("measure", step, steps, f"{tested[multiplier.key]['multi_exit']:.2%} with {multiplier.short_name}")
    return {
        "gamma": gamma,
        "accuracy": {
            "test": {"images": len(test), "by_multiplier": tested},
            "validation": {"images": len(validation), "by_multiplier": validated},
        },
        "made": {
            "by": "epsilon train",
            "data": {split: len(dataset) for split, dataset in splits.items()},
            "recipe": asdict(recipe),
            "seed": seed,
            "torch": torch.__version__,
        },
        "macs_per_image": macs(network),
        "weights": sum(layer.weight.size for layer in network.weighted),
    }


def _accuracies(logits: list[np.ndarray], labels: np.ndarray, gamma: float) -> dict:
    _, exits, sure = exits_taken(logits, gamma)
    return {
        "exits": [float((exit_logits.argmax(axis=1) == labels).mean()) for exit_logits in logits],
        "multi_exit": multi_exit_accuracy(logits, labels, gamma),
        "taken": np.bincount(exits, minlength=len(logits)).tolist(),
        "unsure": int((~sure).sum()),
    }


def _batches(dataset: Dataset, recipe: Recipe, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield one epoch of distorted images, float32 in [0, 1], and their labels; the incomplete last batch is left out."""
    order = torch.randperm(len(dataset), generator=generator)
    for step in range(len(dataset) // recipe.batch):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch].numpy()
        pixels = torch.from_numpy(dataset.images[chosen]).to(torch.float32) / 255
        yield _distorted(pixels, recipe, generator), torch.from_numpy(dataset.labels[chosen])


def _distorted(pixels: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Return images that are rotated, zoomed and shifted at random, bilinear, background 0."""
    count, side = len(pixels), pixels.shape[-1]
    random = 2 * torch.rand((4, count), generator=generator) - 1
    angle = random[0] * math.radians(recipe.rotation_degrees)
    zoom = 1 + random[1] * recipe.zoom
    shift = random[2:] * (2 * recipe.shift_pixels / side)
    rows = [
        torch.stack([angle.cos() * zoom, -angle.sin() * zoom, shift[0]], dim=1),
        torch.stack([angle.sin() * zoom, angle.cos() * zoom, shift[1]], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False)


def _turns(chosen: list[Multiplier], generator: torch.Generator) -> Iterator[Multiplier]:
    """Yield the multipliers without end, each once per round, the rounds in random order."""
    while True:
        for index in torch.randperm(len(chosen), generator=generator).tolist():
            yield chosen[index]


def _schedule(
    optimizer: torch.optim.Optimizer, rate: float, epochs: int, dataset: Dataset, recipe: Recipe, *, warm_up: float
) -> torch.optim.lr_scheduler.OneCycleLR:
    steps = epochs * (len(dataset) // recipe.batch)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=warm_up)


def _step(loss: torch.Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    return float(loss.detach())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: with several, sums would depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
