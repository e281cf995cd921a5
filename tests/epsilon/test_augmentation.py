"""Changed training images: what may change, and that the generator alone decides."""

from dataclasses import replace

import pytest
import torch

from epsilon.augmentation import augmented
from epsilon.recipes import recipe_of

CROP = recipe_of("vgg16-cifar10")
DISTORT = recipe_of("digits")


def test_crop_shifts_and_mirrors_whole_images():
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    image = (16 * rows + columns).to(torch.uint8)[None, None].expand(200, 2, 16, 16)
    found = (augmented(image, CROP, torch.Generator().manual_seed(0)) * 255).round().long()
    down, right = found[:, :, 1:, :] - found[:, :, :-1, :], found[..., 1:] - found[..., :-1]
    # Away from the reflected edge a row further is 16 more, a column further 1 more, or 1 less where the image is mirrored.
    assert (down[:, :, 4:-4, :] == 16).all()
    sides = right[:, 0, 8, 7]
    assert (right[..., 4:-4] == sides.reshape(-1, 1, 1, 1)).all()
    assert set(sides.tolist()) == {-1, 1}
    assert len(found[:, 0, 8, 8].unique()) > 40
    assert torch.equal(found[:, 0], found[:, 1])


def test_without_reach_images_are_only_mirrored():
    image = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    found = augmented(image, replace(CROP, shift_pixels=0.0), torch.Generator().manual_seed(3))
    plain = image.float() / 255
    same = (found == plain).flatten(1).all(dim=1)
    mirrored = (found == plain.flip(-1)).flatten(1).all(dim=1)
    assert (same | mirrored).all()
    assert 5 < int(same.sum()) < 35


@pytest.mark.parametrize("recipe", [CROP, DISTORT])
def test_equal_generators_give_equal_images(recipe):
    image = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    one, two, other = (augmented(image, recipe, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.dtype == torch.float32
    assert 0 <= float(one.min()) <= float(one.max()) <= 1


def test_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match="must be distort or crop, not 'cutout'"):
        augmented(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), replace(CROP, augmentation="cutout"), torch.Generator())
