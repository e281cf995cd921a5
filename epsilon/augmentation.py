"""Random changes of training images that leave their class as it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from epsilon.recipes import Recipe

__all__ = ["augmented"]


def augmented(pixels: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Return randomly changed images as the recipe's ``augmentation`` says, float32 pixel values over 255.

    Parameters
    ----------
    pixels : uint8 (batch, C, H, W)

    Raises
    ------
    ValueError
        For an unknown augmentation.
    """
    brightness = pixels.to(torch.float32) / 255
    if recipe.augmentation == "distort":
        return _distorted(brightness, recipe, generator)
    if recipe.augmentation == "crop":
        return _shifted(brightness, int(recipe.shift_pixels), generator)
    raise ValueError(f"The augmentation must be distort or crop, not {recipe.augmentation!r}")


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


def _shifted(pixels: torch.Tensor, reach: int, generator: torch.Generator) -> torch.Tensor:
    """Return images that are shifted by up to ``reach`` pixels each way, the edge reflected, and mirrored every other time."""
    count, channels, height, width = pixels.shape
    rows, columns = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand((count, 1), generator=generator) < 0.5
    rows = rows + torch.arange(height)
    columns = columns + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
    bordered = functional.pad(pixels, (reach,) * 4, mode="reflect")
    image, channel = torch.arange(count).reshape(-1, 1, 1, 1), torch.arange(channels).reshape(1, -1, 1, 1)
    return bordered[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
