"""Folders of four IDX files, and Fashion-MNIST as Debian packages it."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from files import GREY, idx, idx_folder, load, refused

from reflow.data import SETS, fashion, split

IMAGES = np.random.default_rng(1).integers(0, 256, (24, 4, 4), dtype=np.uint8)
NAMES = "T-shirt/top trouser pullover dress coat sandal shirt sneaker bag ankle boot"  # as published


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a tiny set where Debian's package would be."""
    monkeypatch.setattr(fashion, "PLACE", tmp_path / "fashion-mnist")
    return idx_folder(tmp_path / "fashion-mnist", IMAGES, 4)


def test_a_folder_of_four_idx_files_is_one_set_in_order(tmp_path: Path) -> None:
    labels = np.repeat([7, 3, 9], 8)  # the second part has one class only
    data = load(idx_folder(tmp_path, IMAGES, 4, labels))
    np.testing.assert_array_equal(data.values, IMAGES[:, None])
    assert data.class_names == ("3", "7", "9")
    np.testing.assert_array_equal(data.labels, np.repeat([1, 0, 2], 8))
    assert load(tmp_path, size=8, mode="rgb").event == (3, 8, 8)
    alone = load(tmp_path / "t10k-images-idx3-ubyte.gz")  # a file of it is what it was
    np.testing.assert_array_equal(alone.values, IMAGES[-4:, None])
    assert alone.class_names == ("9",)


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
def test_a_folder_that_lacks_one_of_the_four_is_refused(tmp_path: Path, name: str) -> None:
    (idx_folder(tmp_path, IMAGES, 4) / name).unlink()
    refused(tmp_path, f"{name} is missing", "add it")


def test_parts_of_different_sizes_are_refused(tmp_path: Path) -> None:
    idx_folder(tmp_path, IMAGES, 4)
    idx(tmp_path / "t10k-images-idx3-ubyte.gz", 0x803, GREY)
    refused(tmp_path, "4 x 4", "32 x 32", "t10k")


def test_fashion_mnist_has_the_names_of_its_classes(package: Path) -> None:
    data = load("fashion-mnist")
    np.testing.assert_array_equal(data.values, IMAGES[:, None])
    assert " ".join(data.class_names) == NAMES
    np.testing.assert_array_equal(data.labels, np.arange(24) % 10)
    unnamed = load(package)  # the same decoded file; the names are not in it
    assert unnamed.class_names == tuple("0123456789")
    assert unnamed.digest() != data.digest()
    assert " ".join(load("fashion-mnist").class_names) == NAMES


def test_fashion_mnist_without_the_package_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion, "PLACE", tmp_path / "gone")
    refused("fashion-mnist", "apt install dataset-fashion-mnist", "--data")
    monkeypatch.setattr(fashion, "PLACE", idx_folder(tmp_path, IMAGES, 4, np.arange(24) % 3))
    refused("fashion-mnist", "3 classes", "install dataset-fashion-mnist again")


@pytest.mark.skipif(not fashion.PLACE.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_packaged_set_is_read_whole() -> None:
    data = load("fashion-mnist")
    assert (len(data), data.event) == (70_000, SETS["fashion-mnist"].event)
    with gzip.open(fashion.PLACE / "t10k-images-idx3-ubyte.gz") as file:
        tested = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    np.testing.assert_array_equal(data.stored[60_000:], tested)
    np.testing.assert_array_equal(np.bincount(data.labels), np.full(10, 7000))
    assert [len(part) for part in split(data, 1 / 7, seed=0)] == [60_000, 10_000]
