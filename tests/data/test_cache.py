"""Sources are decoded once; what is decoded is found again, and never taken for something else."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import GREY, RGB, channels_first, folder, idx, in_every_format, load, write

from reflow.data import Watch, cache, decoding, fingerprint, writer

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of samples whenever a source is decoded."""
    counts: list[int] = []

    def counting(file: writer.Growing, contents: Any, *rest: Any) -> Any:
        counts.append(contents.count)
        return decoding.fill(file, contents, *rest)

    monkeypatch.setattr(cache, "fill", counting)
    return counts


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows whenever the bytes of a source are read to see whether they changed."""
    titles: list[str] = []

    def counting(kind: str, files: Any, title: str, watch: Watch) -> str:
        titles.append(title)
        return fingerprint.content_key(kind, files, title, watch)

    monkeypatch.setattr(cache, "content_key", counting)
    return titles


@pytest.mark.parametrize("kind", ["folder", "npz", "zip", "idx"])
def test_a_second_opening_decodes_and_reads_nothing(
    tmp_path: Path, decoded: list[int], digested: list[str], kind: str
) -> None:
    source = in_every_format(tmp_path)[kind]
    for _ in range(3):
        data = load(source)
        np.testing.assert_array_equal(data.values, channels_first(GREY))
        assert not data.values.flags.owndata
    assert (decoded, len(digested)) == ([4], 1)


@pytest.mark.parametrize("kind", ["folder", "npz", "zip", "idx"])
def test_a_copy_elsewhere_is_read_but_not_decoded(tmp_path: Path, decoded: list[int], kind: str) -> None:
    source = in_every_format(tmp_path)[kind]
    there = tmp_path / "there" / source.name
    there.parent.mkdir()
    digest = load(source).digest()
    (shutil.copytree if source.is_dir() else shutil.copy)(source, there)
    assert load(there).digest() == digest
    assert decoded == [4]


def test_settings_that_matter_have_files_of_their_own(tmp_path: Path, decoded: list[int]) -> None:
    source = folder(tmp_path / "f")
    shapes = {}
    for settings in ({}, {"size": 8}, {"size": 16}, {"mode": "grey"}, {"skip_corrupt": True}) * 2:
        shapes[str(settings)] = load(source, **settings).event  # type: ignore[arg-type]
    assert list(shapes.values()) == [(3, 32, 32), (3, 8, 8), (3, 16, 16), (1, 32, 32), (3, 32, 32)]
    assert len(decoded) == 5
    load(source, labels=True, held_out=0.5, flip=True, points=7)
    assert len(decoded) == 5


def change_pixels(source: Path) -> None:
    write(source / "002.png", RGB[1])


def keep_size_and_time(source: Path) -> None:
    """Change a byte of a file; size and time of modification stay, as after `cp --preserve`."""
    before = (source / "002.png").stat()
    shutil.copy(source / "003.png", source / "002.png")
    assert (source / "002.png").stat().st_size == before.st_size
    time.sleep(0.02)  # the clock of the file system ticks every few milliseconds
    os.utime(source / "002.png", ns=(before.st_atime_ns, before.st_mtime_ns))


def rename(source: Path) -> None:
    (source / "000.png").rename(source / "009.png")


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (change_pixels, [0, 1, 1, 3]),
        (keep_size_and_time, [0, 1, 3, 3]),
        (rename, [1, 2, 3, 0]),
        (lambda source: (source / "001.png").unlink(), [0, 2, 3]),
        (lambda source: write(source / "0005.png", RGB[2]), [0, 2, 1, 2, 3]),
    ],
    ids=["pixels", "time", "name", "fewer", "more"],
)
def test_any_change_of_a_source_is_noticed(
    tmp_path: Path, change: Callable[[Path], None], rows: list[int]
) -> None:
    source = tmp_path / "f"
    source.mkdir()
    for row, image in enumerate(RGB):  # of one size in bytes, too
        write(source / f"{row:03}.png", image, compress_level=0)
    load(source)
    time.sleep(0.02)
    change(source)
    np.testing.assert_array_equal(load(source).values, channels_first(RGB[rows]))


def test_a_class_of_another_name_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "f" / "cat" / "a.png", RGB[0])
    write(tmp_path / "f" / "dog" / "a.png", RGB[1])
    load(tmp_path / "f")
    (tmp_path / "f" / "cat").rename(tmp_path / "f" / "cow")
    assert load(tmp_path / "f").class_names == ("cow", "dog")


def test_labels_beside_idx_images_belong_to_the_content(tmp_path: Path) -> None:
    source = idx(tmp_path / "t-images-idx3-ubyte.gz", 0x803, GREY)
    assert load(source).labels is None
    idx(tmp_path / "t-labels-idx1-ubyte.gz", 0x801, np.array([3, 5, 3, 9]))
    np.testing.assert_array_equal(load(source).labels, [0, 1, 0, 2])


def test_files_written_just_now_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int], digested: list[str]
) -> None:
    """Within a tick of the clock they may change once more, and nobody could tell."""
    monkeypatch.setattr(fingerprint, "SETTLED_NS", 10**12)
    source = folder(tmp_path / "f")
    load(source)
    load(source)
    assert (decoded, len(digested)) == ([4], 2)


def test_a_damaged_index_never_gives_other_data(tmp_path: Path, place: Path) -> None:
    source, other = folder(tmp_path / "f", GREY), folder(tmp_path / "g", GREY[::-1])
    load(source)
    (index,) = place.glob("*.json")
    load(other)
    (of_other,) = set(place.glob("*.json")) - {index}
    entry, foreign = json.loads(index.read_bytes()), json.loads(of_other.read_bytes())
    swapped = entry | {"content": foreign["content"]}
    for text in ("", "{", "[]", "null", json.dumps(swapped), json.dumps(foreign), json.dumps({"stamp": 1})):
        index.write_text(text)
        np.testing.assert_array_equal(load(source).values, channels_first(GREY))


def test_a_damaged_file_of_decoded_data_is_made_anew(
    tmp_path: Path, place: Path, decoded: list[int]
) -> None:
    source = folder(tmp_path / "f")
    load(source)
    (file,) = place.glob("*.safetensors")
    content = file.read_bytes()
    for damage in (content[:-1], content + b"x", b"", content[:1000], b"x" + content[1:]):
        file.write_bytes(damage)
        np.testing.assert_array_equal(load(source).values, channels_first(RGB))
        assert file.read_bytes() == content
    assert len(decoded) == 6


def test_another_file_under_the_name_is_not_taken_for_the_data(tmp_path: Path, place: Path) -> None:
    source = folder(tmp_path / "f")
    load(source)
    (file,) = place.glob("*.safetensors")
    load(folder(tmp_path / "g", GREY))
    (other,) = set(place.glob("*.safetensors")) - {file}
    shutil.copy(other, file)
    np.testing.assert_array_equal(load(source).values, channels_first(RGB))


def test_data_of_an_earlier_decoder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    source = folder(tmp_path / "f")
    load(source)
    monkeypatch.setattr(cache, "DECODER", 2)
    load(source)
    assert len(decoded) == 2
    monkeypatch.setattr(cache, "DECODER", 1)
    load(source)
    assert len(decoded) == 2
