"""Trains, quantises and fine-tunes the networks that come with the project.

The floating-point network is trained with the exits' joint loss, quantised, and fine-tuned as integers under several multipliers in
turn. Thresholds are fitted on the validation split; the test split is read once, for the accuracies that the file states. One seed
decides everything, and on the CPU equal seeds and numbers of threads give equal bytes on the same machine.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from epsilon import data as datasets
from epsilon import models, multipliers
from epsilon.augmentation import augmented
from epsilon.checkpoint import Checkpoint
from epsilon.data import Dataset
from epsilon.devices import require_device
from epsilon.measurement import Progress, measure, measured_multipliers
from epsilon.multipliers import Multiplier
from epsilon.network import QuantizedNetwork
from epsilon.network_io import save
from epsilon.quantize import TOP, quantize
from epsilon.recipes import TUNED_FOR, Recipe, recipe_of
from epsilon.tuning import TrainableNetwork

__all__ = ["train"]

EVALUATION_BATCH = 1000
ADAM_EPSILON = 1e-12
MOMENTUM = 0.9
#: Steps between two reports of the loss.
REPORT_STEPS = 50
MEASURED = "measured"


def train(
    name: str,
    data: str | os.PathLike | None = None,
    *,
    epochs: int | None = None,
    tuning_epochs: int | None = None,
    tuned_for: Sequence[str] | None = None,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
    out: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> QuantizedNetwork:
    """Return the trained integer network, and write it to a file when one is named.

    Parameters
    ----------
    name : str
        See ``epsilon.models.zoo``.
    data : path, optional
        Where the data set is; see ``epsilon.data.load``.
    epochs, tuning_epochs : int, optional
        Instead of the recipe's; ``epochs`` are one cycle.
    tuned_for : sequence of str, optional
        Multipliers to fine-tune for, instead of the recipe's.
    seed : int
    threads : int
        Cores that compute; another number rounds sums in another order, and so gives another network.
    device : str
        Where training computes, for example ``cuda``; repeatable to the byte on ``cpu`` only.
    out : path, optional
    checkpoint : path, optional
        Written after every epoch and deleted at the end; a training that was killed goes on from it, to the same bytes.
    progress : callable, optional

    Raises
    ------
    ValueError
        For an unknown network or multiplier, a number of epochs or threads below 1 (0 for tuning), a device that is not there, a
        checkpoint of another training, and where the data cannot be read.
    """
    recipe = recipe_of(name)
    for field, value, low in (("epochs", epochs, 1), ("tuning_epochs", tuning_epochs, 0), ("threads", threads, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
            raise ValueError(f"The number of {field.replace('_', ' ')} must be an integer of at least {low}, not {value!r}")
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs, cycles=1)
    if tuning_epochs is not None:
        recipe = replace(recipe, tuning_epochs=tuning_epochs)
    if tuned_for is not None:
        chosen = [multipliers.get(wanted) for wanted in tuned_for]
        for multiplier in chosen:
            if multiplier.terms is None or not multiplier.keeps_zero:
                needed = "a sum of exact products that gives 0 for an activation of 0"
                raise ValueError(f"The network cannot be fine-tuned for {multiplier.key}: fine-tuning needs {needed}")
        recipe = replace(recipe, tuned_for=tuple(multiplier.spec for multiplier in chosen))
        if not recipe.tuned_for:
            raise ValueError("The network must be fine-tuned for at least one multiplier")
    dataset = models.parse(name).dataset
    splits = {split: datasets.load(dataset, split, data) for split in datasets.SPLITS}
    key = json.dumps({"name": name, "seed": seed, "threads": threads, **asdict(recipe)}, sort_keys=True)
    state = Checkpoint(checkpoint, key)
    with _threads(threads):
        run = _Training(
            recipe=recipe,
            splits=splits,
            generator=torch.Generator().manual_seed(seed),
            state=state,
            device=require_device(device),
            report=progress or (lambda *_: None),
        )
        model = run.train_float(models.build(name, seed))
        network = quantize(model.cpu(), splits["train"].images[: recipe.calibration], name=name, step=recipe.weight_step)
        network = run.tune(network, model)
        named = recipe.tuned_for if recipe.tuned_for != TUNED_FOR else ()
        measured = measure(
            network,
            splits,
            measured_multipliers(named),
            device=device,
            known=state.recall(MEASURED),
            remember=lambda found: state.remember(MEASURED, found),
            progress=progress,
        )
    made = {
        "by": "epsilon train",
        "data": {split: len(found) for split, found in splits.items()},
        "recipe": asdict(recipe),
        "seed": seed,
        "threads": threads,
        "device": run.device.type,
        "torch": torch.__version__,
    }
    network = replace(network, metadata={"dataset": dataset, **measured, "made": made})
    if out is not None:
        save(network, out)
    state.discard()
    return network


@dataclass(kw_only=True)
class _Training:
    """What the phases of one training share."""

    recipe: Recipe
    splits: Mapping[str, Dataset]
    generator: torch.Generator
    state: Checkpoint
    device: torch.device
    report: Progress

    def train_float(self, model: models.MultiExit) -> models.MultiExit:
        """Return the model, trained in floating point."""
        recipe = self.recipe
        model.to(self.device, memory_format=self._memory_format)
        optimizer = _optimizer(model, recipe)
        cycle = recipe.epochs // recipe.cycles

        def new_schedule() -> torch.optim.lr_scheduler.OneCycleLR:
            return self._schedule(optimizer, recipe.learning_rate, cycle, warm_up=recipe.warm_up)

        schedule = new_schedule()
        model.train()
        for epoch in self._epochs("train", recipe.epochs, model, optimizer, schedule):
            if epoch and epoch % cycle == 0:
                schedule = new_schedule()
            for step, (brightness, labels) in enumerate(self._batches(), start=1):
                loss = self._step(model(self._laid_out(model.real(brightness))), labels, optimizer, schedule)
                self._report_step("train", recipe.epochs, epoch, step, loss)
            self.state.save("train", epoch + 1, model, optimizer, schedule, self.generator)
            right = self._float_accuracy(model)
            self.report("train", *self._reached(recipe.epochs, epoch + 1), f"epoch {epoch + 1}, validation {right:.2%}")
        return model.eval()

    def tune(self, network: QuantizedNetwork, model: models.MultiExit) -> QuantizedNetwork:
        """Return the network, its integers fine-tuned under the recipe's multipliers in turn."""
        recipe = self.recipe
        if not recipe.tuning_epochs:
            return network
        model.to(self.device, memory_format=self._memory_format)
        chosen = [multipliers.get(wanted) for wanted in recipe.tuned_for]
        corrected_for = [multiplier for multiplier in chosen if recipe.corrected and multiplier.mask is not None]
        trainable = TrainableNetwork(network, recipe.weight_step, corrected_for).to(self.device)
        optimizer = torch.optim.Adam(trainable.parameters(), lr=recipe.tuning_rate, eps=ADAM_EPSILON)
        schedule = self._schedule(optimizer, recipe.tuning_rate, recipe.tuning_epochs, warm_up=0.1)
        for epoch in self._epochs("tune", recipe.tuning_epochs, trainable, optimizer, schedule):
            turns = _turns(chosen, self.generator)
            for step, (brightness, labels) in enumerate(self._batches(), start=1):
                real = self._laid_out(model.real(brightness))
                targets = self._targets(real, labels, model)
                loss = self._step(trainable((real * TOP).round(), next(turns)), targets, optimizer, schedule)
                self._report_step("tune", recipe.tuning_epochs, epoch, step, loss)
            self.state.save("tune", epoch + 1, trainable, optimizer, schedule, self.generator)
            self.report("tune", *self._reached(recipe.tuning_epochs, epoch + 1), f"epoch {epoch + 1}, loss {float(loss):.3f}")
        return trainable.freeze()

    @torch.no_grad()
    def _targets(self, real: torch.Tensor, labels: torch.Tensor, model: models.MultiExit) -> torch.Tensor:
        """Return what an integer network shall answer: labels, or probabilities, float32 (batch, classes), as the recipe mixes."""
        part = self.recipe.distillation
        if not part:
            return labels
        taught = model(real)[-1].softmax(dim=1)
        return (1 - part) * nn.functional.one_hot(labels, model.classes) + part * taught

    def _epochs(self, phase: str, epochs: int, module, optimizer, schedule) -> range:
        """Bring everything to where the checkpoint stands, and return the epochs that are left."""
        return range(self.state.restore(phase, epochs, module, optimizer, schedule, self.generator), epochs)

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.recipe.channels_last else torch.contiguous_format

    @property
    def _steps(self) -> int:
        """Batches of an epoch; the incomplete last one is left out."""
        return len(self.splits["train"]) // self.recipe.batch

    def _laid_out(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self.device).contiguous(memory_format=self._memory_format)

    def _reached(self, epochs: int, done: int, step: int = 0) -> tuple[int, int]:
        return done * self._steps + step, epochs * self._steps

    def _report_step(self, phase: str, epochs: int, epoch: int, step: int, loss: torch.Tensor) -> None:
        if step % REPORT_STEPS == 0:
            self.report(phase, *self._reached(epochs, epoch, step), f"epoch {epoch + 1}, loss {float(loss):.3f}")

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield one epoch of changed images, float32 in [0, 1], and their labels."""
        dataset, batch = self.splits["train"], self.recipe.batch
        order = torch.randperm(len(dataset), generator=self.generator)
        for step in range(self._steps):
            chosen = order[step * batch : (step + 1) * batch].numpy()
            images = augmented(torch.from_numpy(dataset.images[chosen]), self.recipe, self.generator)
            yield images, torch.from_numpy(dataset.labels[chosen]).to(self.device)

    def _schedule(
        self, optimizer: torch.optim.Optimizer, rate: float, epochs: int, *, warm_up: float
    ) -> torch.optim.lr_scheduler.OneCycleLR:
        # Adam's momentum is cycled with the rate, that of SGD is not.
        cycled = not isinstance(optimizer, torch.optim.SGD)
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=rate, total_steps=epochs * self._steps, pct_start=warm_up, cycle_momentum=cycled
        )

    def _step(
        self,
        logits: list[torch.Tensor],
        targets: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> torch.Tensor:
        recipe = self.recipe
        loss = models.joint_loss(logits, targets, label_smoothing=recipe.label_smoothing, first_weight=recipe.first_exit_weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.detach()

    @torch.no_grad()
    def _float_accuracy(self, model: models.MultiExit) -> float:
        """Return the fraction of validation images that the last exit gets right."""
        dataset = self.splits["validation"]
        model.eval()
        right = 0
        for start in range(0, len(dataset), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            brightness = torch.from_numpy(dataset.images[part]).to(torch.float32) / 255
            logits = model(self._laid_out(model.real(brightness)))[-1].cpu()
            right += int((logits.argmax(dim=1) == torch.from_numpy(dataset.labels[part])).sum())
        model.train()
        return right / len(dataset)


def _optimizer(model: models.MultiExit, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    if recipe.optimizer != "sgd":
        raise ValueError(f"The optimizer must be adamw or sgd, not {recipe.optimizer!r}")
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=MOMENTUM, nesterov=True)


def _turns(chosen: list[Multiplier], generator: torch.Generator) -> Iterator[Multiplier]:
    """Yield the multipliers without end, each once per round, the rounds in random order."""
    while True:
        for index in torch.randperm(len(chosen), generator=generator).tolist():
            yield chosen[index]


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads: sums depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
