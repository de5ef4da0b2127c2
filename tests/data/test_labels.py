"""Labels mean one thing in all formats, and those that a recipe does not use refuse nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import TINY, Command, one_line
from files import GREY, RGB, channels_first, folder, idx, load, members, pack, png, refused, write

from reflow.data import require_taught, split

NAMES = list(members())


def labelled(path: Path, kind: str, labels: Any) -> Path:
    """Write four images with these labels."""
    path.mkdir(parents=True)
    if kind == "npz":
        np.savez(path / "a.npz", images=RGB, labels=np.array(labels))
        return path / "a.npz"
    entries = [[name, label] for name, label in zip(NAMES, labels, strict=True)]
    if kind == "zip":
        return pack(path / "a.zip", members(), entries)
    for name, content in members().items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content)
    (path / "dataset.json").write_text(json.dumps({"labels": entries}))
    return path


@pytest.mark.parametrize("kind", ["npz", "zip", "folder"])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 1, -1], ["label -1", "numbered from 0", "data.labels=false"]),
        ([0.0, 1.0, 1.0, 0.0], ["whole number"]),
        ([[1, 0], [0, 1], [0, 1], [1, 0]], ["whole number", "one-hot"]),
        (["cat", "dog", "dog", "cat"], ["whole number"]),
        ([True, False, False, True], ["whole number"]),
    ],
    ids=["negative", "float", "one-hot", "text", "bool"],
)
def test_only_whole_numbers_from_zero_on_are_classes(
    tmp_path: Path, kind: str, labels: Any, words: list[str]
) -> None:
    source = labelled(tmp_path / "f", kind, labels)
    refused(source, str(source), *words, labels=True)  # with nothing decoded yet
    np.testing.assert_array_equal(load(source).values, channels_first(RGB))
    refused(source, str(source), *words, labels=True)  # with all of it decoded


@pytest.mark.parametrize("kind", ["npz", "zip", "folder"])
def test_numbers_with_gaps_are_the_same_classes_everywhere(tmp_path: Path, kind: str) -> None:
    data = load(labelled(tmp_path / "f", kind, [7, 0, 7, 300]), labels=True)
    assert data.class_names == ("0", "7", "300")
    np.testing.assert_array_equal(data.labels, [1, 0, 1, 2])


@pytest.mark.parametrize("key", ["label", "y"])
def test_labels_under_another_key_are_named(tmp_path: Path, key: str) -> None:
    np.savez(tmp_path / "a.npz", **{"images": RGB, key: np.arange(4)})  # type: ignore[arg-type]
    assert load(tmp_path / "a.npz").labels is None
    refused(tmp_path / "a.npz", f"no 'labels', but '{key}'", "labels=...", labels=True)


def test_without_labels_every_format_says_where_they_belong(tmp_path: Path) -> None:
    classes = {f"{name}/{row}.png": png(RGB[row]) for row in range(4) for name in ("cat", "dog")}
    sources = {
        pack(tmp_path / "a.zip", classes): ["unpack it", '["cat/0.png", 0]'],
        pack(tmp_path / "b.zip", members(), None): ["unpack it", "dataset.json"],
        idx(tmp_path / "t-images-idx3-ubyte.gz", 0x803, GREY): ["labels-idx1"],
    }
    for source, words in sources.items():
        refused(source, str(source), *words, labels=True)
        assert load(source).labels is None
        refused(source, str(source), *words, labels=True)


@pytest.mark.parametrize(
    "parts", [("train", "test"), ("Train", "Val"), ("training",), ("test", "train", "val")]
)
def test_parts_of_a_set_are_no_classes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        for row, name in enumerate(("cat", "dog")):
            write(tmp_path / "f" / part / name / "a.png", RGB[row])
    first = next(part for part in parts if part.lower().startswith("train"))
    for labels in (False, True):
        refused(tmp_path / "f", "parts of a set", f"--data {tmp_path / 'f' / first}", labels=labels)
    assert load(tmp_path / "f" / first, labels=True).class_names == ("cat", "dog")
    names = list((tmp_path / "f").rglob("*.png"))
    content = {str(file.relative_to(tmp_path / "f")): file.read_bytes() for file in names}
    refused(pack(tmp_path / "a.zip", content), "parts of a set", "unpack it")


def test_classes_that_are_called_like_parts_stay_classes(tmp_path: Path) -> None:
    for row, name in enumerate(("train", "bus", "test")):
        write(tmp_path / name / "a.png", RGB[row])
    assert load(tmp_path, labels=True).class_names == ("bus", "test", "train")


def test_an_empty_class_folder_refuses_no_training_without_classes(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "a.png", RGB[0])
    write(tmp_path / "cow" / "a.png", RGB[1])
    (tmp_path / "dog").mkdir()
    assert len(load(tmp_path)) == 2
    refused(tmp_path, "dog", "holds no images", labels=True)


def lonely(path: Path) -> Path:
    """Write two classes, of which the second has one image."""
    folder(path / "cat", np.tile(GREY[:, :8, :8], (3, 1, 1)))
    write(path / "dog" / "a.png", GREY[0, :8, :8])
    return path


def test_a_class_that_is_held_out_as_a_whole_is_refused(tmp_path: Path, reflow: Command) -> None:
    data = load(lonely(tmp_path / "f"), labels=True)
    held = [seed for seed in range(20) if 12 in split(data, 0.3, seed)[1].rows]  # type: ignore[operator]
    free = [seed for seed in range(20) if seed not in held]
    command = (
        "train",
        TINY,
        "--data",
        tmp_path / "f",
        "--set",
        "train.steps=1",
        "--set",
        "data.held_out=0.3",
    )
    line = one_line(
        reflow(*command, "--out", tmp_path / "a", "--set", "data.labels=true", "--set", f"seed={held[0]}")
    )
    assert "class 'dog' has 1 sample, none outside the held-out part" in line
    answer = reflow(
        *command, "--out", tmp_path / "b", "--set", "data.labels=true", "--set", f"seed={free[0]}"
    )
    assert answer.code == 0, answer.err
    assert "no sample of class dog is held out" in answer.err
    answer = reflow(*command, "--out", tmp_path / "c", "--set", f"seed={held[0]}")
    assert answer.code == 0, answer.err
    assert "class dog" not in answer.err
    assert require_taught(data, data) is None
