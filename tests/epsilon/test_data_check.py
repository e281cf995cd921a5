"""`data check` and `data get`: what is found, what is missing, what is damaged."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from command_line import epsilon

from epsilon import data
from epsilon.data import catalogue, download
from epsilon.data.check import check
from epsilon.data.source import MissingData, Source, array_checksums


@pytest.fixture
def tiny(tmp_path):
    """A catalogue with one set of three images and one label each, in the file `tiny.bin`; right when its bytes are 1."""

    def source(root: Path | None) -> Source:
        path = (root or tmp_path / "downloaded") / "tiny.bin"
        if not path.is_file():
            raise MissingData(f"There is no tiny set in {root}: tiny.bin was looked for")

        def read(split: str) -> tuple[np.ndarray, np.ndarray]:
            content = np.frombuffer(path.read_bytes(), np.uint8)
            if len(content) != 12:
                raise data.DataError(f"{path} must hold 12 bytes, not {len(content)}")
            return content.reshape(3, 1, 2, 2), np.arange(3)

        return Source("raw bytes", path, read)

    right = array_checksums(np.ones((3, 1, 2, 2), np.uint8), np.arange(3))
    (tmp_path / "downloaded").mkdir()
    entry = catalogue.Entry("Tiny set", 3, source, ("train", "test"))
    with (
        mock.patch.dict(catalogue.CATALOGUE, {"tiny": entry}, clear=True),
        mock.patch.dict(catalogue.CHECKSUMS, {("tiny", split): right for split in entry.splits}, clear=True),
    ):
        yield tmp_path


def test_sound(tiny):
    (tiny / "tiny.bin").write_bytes(b"\1" * 12)
    result = epsilon("data", "check", "--data", tiny, "--json", tiny / "found.json")
    assert result.exit_code == 0, result.output
    assert "3 + - + 3" in result.stdout
    assert "right: images, labels" in result.stdout
    assert json.loads((tiny / "found.json").read_text()) == {
        "data_sets": [
            {
                "name": "tiny",
                "title": "Tiny set",
                "format": "raw bytes",
                "place": str(tiny / "tiny.bin"),
                "images": {"train": 3, "test": 3},
                "checksums": ["images", "labels"],
                "missing": "",
                "problem": "",
            }
        ]
    }


def test_missing_is_no_error(tiny):
    result = epsilon("data", "check", "--data", tiny)
    assert result.exit_code == 0, result.output
    assert "not found" in result.stdout
    assert f"tiny: There is no tiny set in {tiny}: tiny.bin was looked for" in result.stdout


def test_no_such_folder(tmp_path):
    result = epsilon("data", "check", "--data", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert f"epsilon: There is no folder {tmp_path / 'nowhere'}\n" in result.stderr


@pytest.mark.parametrize(
    ("content", "message"), [(b"\1" * 11, "must hold 12 bytes, not 11"), (b"\1" * 11 + b"\2", "is not the published one")]
)
def test_damaged(tiny, content, message):
    (tiny / "tiny.bin").write_bytes(content)
    result = epsilon("data", "check", "--data", tiny, "--json", tiny / "found.json")
    assert result.exit_code == 2
    assert "DAMAGED" in result.stdout
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("epsilon: ")]
    assert message in sentence
    (found,) = json.loads((tiny / "found.json").read_text())["data_sets"]
    assert found["problem"] == sentence.removeprefix("epsilon: ")
    assert found["images"] == {}
    assert found["checksums"] == []


def test_get(tiny, monkeypatch):
    monkeypatch.setenv("EPSILON_DATA", str(tiny / "elsewhere"))
    path = tiny / "downloaded" / "tiny.bin"
    path.write_bytes(b"\1" * 12)
    result = epsilon("data", "get", "tiny")
    assert result.exit_code == 0, result.output
    assert "right: images, labels" in result.stdout
    path.write_bytes(b"\3" * 12)
    result = epsilon("data", "get", "tiny")
    assert result.exit_code == 2
    assert "is not the published one" in result.stderr


def test_get_what_cannot_be_had():
    result = epsilon("data", "get", "imagenet")
    assert result.exit_code == 2
    assert "epsilon: ImageNet cannot be downloaded freely" in result.stderr
    result = epsilon("data", "get", "nothing")
    assert result.exit_code == 2
    assert "must be one of digits, mnist, cifar10, cifar100, imagenet, imagenet-sample" in result.stderr


def test_every_set_is_looked_for_and_nothing_is_downloaded(tmp_path, monkeypatch):
    import pooch

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.delenv("EPSILON_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", refuse)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    for findings in (list(check(tmp_path)), list(check())):
        assert [finding.name for finding in findings] == list(data.names())
        assert [bool(finding.missing) for finding in findings] == [False] + [True] * 5
        assert findings[0].images == {"train": 1000, "validation": 200, "test": 597}
        assert not any(finding.problem for finding in findings)
    assert download.cache("mnist") == tmp_path / "epsilon" / "mnist"


def test_every_split_has_checksums():
    assert set(catalogue.CHECKSUMS) == {(name, split) for name, entry in catalogue.CATALOGUE.items() for split in entry.splits}


def test_real_sets(real_set, tmp_path):
    """MNIST and the sample; CIFAR takes seconds to read, and its splits are compared elsewhere."""
    for name, part in (("mnist", "mnist"), ("imagenet-sample", "imagenet_sample")):
        (tmp_path / part).symlink_to(real_set(name) / part)
    found = {finding.name: finding for finding in check(tmp_path)}
    assert found["mnist"].checksums == ("images", "labels")
    assert found["mnist"].images == {"train": 55_000, "validation": 5_000, "test": 10_000}
    assert found["imagenet-sample"].checksums == ("archive",)
    assert found["imagenet-sample"].images == {"test": 1000}
