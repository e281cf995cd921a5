"""ImageNet-1k: class folders, the order, lazy decoding, preparation, and the sample."""

import hashlib
import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from epsilon import data
from epsilon.cli import options
from epsilon.data import DataError, imagenet
from epsilon.data.dataset import Pictures

WNIDS = [f"n{1_000_000 + 17 * number:08d}" for number in range(1000)]
VALUES = (np.arange(8) * 30).tolist()


def jpeg(grey: int, size: tuple[int, int] = (16, 20)) -> bytes:
    content = io.BytesIO()
    Image.new("L", size, grey).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """1,000 classes of two pictures; picture k of the challenge's order is of class 7k mod 1000 and has the grey of that class."""
    root = tmp_path_factory.mktemp("imagenet")
    contents = [jpeg(grey) for grey in VALUES]
    for number in range(2000):
        place = root / "val" / WNIDS[7 * number % 1000]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"ILSVRC2012_val_{number + 1:08d}.JPEG").write_bytes(contents[7 * number % 1000 % 8])
    (root / "val" / WNIDS[0] / "notes.txt").write_text("no picture")
    return root


def classes_of(start: int, stop: int) -> list[int]:
    return [7 * number % 1000 for number in range(start, stop)]


def test_splits_are_in_the_order_of_the_challenge(folder):
    for root in (folder, folder / "val"):
        test, validation = (data.load("imagenet", split, root, verify=False) for split in ("test", "validation"))
        assert test.labels.tolist() == classes_of(0, 1800)
        assert validation.labels.tolist() == classes_of(1800, 2000)
        assert test.labels.dtype == np.int64
        assert test.classes == 1000
        assert test.images.shape == (1800, 3, 224, 224)
    with pytest.raises(DataError, match="The split of ImageNet-1k must be validation or test, not 'train'"):
        data.load("imagenet", "train", folder)


def test_only_what_is_asked_for_is_decoded(folder, monkeypatch):
    decoded = []
    whole = imagenet.prepared
    monkeypatch.setattr(imagenet, "prepared", lambda picture: decoded.append(picture.size) or whole(picture))
    network = SimpleNamespace(name="any", metadata={"dataset": "imagenet"})
    monkeypatch.setattr(data, "verified", lambda *_: [])
    found = options.labelled_images(network, 5, folder, None)
    assert decoded == [(16, 20)] * 5
    assert isinstance(found.images, np.ndarray)
    assert found.images.shape == (5, 3, 224, 224)
    assert found.images.dtype == np.uint8
    assert found.labels.tolist() == classes_of(0, 5)
    greys = found.images.reshape(5, -1)
    assert (greys.min(1) == greys.max(1)).all()
    assert np.abs(greys[:, 0].astype(int) - [VALUES[label % 8] for label in found.labels]).max() <= 1  # JPEG rounds


def test_batches_and_indices_are_those_of_an_array(folder):
    test = data.load("imagenet", "test", folder, verify=False)
    batches = list(data.Dataset("x", "test", test.images, test.labels[:7], 1000).batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert np.concatenate([batch.labels for batch in batches]).tolist() == classes_of(0, 7)
    seven = test.images[:7]
    assert (np.concatenate([batch.images for batch in batches])[:7] == seven).all()
    assert (test.images[-1] == test.images[[1799]][0]).all()
    assert (test.images[np.array([6, 2])] == seven[[6, 2]]).all()
    assert (test.images[1:7:2] == seven[1:7:2]).all()
    with pytest.raises(IndexError):
        test.images[1800]
    with pytest.raises(DataError, match="at least 1, not 0"):
        next(test.batches(0))


def test_pictures_hold_nothing():
    decoded = []

    def decode(item):
        decoded.append(item)
        return np.full((1, 2, 2), item, np.uint8)

    pictures = Pictures(decode, range(10, 20), (1, 2, 2))
    assert pictures[2:4][:, 0, 0, 0].tolist() == [12, 13]
    assert pictures[2][0, 0, 0] == 12
    assert decoded == [12, 13, 12]


@pytest.mark.parametrize("size", [(256, 256), (300, 256), (256, 301), (301, 256), (259, 256)])
def test_middle_of_a_picture_whose_shorter_side_fits(size):
    """Such a picture keeps its pixels; an odd margin is divided as torchvision does, halves to even."""
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    left, top = (round((side - 224) / 2) for side in size)
    prepared = np.asarray(imagenet.prepared(Image.fromarray(pixels)))
    assert (prepared == pixels[top : top + 224, left : left + 224]).all()


@pytest.mark.parametrize("size", [(512, 640), (130, 140), (1000, 257), (4, 900)])
def test_resized_pictures_keep_their_place(size):
    """A horizontal ramp keeps its slope about the middle: nothing is mirrored, moved or stretched."""
    width, height = size
    ramp = np.broadcast_to(np.linspace(0, 255, width), (height, width)).astype(np.uint8)
    prepared = np.asarray(imagenet.prepared(Image.fromarray(ramp)))
    assert prepared.shape == (224, 224, 3)
    scaled = width * 256 / min(size)
    expected = (np.arange(224) + 0.5 - 112) * 255 / scaled + 127.5
    inner = slice(8, -8)
    assert np.abs(prepared[100, inner, 0] - expected[inner]).max() <= 255 / width + 3


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_every_mode_becomes_rgb(mode):
    assert imagenet.prepared(Image.new(mode, (40, 30))).mode == "RGB"


def test_what_can_be_wrong(tmp_path, folder):
    with pytest.raises(DataError, match=r"no ImageNet in .*: val/WNID/\*\.JPEG"):
        data.load("imagenet", "test", tmp_path)
    for wnid in WNIDS[:999]:
        (tmp_path / wnid).mkdir()
    with pytest.raises(DataError, match="must have the folders of all 1000 classes, not 999"):
        data.load("imagenet", "test", tmp_path)
    (tmp_path / WNIDS[999]).mkdir()
    with pytest.raises(DataError, match=f"{WNIDS[0]} must hold pictures of its class"):
        data.load("imagenet", "test", tmp_path)
    with pytest.raises(DataError, match="is not the published one: the MD5 of its classes is"):
        data.load("imagenet", "test", folder)


def test_nothing_is_downloaded(monkeypatch):
    monkeypatch.delenv("EPSILON_DATA", raising=False)
    for name, sentence in (("imagenet", "ImageNet cannot be downloaded"), ("imagenet-sample", "sample cannot be downloaded")):
        with pytest.raises(DataError, match=f"{sentence}.*--data or EPSILON_DATA"):
            data.load(name, "test")


@pytest.mark.parametrize("change", [lambda content: content[:200], lambda content: b"no picture", lambda content: b""])
def test_a_damaged_picture_is_named_when_it_is_decoded(tmp_path, change):
    for wnid in WNIDS:
        (tmp_path / wnid).mkdir()
        (tmp_path / wnid / "0.jpg").write_bytes(b"")
    (tmp_path / WNIDS[0] / "0.jpg").write_bytes(change(jpeg(7)))
    test = data.load("imagenet", "test", tmp_path, verify=False)
    with pytest.raises(DataError, match=rf"{WNIDS[0]}/0\.jpg is no picture that can be read") as caught:
        test.first(1)
    assert "\n" not in str(caught.value)


def webp(grey: int, side: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (side, side), (grey, 0, 0)).save(content, "WEBP", lossless=True)
    return content.getvalue()


def write_sample(path, count: int = 1000, side: int = 224) -> None:
    contents = [webp(grey, side) for grey in VALUES]
    with zipfile.ZipFile(path, "w") as archive:
        for number in reversed(range(count)):
            archive.writestr(f"{number:04d}_{WNIDS[number]}_some_name.webp", contents[number % 8])


def test_sample(tmp_path):
    write_sample(tmp_path / imagenet.SAMPLE)
    sample = data.load("imagenet-sample", "test", tmp_path, verify=False)
    assert sample.labels.tolist() == list(range(1000))
    assert sample.first(9).images[:, :, 3, 4].tolist() == [[value, 0, 0] for value in [*VALUES, VALUES[0]]]
    with pytest.raises(DataError, match="is not the published one: the MD5 of its archive is"):
        data.load("imagenet-sample", "test", tmp_path)
    with pytest.raises(DataError, match="must be test, not 'validation'"):
        data.load("imagenet-sample", "validation", tmp_path)


def test_what_can_be_wrong_with_the_sample(tmp_path):
    path = tmp_path / imagenet.SAMPLE

    def load():
        return data.load("imagenet-sample", "test", tmp_path, verify=False)

    with pytest.raises(DataError, match=r"no ImageNet sample in .*imagenet1k_224\.zip was looked for"):
        load()
    write_sample(path, side=200)
    with pytest.raises(DataError, match="must be a picture of 224x224 pixels, not 200x200"):
        load().first(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match="is no zip file that can be read"):
        load()
    first = whole.index(b"0000_" + WNIDS[0].encode()) + 60
    path.write_bytes(whole[:first] + bytes([whole[first] ^ 1]) + whole[first + 1 :])
    with pytest.raises(DataError, match=r"0000_n01000000_some_name\.webp of .*"):
        load().first(1)
    write_sample(path, count=999)
    with pytest.raises(DataError, match=r"must hold 1000 pictures .*, not 999 files"):
        load()


def test_real_sample(real_set):
    sample = data.load("imagenet-sample", "test", real_set("imagenet-sample"))
    assert sample.images.shape == (1000, 3, 224, 224)
    assert sample.first(4).images.std(axis=(1, 2, 3)).min() > 10


def test_real_class_names(real_set, tmp_path):
    with zipfile.ZipFile(imagenet.sample(real_set("imagenet-sample")).place) as archive:
        wnids = [name.split("_")[1] for name in archive.namelist()]
        for wnid in wnids:
            (tmp_path / wnid).mkdir()
            (tmp_path / wnid / "0.JPEG").write_bytes(b"")
        (tmp_path / min(wnids) / "0.JPEG").write_bytes(archive.read(min(archive.namelist())))
    test = data.load("imagenet", "test", tmp_path)
    assert hashlib.md5("\n".join(sorted(wnids)).encode()).hexdigest() == "9d0b4dfdf4f9039970fca981f7068107"
    assert test.labels.tolist() == list(range(900))
    assert test.first(1).images.shape == (1, 3, 224, 224)
