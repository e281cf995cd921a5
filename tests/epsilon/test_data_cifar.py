"""CIFAR-10 and CIFAR-100: every format yields the same arrays, and every way in which a file can be wrong has its sentence."""

import hashlib
import lzma
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from epsilon import data
from epsilon.data import DataError, cifar, download
from epsilon.data.cifar_files import python_batch
from epsilon.data.source import MissingData, Source, array_checksums
from epsilon.data.unpickle import unpickled

#: The two sets with few images: 30 + 10 + 8, eight to a sheet.
SMALL = {kind.name: replace(kind, training=30, validation=10, test=8, grid=(2, 4)) for kind in (cifar.CIFAR10, cifar.CIFAR100)}


class Python2Pickle:
    """Write a batch as Python 2's cPickle did; ``test_published_file`` compares the bytes with a published file's MD5."""

    def __init__(self) -> None:
        self.known = 0

    def put(self) -> bytes:
        self.known += 1
        return b"q" + bytes([self.known]) if self.known < 256 else b"r" + struct.pack("<I", self.known)

    def string(self, text: bytes) -> bytes:
        return (b"U" + bytes([len(text)]) if len(text) < 256 else b"T" + struct.pack("<I", len(text))) + text

    def listed(self, items: list, write) -> bytes:
        start = b"]" + self.put()
        parts = (b"".join(map(write, items[begin : begin + 1000])) for begin in range(0, len(items), 1000))
        return start + b"".join(b"(" + part + b"e" for part in parts)

    def array(self, pixels: np.ndarray, dtype: bytes = b"u1") -> bytes:
        start = b"cnumpy.core.multiarray\n_reconstruct\n" + self.put() + b"cnumpy\nndarray\n" + self.put() + b"K\0\x85U\x01b\x87R"
        shape = b"".join(b"M" + struct.pack("<H", side) for side in pixels.shape) + b"\x86"
        kind = self.put() + b"(K\x01" + shape + b"cnumpy\ndtype\n" + self.put() + self.string(dtype) + b"K\0K\x01\x87R" + self.put()
        state = b"(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\0tb\x89"
        return start + kind + state + self.string(pixels.tobytes()) + b"tb"

    def value(self, value: object) -> bytes:
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, bytes):
            return self.string(value) + self.put()
        if isinstance(value, list) and all(isinstance(item, bytes) for item in value):
            return self.listed(value, lambda item: self.string(item) + self.put())
        if isinstance(value, list) and all(item in range(256) for item in value):
            return self.listed(value, lambda item: b"K" + bytes([item]))
        return pickle.dumps(value, 2)[2:-1]  # what no published file holds

    def dictionary(self, values: dict[bytes, object]) -> bytes:
        start = b"\x80\x02}" + self.put() + b"("
        return start + b"".join(self.string(key) + self.put() + self.value(value) for key, value in values.items()) + b"u."


def batch(kind: cifar.Cifar, title: bytes, pixels: np.ndarray, labels: list, names: list, coarse: list | None = None) -> bytes:
    """Return a file of the Python version, in the published order of its keys."""
    pixels = pixels.reshape(len(labels), -1)
    if kind.classes == 10:
        values = {b"batch_label": title, b"labels": labels, b"data": pixels, b"filenames": names}
    else:
        values = {b"filenames": names, b"batch_label": title, b"fine_labels": labels, b"coarse_labels": coarse, b"data": pixels}
    return Python2Pickle().dictionary(values)


def pictures(kind: cifar.Cifar, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return random images (count, 3, 32, 32) and labels (count,) of a part."""
    rng = np.random.default_rng(len(kind.title) + len(part))
    count = kind.whole(part)
    return rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, kind.classes, count, np.uint8)


def write_sheets(kind: cifar.Cifar, folder: Path) -> None:
    rows, columns = kind.grid
    for part in kind.files:
        images, labels = pictures(kind, part)
        (folder / f"{part}_{kind.label_file}").write_bytes(labels.tobytes())
        for number in range(len(images) // (rows * columns)):
            sheet = np.empty((rows * 32, columns * 32, 3), np.uint8)
            for place in range(rows * columns):
                top, left = 32 * (place // columns), 32 * (place % columns)
                sheet[top : top + 32, left : left + 32] = images[number * rows * columns + place].transpose(1, 2, 0)
            Image.fromarray(sheet).save(folder / f"{part}_{number:02d}.webp", lossless=True, quality=0, method=0)


def write_python(kind: cifar.Cifar, folder: Path) -> None:
    inner = folder / kind.python
    inner.mkdir()
    for part, names in kind.files.items():
        images, labels = pictures(kind, part)
        for name, pixels, own in zip(names, np.split(images, len(names)), np.split(labels, len(names)), strict=True):
            names_inside = [f"{number}.png".encode() for number in range(len(own))]
            content = batch(kind, name.encode(), pixels, own.tolist(), names_inside, [19] * len(own))
            (inner / name).write_bytes(content)


def write_binary(kind: cifar.Cifar, folder: Path) -> None:
    inner = folder / kind.binary
    inner.mkdir()
    for part, names in kind.files.items():
        images, labels = pictures(kind, part)
        records = np.concatenate([np.full((len(labels), kind.label_bytes), 255), images.reshape(len(labels), -1)], 1).astype(
            np.uint8
        )
        records[:, kind.label_bytes - 1] = labels
        for name, own in zip(names, np.split(records, len(names)), strict=True):
            (inner / f"{name}.bin").write_bytes(own.tobytes())


def pack(folder: Path, inner: str, archive: str, *, dotted: bool = False) -> None:
    """Pack a folder, its files in no order, and remove it; ``dotted`` names begin with ./ as those of `tar -C` do."""
    files = sorted((folder / inner).iterdir(), key=lambda path: hashlib.md5(path.name.encode()).digest())
    with tarfile.open(folder / archive, "w:gz", compresslevel=1) as packed:
        packed.add(folder / inner, inner, recursive=False)
        for path in files:
            packed.add(path, f"./{inner}/{path.name}" if dotted else f"{inner}/{path.name}")
            path.unlink()
    (folder / inner).rmdir()


def write_packed_python(kind: cifar.Cifar, folder: Path) -> None:
    write_python(kind, folder)
    pack(folder, kind.python, kind.archives[0])


def write_packed_binary(kind: cifar.Cifar, folder: Path) -> None:
    write_binary(kind, folder)
    pack(folder, kind.binary, kind.archives[1], dotted=True)


FORMATS = {
    "WebP sheets": write_sheets,
    "Python version": write_python,
    "binary version": write_binary,
    "Python version, packed": write_packed_python,
    "binary version, packed": write_packed_binary,
}


def read_all(source: Source) -> list[tuple[np.ndarray, np.ndarray]]:
    return [source.read(split) for split in data.SPLITS]


def require_the_pictures(kind: cifar.Cifar, source: Source) -> None:
    train, validation, test = read_all(source)
    for read, expected in (
        ([np.concatenate(pair) for pair in zip(train, validation, strict=True)], pictures(kind, "train")),
        (test, pictures(kind, "test")),
    ):
        assert read[0].dtype == np.uint8
        assert read[1].dtype == np.int64
        assert (read[0] == expected[0]).all()
        assert (read[1] == expected[1]).all()
    assert [len(labels) for _, labels in (train, validation, test)] == [30, 10, 8]


@pytest.mark.parametrize("kind", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("title", FORMATS)
def test_every_format_in_the_folder_its_subfolder_or_itself(tmp_path, kind, title):
    place = tmp_path / kind.name
    place.mkdir()
    FORMATS[title](kind, place)
    inner = [path for path in place.iterdir() if path.is_dir()]
    for root in (tmp_path, place, *inner):
        source = cifar.source(kind, root)
        assert source.format == title
        require_the_pictures(kind, source)


def test_an_unpacked_folder_is_taken_before_its_archive(tmp_path):
    kind = SMALL["cifar10"]
    write_packed_python(kind, tmp_path)
    write_python(kind, tmp_path)
    assert cifar.source(kind, tmp_path).format == "Python version"


def test_one_set_is_not_taken_for_the_other(tmp_path):
    for number, write in enumerate(FORMATS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(SMALL["cifar10"], folder)
        with pytest.raises(
            MissingData, match=r"no CIFAR-100 in .* cifar-100-python\.tar\.gz and cifar-100-binary\.tar\.gz were looked"
        ):
            cifar.source(SMALL["cifar100"], folder)


def test_the_validation_split_needs_its_own_files_only(tmp_path):
    kind = SMALL["cifar10"]
    write_sheets(kind, tmp_path)
    for number in range(3):
        (tmp_path / f"train_{number:02d}.webp").unlink()
    images, _ = cifar.source(kind, tmp_path).read("validation")
    assert (images == pictures(kind, "train")[0][30:]).all()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def garble(path: Path) -> None:
    path.write_bytes(b"no such thing" * 40)


def other_size(path: Path) -> None:
    Image.new("RGB", (32, 64)).save(path, "WEBP", lossless=True)


def label_above(path: Path) -> None:
    path.write_bytes(b"\x64" * path.stat().st_size)


def binary_label_above(path: Path) -> None:
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("title", "file", "change", "message"),
    [
        ("WebP sheets", "test_00.webp", Path.unlink, r"There is no file .*test_00\.webp"),
        ("WebP sheets", "test_00.webp", cut, r"test_00\.webp is no WebP picture that can be read"),
        ("WebP sheets", "test_00.webp", garble, r"test_00\.webp is no WebP picture .*: it is damaged or of another format"),
        ("WebP sheets", "test_00.webp", other_size, r"test_00\.webp must be an RGB picture of 128x64 pixels, not RGB of 32x64"),
        ("WebP sheets", "test_labels.u8", Path.unlink, r"There is no file .*test_labels\.u8"),
        ("WebP sheets", "test_labels.u8", cut, r"test_labels\.u8 must hold 8 labels, not 4"),
        ("WebP sheets", "test_labels.u8", label_above, r"test_labels\.u8 must hold labels of 0\.\.9, not 100"),
        ("Python version", "test_batch", Path.unlink, r"There is no file .*test_batch"),
        ("Python version", "test_batch", cut, r"test_batch is no pickle of a batch that can be read"),
        ("Python version", "test_batch", garble, r"test_batch is no pickle of a batch that can be read"),
        ("binary version", "test_batch.bin", Path.unlink, r"There is no file .*test_batch\.bin"),
        ("binary version", "test_batch.bin", cut, r"must hold 8 records of 3073 bytes, 24584 in all, not 12292"),
        ("binary version", "test_batch.bin", grow, r"must hold 8 records of 3073 bytes, 24584 in all, not 24585"),
        ("binary version", "test_batch.bin", binary_label_above, r"test_batch\.bin must hold labels of 0\.\.9, not 10"),
        ("Python version, packed", "cifar-10-python.tar.gz", cut, r"cifar-10-python\.tar\.gz"),
        ("Python version, packed", "cifar-10-python.tar.gz", garble, r"cifar-10-python\.tar\.gz cannot be read"),
    ],
)
def test_damaged_files(tmp_path, title, file, change, message):
    kind = SMALL["cifar10"]
    FORMATS[title](kind, tmp_path)
    (path,) = tmp_path.rglob(file)
    source = cifar.source(kind, tmp_path)
    change(path)
    with pytest.raises(DataError, match=message) as caught:
        read_all(source)
    assert "\n" not in str(caught.value)


def test_an_archive_without_a_file(tmp_path):
    kind = SMALL["cifar10"]
    write_python(kind, tmp_path)
    (tmp_path / kind.python / "data_batch_4").unlink()
    pack(tmp_path, kind.python, kind.archives[0])
    with pytest.raises(DataError, match=r"no file cifar-10-batches-py/data_batch_4 of .*cifar-10-python\.tar\.gz"):
        cifar.source(kind, tmp_path).read("train")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({b"data": 3}, r"array 'data' of \(8, 3072\) bytes, not int"),
        ({b"data": np.zeros((8, 3071), np.uint8)}, r"bytes, not one of \(8, 3071\)"),
        ({b"labels": None}, "list of whole numbers 'labels'"),
        ({b"labels": ["one"] * 8}, "list of whole numbers 'labels'"),
        ({b"labels": [1] * 7}, "8 labels, not 7"),
        ({b"labels": [1] * 7 + [-1]}, r"labels of 0\.\.9, not -1"),
        ({b"labels": [2**70] * 8}, rf"labels of 0\.\.9, not {2**70}"),
    ],
)
def test_batches_that_hold_something_else(changed, message):
    sound = {b"data": np.zeros((8, 3072), np.uint8), b"labels": [1] * 8}
    images, labels = python_batch(Python2Pickle().dictionary(sound), "file", 8, key=b"labels", classes=10)
    assert images.shape == (8, 3, 32, 32)
    assert labels.tolist() == [1] * 8
    with pytest.raises(DataError, match=f"file must hold .*{message}"):
        python_batch(Python2Pickle().dictionary(sound | changed), "file", 8, key=b"labels", classes=10)


class Calls:
    """A pickle of this calls a function when it is loaded."""

    def __init__(self, function, *arguments) -> None:
        self.called = function, arguments

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_function_of_a_pickle_is_called(tmp_path, protocol):
    target = tmp_path / "written"
    for harm in (Calls(os.mkdir, str(target)), Calls(eval, f"open({str(target)!r}, 'w').close()"), Calls(np.save, str(target), 1)):
        content = pickle.dumps({b"data": harm}, protocol)
        with pytest.raises(DataError, match=r"file is no pickle .* only arrays of numpy are allowed"):
            unpickled(content, "file")
        assert not list(tmp_path.iterdir())
        pickle.loads(content)  # the pickle does what it was made for
        (written,) = tmp_path.iterdir()
        written.rmdir() if written.is_dir() else written.unlink()


def test_arrays_of_other_kinds_are_refused():
    writer = Python2Pickle()
    for dtype in (b"O8", b"f4", b"i1"):
        content = b"\x80\x02}(" + writer.string(b"data") + writer.array(np.zeros((2, 2), np.uint8), dtype) + b"u."
        with pytest.raises(DataError, match="not unsigned bytes"):
            unpickled(content, "file")
    with pytest.raises(DataError, match="file must hold a dictionary, not list"):
        unpickled(pickle.dumps([1]), "file")
    short = Python2Pickle().dictionary({b"data": np.zeros((2, 300), np.uint8)}).replace(b"M\x02\0M", b"M\x03\0M")
    with pytest.raises(DataError, match="file holds an array that cannot be read"):
        unpickled(short, "file")


def test_every_cut_of_a_pickle_has_its_sentence():
    whole = Python2Pickle().dictionary({b"data": np.zeros((2, 2), np.uint8), b"labels": [1, 2]})
    assert unpickled(whole, "file")[b"data"].shape == (2, 2)
    for length in range(len(whole)):
        with pytest.raises(DataError, match="file") as caught:
            unpickled(whole[:length], "file")
        assert "\n" not in str(caught.value)


def test_download_once_and_read_from_the_archive(tmp_path, monkeypatch):
    import pooch

    kind = SMALL["cifar100"]
    write_packed_python(kind, tmp_path)
    asked = []

    def answer(url, known_hash, *, fname, path):
        asked.append((url, known_hash, Path(path) / fname))
        return str(tmp_path / fname)

    monkeypatch.setattr(pooch, "retrieve", answer)
    require_the_pictures(kind, cifar.source(kind, None))
    address = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    place = download.cache("cifar100") / "cifar-100-python.tar.gz"
    assert set(asked) == {(address, "md5:eb9058c3a382ffc7106e4002c42a8d85", place)}


def test_no_network(monkeypatch):
    import pooch

    def refuse(*_, **__):
        raise ConnectionError("no route\nto the host")

    monkeypatch.delenv("EPSILON_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(
        DataError, match=r"CIFAR-10's cifar-10-python\.tar\.gz could not be downloaded \(no route\): give its folder"
    ):
        data.load("cifar10", "test")


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"no CIFAR-10 in .* or its subfolder cifar10: train_labels\.u8 .*, cifar-10-batches-py,"):
        data.load("cifar10", "test", tmp_path)


@cache
def real_test_split(name: str, folder: Path) -> data.Dataset:
    return data.load(name, "test", folder)


@pytest.mark.parametrize(
    ("name", "classes", "md5"),
    [("cifar10", 10, "f1aa22116df97725db0e47461c45a82b"), ("cifar100", 100, "155ad486d683899b65629b069dab09ba")],
)
def test_real_test_splits(real_set, name, classes, md5):
    test = real_test_split(name, real_set(name))
    assert test.classes == classes
    assert hashlib.md5(test.images).hexdigest() == md5
    assert np.bincount(test.labels).tolist() == [10_000 // classes] * classes


def test_real_training_splits(real_set):
    """The two splits of CIFAR-10 are the published 50,000; of CIFAR-100, for the sake of time, only one is read."""
    train, validation = (data.load("cifar10", split, real_set("cifar10")) for split in ("train", "validation"))
    found = array_checksums(np.concatenate([train.images, validation.images]), np.concatenate([train.labels, validation.labels]))
    assert found == {"images": "11af95666bd6fd7846144e768325bf13", "labels": "69c5f3349be54915edfca558b72ad888"}
    assert len(data.load("cifar100", "validation", real_set("cifar100"))) == 5000


@pytest.mark.parametrize(
    ("kind", "file", "md5"),
    [
        (cifar.CIFAR10, "test_batch", "40351d587109b95175f43aff81a1287e"),
        (cifar.CIFAR100, "test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    ],
    ids=("cifar10", "cifar100"),
)
def test_published_file(real_set, kind, file, md5):
    """The bytes that ``Python2Pickle`` writes are those of the published files, so what reads the ones reads the others."""
    folder = real_set(kind.name)
    names = folder / kind.name / "test_filenames.txt.xz"
    if not names.is_file():
        pytest.skip(f"needs the names of the pictures, {names}")
    test = real_test_split(kind.name, folder)
    coarse = list((names.parent / "test_coarse_labels.u8").read_bytes()) if kind.classes == 100 else None
    filenames = lzma.decompress(names.read_bytes()).splitlines()
    content = batch(kind, b"testing batch 1 of 1", test.images, test.labels.tolist(), filenames, coarse)
    assert hashlib.md5(content).hexdigest() == md5
    images, labels = python_batch(content, file, 10_000, key=kind.label_key, classes=kind.classes)
    assert (images == test.images).all()
    assert (labels == test.labels).all()
