"""Corrupt images are all named and refused, or left out when asked for, and said to be."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import TINY, Command, one_line
from files import GREY, RGB, channels_first, folder, load, members, pack, refused, write

from reflow.data import Watch, open_data
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

TEXT = b"not an image"


def spoil(path: Path, *rows: int) -> Path:
    """Write a folder of images and spoil some of them."""
    folder(path)
    for row in rows:
        (path / f"{row:03}.png").write_bytes(TEXT)
    return path


def told(source: Path, **settings: Any) -> list[str]:
    """Return what is said of corrupt images while a source is opened."""
    lines: list[str] = []
    open_data(DataSettings(source=str(source), **settings), 0, Watch(say=lines.append))
    return [line for line in lines if "corrupt" in line]


def test_all_corrupt_images_are_named_with_the_remedy(tmp_path: Path) -> None:
    refused(
        spoil(tmp_path, 1, 3),
        f"{tmp_path / '001.png'} is not an image of a known format; remove it or convert it to PNG",
        "1 more of 4 images: 003.png",
        "leave them out with --set data.skip_corrupt=true",
    )


def test_a_single_corrupt_image_is_named_alone(tmp_path: Path) -> None:
    with pytest.raises(ReflowError) as caught:
        load(spoil(tmp_path, 2))
    assert str(caught.value) == (
        f"{tmp_path / '002.png'} is not an image of a known format; remove it or convert it to PNG, "
        "or leave it out with --set data.skip_corrupt=true"
    )


def test_of_many_corrupt_images_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    for row in range(20):
        write(tmp_path / f"{row:02}.png", RGB[0]).write_bytes(TEXT)
    with pytest.raises(ReflowError, match=r"19 more of 20 images: 01\.png, .*, 10\.png and 9 others"):
        load(tmp_path)


def test_a_corrupt_image_does_not_hide_those_after_another_size(tmp_path: Path) -> None:
    write(spoil(tmp_path, 1) / "002.png", RGB[0, :8])
    (tmp_path / "zzz.png").write_bytes(TEXT)
    refused(tmp_path, "001.png", "1 more of 5 images: zzz.png")


def test_leaving_corrupt_images_out_is_like_removing_them(tmp_path: Path) -> None:
    whole = spoil(tmp_path / "a", 0, 2)
    sound = folder(tmp_path / "b", RGB[[1, 3]])
    data = load(whole, skip_corrupt=True)
    np.testing.assert_array_equal(data.values, channels_first(RGB[[1, 3]]))
    assert data.digest() == load(sound).digest()
    refused(whole, "000.png")  # the decoded data does not pass for that of other settings


def test_labels_of_class_folders_follow(tmp_path: Path) -> None:
    for row, name in enumerate(["cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png"]):
        write(tmp_path / name, RGB[row])
    (tmp_path / "cat/a.png").write_bytes(TEXT)
    data = load(tmp_path, skip_corrupt=True)
    np.testing.assert_array_equal(data.labels, [0, 1, 1])
    np.testing.assert_array_equal(data.values, channels_first(RGB[1:]))
    (tmp_path / "cat/b.png").write_bytes(TEXT)
    refused(tmp_path, "all images of class 'cat' are corrupt", "remove the class", skip_corrupt=True)


def test_labels_of_an_edm_archive_follow(tmp_path: Path) -> None:
    content = members()
    names = list(content)
    labels = [[name, label] for name, label in zip(names, [5, 2, 5, 9], strict=True)]
    archive = pack(tmp_path / "a.zip", content | {names[0]: TEXT}, labels)
    refused(archive, repr(names[0]), "data.skip_corrupt=true")
    data = load(archive, skip_corrupt=True)
    np.testing.assert_array_equal(data.labels, [0, 1, 2])
    assert data.class_names == ("2", "5", "9")
    np.testing.assert_array_equal(data.values, channels_first(RGB[1:]))


def test_a_member_whose_checksum_fails_is_corrupt(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", members())
    content = bytearray(archive.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 1
    archive.write_bytes(content)
    refused(archive, "CRC")
    assert len(load(archive, skip_corrupt=True)) == 3


def test_what_was_left_out_is_said_at_every_opening(tmp_path: Path) -> None:
    source = spoil(tmp_path, 1, 3)
    for _ in range(2):
        (line,) = told(source, skip_corrupt=True)
        assert line.startswith(f"{source}: 2 of 4 images left out as corrupt: 001.png, 003.png (")
        listed = Path(line.rpartition("reasons: ")[2].removesuffix(")"))
        assert [entry.partition("\t")[0] for entry in listed.read_text().splitlines()] == [
            "001.png",
            "003.png",
        ]
    assert told(folder(tmp_path / "sound", GREY), skip_corrupt=True) == []


def test_names_that_are_no_text_are_told_as_well_as_can_be(tmp_path: Path) -> None:
    source = folder(tmp_path / "f")
    bad = os.fsencode(source / "001.png").replace(b"001", b"\xff01")
    Path(os.fsdecode(bad)).write_bytes(TEXT)
    refused(source, "is not an image")
    for _ in range(2):
        (line,) = told(source, skip_corrupt=True)
        assert "1 of 5 images left out as corrupt" in line


def test_too_few_sound_images_are_refused(tmp_path: Path) -> None:
    refused(spoil(tmp_path, 0, 1, 2), "1 samples", "at least two", skip_corrupt=True)


def test_a_file_that_cannot_be_read_is_not_taken_for_corrupt(tmp_path: Path) -> None:
    (folder(tmp_path) / "gone.png").symlink_to(tmp_path / "nowhere")
    refused(tmp_path, "gone.png", "cannot be read", skip_corrupt=True)


def test_images_of_another_size_are_refused_all_the_same(tmp_path: Path) -> None:
    write(folder(tmp_path) / "b.png", RGB[0, :24])
    refused(tmp_path, "32 x 24", "data.size", skip_corrupt=True)


def test_headers_without_the_setting_keep_their_bytes() -> None:
    assert "skip_corrupt" not in DataSettings(source="digits").model_dump(mode="json")


def test_the_command_line_names_and_skips_them(tmp_path: Path, reflow: Command) -> None:
    source = folder(tmp_path / "f", np.tile(GREY[:, :8, :8], (10, 1, 1)))
    (source / "007.png").write_bytes(TEXT)
    command = ("train", TINY, "--data", source, "--out", tmp_path / "out", "--set", "train.steps=1")
    assert "007.png" in one_line(reflow(*command))
    answer = reflow(*command, "--set", "data.skip_corrupt=true")
    assert answer.code == 0, answer.err
    assert "1 of 40 images left out as corrupt: 007.png" in answer.err
