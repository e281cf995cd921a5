"""How each network of the project is trained."""

from __future__ import annotations

from dataclasses import dataclass

from epsilon import models

__all__ = ["TUNED_FOR", "Recipe", "recipe_of"]

#: Tuned for unless others are named: the newer release but for L12, which sees 2 bits of an activation, so that weights that serve
#: it cost every other multiplier most of a point.
TUNED_FOR = ("KV6", "KV8", "KV9", "KVA", "KVM", "KVP", "KVQ", "KX5", "KXF", "L2J", "L2L", "L2N")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    epochs, tuning_epochs : int
        Passes over the training split in floating point, and as integers.
    cycles : int
        The floating-point epochs are so many one-cycle schedules of equal length, one after another: warm restarts as in
        Loshchilov and Hutter 2017. Divides ``epochs``.
    batch : int
    optimizer : str
        In floating point: ``adamw``, or ``sgd`` with Nesterov's momentum of 0.9.
    learning_rate : float
        Peak of the one-cycle schedule in floating point.
    weight_decay : float
        Of ``sgd``: of weights only, not of biases and BatchNorm.
    warm_up : float
        Part of the floating-point schedule in which the rate rises.
    tuning_rate : float
        The same as ``learning_rate`` for the integers, in weight codes per step.
    label_smoothing : float
        Keeps confidences off 1, so that a threshold tells sure from unsure.
    first_exit_weight : float
        Of the first exit in the joint loss, where the last one's is 1.
    augmentation : str
        ``distort``: rotated, zoomed and shifted; ``crop``: shifted and mirrored. See ``epsilon.augmentation``.
    rotation_degrees, shift_pixels, zoom : float
        Largest random distortion of a training image.
    calibration : int
        Training images on which activation ranges are measured.
    channels_last : bool
        Memory format of the floating-point training; faster for wide networks, and other roundings.
    distillation : float
        How much of the target of an integer network is what the floating-point one makes of the same image (Hinton et al. 2015);
        the rest is the label.
    weight_step : int
        Weight codes are multiples of it; see ``epsilon.quantize``.
    corrected : bool
        Whether each of these multipliers gets biases of its own; see ``QuantizedNetwork.corrections``.
    tuned_for : tuple of str
        Multipliers under which the integers are fine-tuned.
    """

    epochs: int
    tuning_epochs: int
    batch: int
    cycles: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 6e-3
    weight_decay: float = 1e-2
    warm_up: float = 0.3
    tuning_rate: float = 0.2
    label_smoothing: float = 0.05
    first_exit_weight: float = 0.5
    augmentation: str = "distort"
    rotation_degrees: float = 10.0
    shift_pixels: float = 2.0
    zoom: float = 0.1
    calibration: int = 1000
    channels_last: bool = False
    distillation: float = 0.0
    weight_step: int = 1
    corrected: bool = False
    tuned_for: tuple[str, ...] = TUNED_FOR

    def __post_init__(self) -> None:
        if self.cycles < 1 or self.epochs % self.cycles:
            raise ValueError(f"{self.epochs} epochs are no {self.cycles} cycles of equal length")


def _photographs(**fields) -> Recipe:
    """Return a recipe for colour photographs of 32x32, for as few epochs as a laptop has time for."""
    common = {
        "batch": 128,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "warm_up": 0.2,
        "first_exit_weight": 0.15,
        "augmentation": "crop",
        "shift_pixels": 4.0,
        "channels_last": True,
        "tuning_rate": 0.05,
        "weight_step": 8,
        "corrected": True,
        "tuning_epochs": 3,
        "distillation": 0.5,
    }
    return Recipe(**(common | fields))


RECIPES = {
    "digits": Recipe(epochs=200, tuning_epochs=100, batch=50, shift_pixels=1.0),
    "mnist": Recipe(epochs=12, tuning_epochs=6, batch=128),
}
#: By architecture, for every data set but MNIST.
PHOTOGRAPHS = {
    "vgg16": _photographs(epochs=24, cycles=2),
    "wideresnet": _photographs(epochs=8),
    "mobilenet": _photographs(epochs=48, cycles=3, tuning_epochs=4, weight_decay=2e-4),
}


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a network by its name.

    Raises
    ------
    ValueError
        For a name that ``epsilon.models.parse`` refuses.
    """
    wanted = models.parse(name)
    if name in RECIPES:
        return RECIPES[name]
    if wanted.dataset == "mnist":
        return _photographs(epochs=2, augmentation="distort", shift_pixels=2.0)
    return PHOTOGRAPHS[wanted.architecture]
