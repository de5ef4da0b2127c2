"""Sets of Hugging Face's datasets, written by that library itself, without a network."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import GREY, RGB, channels_first, folder, load, png, refused
from PIL import Image


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the library, cut off from the network, with a cache of its own."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return datasets


def made(hub: Any, images: Any = RGB, labels: tuple[int | None, ...] = (2, 0, 2, 0), **more: Any) -> Any:
    """Return four images with labels of three classes, of which "dog" has none."""
    columns = {"img": [Image.fromarray(image) for image in images], "label": list(labels), **more}
    kinds = {"img": hub.Image(), "label": hub.ClassLabel(names=["cat", "dog", "emu"])}
    kinds |= {name: hub.ClassLabel(names=["a"]) for name in more}
    return hub.Dataset.from_dict(columns, features=hub.Features(kinds))


def require_made(data: Any, images: Any = RGB) -> None:
    np.testing.assert_array_equal(data.values, channels_first(images))
    np.testing.assert_array_equal(data.labels, [1, 0, 1, 0])
    assert data.class_names == ("cat", "emu")


def test_a_saved_set_is_read_as_it_is(tmp_path: Path, hub: Any) -> None:
    made(hub).save_to_disk(tmp_path / "saved")
    require_made(load(tmp_path / "saved"))
    assert load(tmp_path / "saved", size=8, mode="grey").event == (1, 8, 8)
    made(hub, GREY, other=[0] * 4).save_to_disk(tmp_path / "grey")  # "label" is the usual name of two
    require_made(load(tmp_path / "grey"), GREY)
    made(hub).remove_columns("label").save_to_disk(tmp_path / "bare")
    assert load(tmp_path / "bare").labels is None


def test_splits_are_taken_by_name_and_in_order(tmp_path: Path, hub: Any) -> None:
    made(hub).to_parquet(tmp_path / "set" / "train-0.parquet")
    made(hub, RGB[::-1], (0, 2, 0, 2)).to_parquet(tmp_path / "set" / "test-0.parquet")
    source = f"hub:{tmp_path / 'set'}"
    require_made(load(source))
    np.testing.assert_array_equal(load(f"{source}:test").values, channels_first(RGB[::-1]))
    for split, images in (("train+test", [RGB, RGB[::-1]]), ("test+train", [RGB[::-1], RGB])):
        both = channels_first(np.concatenate(images))
        np.testing.assert_array_equal(load(f"{source}:{split}").values, both)
    refused(f"{source}:gone", "cannot be loaded", "gone")
    refused(f"{source}:train[:1]", "whole splits")


def test_labels_that_are_no_classes_are_refused_only_where_they_are_wanted(
    tmp_path: Path, hub: Any
) -> None:
    for name, data, words in (
        ("-1", made(hub, labels=(-1, 0, 1, 2)), ("rows without a class in 'label'", "filter them out")),
        ("none", made(hub, labels=(None, 0, 1, 2)), ("rows without a class in 'label'",)),
        ("two", made(hub, one=[0] * 4, two=[0] * 4).remove_columns("label"), ("one, two", "rename_column")),
    ):
        data.save_to_disk(tmp_path / name)
        refused(tmp_path / name, *words, labels=True)  # with nothing decoded yet
        plain = load(tmp_path / name)
        assert plain.labels is None
        np.testing.assert_array_equal(plain.values, channels_first(RGB))
        refused(tmp_path / name, *words, labels=True)  # with all of it decoded


def test_what_is_no_set_of_images_is_refused(tmp_path: Path, hub: Any) -> None:
    hub.DatasetDict(train=made(hub), test=made(hub)).save_to_disk(tmp_path / "splits")
    refused(tmp_path / "splits", "train", "test", "give one", str(tmp_path / "splits" / "test"))
    require_made(load(tmp_path / "splits" / "train"))
    made(hub).remove_columns("img").save_to_disk(tmp_path / "labels")
    refused(tmp_path / "labels", "no column of images", "label")
    made(hub, [RGB[0], RGB[0]], (0, 0)).select([0]).save_to_disk(tmp_path / "one")
    refused(tmp_path / "one", "1 samples")
    refused("hub:nobody/nothing", "cannot be loaded", "nobody/nothing")
    refused("hub:", "write hub:NAME")


def test_images_outside_the_set_are_refused_and_damaged_ones_named(tmp_path: Path, hub: Any) -> None:
    folder(tmp_path / "images")
    refused(f"hub:{tmp_path / 'images'}", "row 0", "only the path", "000.png", "save_to_disk")
    good = {"bytes": png(RGB[0, :2, :2]), "path": None}
    columns = {"image": [good] * 40 + [good | {"bytes": b"no image"}]}  # more than a block
    bad = hub.Dataset.from_dict(columns).cast_column("image", hub.Image())
    bad.save_to_disk(tmp_path / "bad")
    refused(tmp_path / "bad", f"row 40 of {tmp_path / 'bad'}", "known format")


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hub:some/set", "hub:some/set", "pip install 'reflow[datasets]'")
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    refused(tmp_path, str(tmp_path), "pip install 'reflow[datasets]'")
