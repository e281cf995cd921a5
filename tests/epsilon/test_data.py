"""Data sets: fixed splits, and every way in which a file can be wrong."""

import gzip
import struct

import numpy as np
import pytest

from epsilon import data
from epsilon.data import DataError
from epsilon.data.mnist import MIRRORS


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path):
    """A well-formed MNIST folder with few images: 5,010 for training and validation, 7 for test."""
    rng = np.random.default_rng(1)
    for prefix, count in (("train", 5010), ("t10k", 7)):
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(rng.integers(0, 256, (count, 28, 28))), 1))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(count) % 10), 1))
    return tmp_path


def test_digits_splits_are_fixed_and_disjoint():
    splits = {split: data.load("digits", split) for split in data.SPLITS}
    assert {split: len(part) for split, part in splits.items()} == {"train": 1000, "validation": 200, "test": 597}
    for part in splits.values():
        assert part.images.shape == (len(part), 1, 8, 8)
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
        assert set(np.unique(part.labels)) == set(range(10))
    everything = np.concatenate([part.images for part in splits.values()])
    assert everything.max() == 255
    assert splits["test"].labels[:12].tolist() == data.load("digits", "test").labels[:12].tolist()
    # The union is the collection itself, each image once.
    from sklearn.datasets import load_digits

    original = np.rint(load_digits().data * 255 / 16).astype(np.uint8).reshape(-1, 64)
    assert sorted(map(bytes, everything.reshape(-1, 64))) == sorted(map(bytes, original))


def test_mnist_splits(folder):
    train, validation, test = (data.load("mnist", split, folder, verify=False) for split in data.SPLITS)
    assert (len(train), len(validation), len(test)) == (10, 5000, 7)
    assert train.images.shape == (10, 1, 28, 28)
    whole = data.read_idx(folder / "train-images-idx3-ubyte.gz")
    assert (np.concatenate([train.images, validation.images])[:, 0] == whole).all()
    assert validation.labels[0] == 10 % 10
    assert test.labels.tolist() == list(range(7))


def test_mnist_subfolder_environment_and_plain_files(folder, tmp_path_factory, monkeypatch):
    outer = tmp_path_factory.mktemp("outer")
    (outer / "mnist").mkdir()
    for file in folder.iterdir():
        (outer / "mnist" / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    expected = data.load("mnist", "test", folder, verify=False)
    assert (data.load("mnist", "test", outer, verify=False).images == expected.images).all()
    monkeypatch.setenv("EPSILON_DATA", str(outer))
    assert (data.load("mnist", "test", verify=False).labels == expected.labels).all()


def test_mnist_where_torchvision_leaves_it(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (root / "MNIST").mkdir()
    (root / "MNIST" / "raw").symlink_to(folder)
    expected = data.load("mnist", "test", folder, verify=False)
    assert (data.load("mnist", "test", root, verify=False).images == expected.images).all()


def test_other_pictures_in_files_of_mnist_are_refused(folder):
    for split in data.SPLITS:
        with pytest.raises(DataError, match=f"The {split} split of MNIST in .* is not the published one: the MD5 of its images is"):
            data.load("mnist", split, folder)


def test_mnist_real_files(real_set):
    parts = [data.load("mnist", split, real_set("mnist")) for split in data.SPLITS]
    assert [len(part) for part in parts] == [55000, 5000, 10000]
    assert parts[2].labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def damage(path, change):
    content = bytearray(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(bytes(change(content)), 1))


def other_magic(content):
    content[2] = 0x0D
    return content


def label_ten(content):
    content[8] = 10
    return content


def other_side(content):
    return idx(np.zeros((7, 14, 56)))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("images-idx3", other_magic, "no IDX file of unsigned bytes"),
        ("images-idx3", lambda content: b"", "begins with nothing"),
        ("images-idx3", lambda content: content[:10], "ends within its header"),
        ("images-idx3", lambda content: content[:-1], "must hold 5504 bytes"),
        ("images-idx3", lambda content: content + b"\0", "must hold 5504 bytes"),
        ("images-idx3", other_side, "images of 28x28"),
        ("labels-idx1", lambda content: idx(np.zeros(6)), "7 labels"),
        ("labels-idx1", lambda content: idx(np.zeros((7, 1))), "7 labels"),
        ("labels-idx1", label_ten, "labels of 0..9"),
    ],
)
def test_damaged_content_is_refused(folder, kind, change, message):
    damage(folder / f"t10k-{kind}-ubyte.gz", change)
    with pytest.raises(DataError, match=message) as caught:
        data.load("mnist", "test", folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [5, 40, -9, -1])
def test_truncated_gzip_is_refused(folder, cut):
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read"):
        data.load("mnist", "test", folder)


def test_flipped_bit_in_gzip_is_refused(folder):
    path = folder / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError):
        data.load("mnist", "test", folder)


def test_missing_files_and_too_few_training_images(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="no MNIST file t10k-labels-idx1-ubyte"):
        data.load("mnist", "test", folder)
    for kind, array in (("images-idx3", np.zeros((5000, 28, 28))), ("labels-idx1", np.zeros(5000))):
        (folder / f"train-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array), 1))
    with pytest.raises(DataError, match="more than the 5000"):
        data.load("mnist", "train", folder)
    with pytest.raises(DataError, match="There is no file"):
        data.read_idx(folder / "nothing")


def test_unknown_names():
    with pytest.raises(DataError, match="digits, mnist"):
        data.load("minst", "test")
    with pytest.raises(DataError, match="train, validation, test"):
        data.load("digits", "tests")


def test_first(folder):
    part = data.load("mnist", "test", folder, verify=False)
    assert part.first(3).labels.tolist() == [0, 1, 2]
    for count in (0, 8, -1):
        with pytest.raises(DataError, match=r"1\.\.7"):
            part.first(count)


def test_download_tries_every_mirror_then_says_so(monkeypatch, tmp_path):
    import pooch

    tried = []

    def refuse(url, known_hash, **_):
        tried.append((url, known_hash))
        raise ConnectionError("no route\nto the host")

    monkeypatch.delenv("EPSILON_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        data.load("mnist", "test")
    assert "\n" not in str(caught.value)
    assert len(tried) == len(MIRRORS) == len({url for url, _ in tried})
    assert {known for _, known in tried} == {"md5:9fb629c4189551a2d022fa330f9573f3"}


def test_download_uses_the_first_mirror_that_answers(monkeypatch, folder):
    import pooch

    def second_answers(url, known_hash, *, fname, path):
        if url.startswith(MIRRORS[0]):
            raise ValueError("MD5 hash of downloaded file does not match")
        return str(folder / fname)

    monkeypatch.delenv("EPSILON_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", second_answers)
    assert len(data.load("mnist", "test", verify=False)) == 7
