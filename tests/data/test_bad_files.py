"""Bad data files get one line that names the file and the remedy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import GREY, RGB, Array, channels_first, folder, idx, load, members, pack, refused, write
from PIL import Image


def test_unequal_sizes_name_two_files_and_the_setting(tmp_path: Path) -> None:
    write(folder(tmp_path) / "b.png", RGB[0, :24])
    refused(tmp_path, "000.png", "32 x 32", "b.png", "32 x 24", "--set data.size=32")
    assert load(tmp_path, size=16).event == (3, 16, 16)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif", "ppm"])
@pytest.mark.parametrize("share", [0, 0.1, 0.6])
def test_truncated_images_are_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = write(folder(tmp_path) / f"cut.{suffix}", RGB[0])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(tmp_path, str(path), "remove it")


def test_foreign_files_are_named(tmp_path: Path) -> None:
    path = folder(tmp_path) / "page.png"
    path.write_text("<html>")
    refused(tmp_path, str(path), "remove it or convert it to PNG")
    Image.new("RGB", (32, 32)).save(path, "ICNS")  # Pillow could, but we want few decoders
    refused(tmp_path, str(path), "remove it or convert it to PNG")
    write(tmp_path / "page.png", RGB[0]).rename(tmp_path / "page.jpg")
    assert len(load(tmp_path)) == 5


@pytest.mark.parametrize("limit", [700, 100], ids=["warning", "error"])
def test_decompression_bombs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "cache"))  # the limit is no setting of ours
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    refused(folder(tmp_path / "f"), "000.png", "too many pixels", "shrink or remove it")


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    write(folder(tmp_path) / "f.tif", Image.new("F", (32, 32)))
    refused(tmp_path, "f.tif", "floating-point")


def test_loose_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    write(folder(tmp_path) / "cat" / "a.png", RGB[0])
    refused(tmp_path, str(tmp_path), "000.png", "cat", "keep one")


def test_empty_folders_say_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "dog").mkdir()
    refused(tmp_path, str(tmp_path), "looked for .png, .jpg")
    write(tmp_path / "cat" / "a.png", RGB[0])
    refused(tmp_path, "dog", "fill or remove it", labels=True)


NAMES = list(members())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[name, 0] for name in NAMES[1:]], ["no label for", NAMES[0], "add it"]),
        ([[name, 0] for name in [*NAMES, "gone.png"]], ["gone.png", "absent", "remove"]),
        ([[name, 0] for name in [*NAMES, NAMES[0]]], ["twice"]),
        ([[name, 0.5] for name in NAMES], ["whole number"]),
        ([[name, True] for name in NAMES], ["whole number"]),
        (dict.fromkeys(NAMES, 1), ["whole number"]),
    ],
)
def test_edm_labels_must_match_the_images(tmp_path: Path, labels: Any, words: list[str]) -> None:
    path = pack(tmp_path / "a.zip", members(), labels)
    refused(path, str(path), "dataset.json", *words, labels=True)
    assert load(path).labels is None


@pytest.mark.parametrize(("text", "word"), [("{", "not JSON"), ("[]", "labels"), ("{}", "null")])
def test_a_broken_edm_index_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = pack(tmp_path / "a.zip", members() | {"dataset.json": text.encode()})
    refused(path, str(path), "dataset.json", word, labels=True)
    assert load(path).labels is None


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", members())
    content = path.read_bytes()
    for damaged in (b"", b"PK\x03\x04 no", content[: len(content) // 2]):
        path.write_bytes(damaged)
        refused(path, str(path), "create it again")
    flipped = bytearray(content)
    flipped[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(flipped)
    refused(path, str(path), NAMES[0], "CRC", "create the archive again")
    encrypted = bytearray(content)
    encrypted[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(encrypted)
    refused(path, str(path), NAMES[0], "password")
    refused(pack(path, {"a.txt": b"x"}), str(path), "no images", ".png")
    refused(pack(path, {"a.png": b"x"}), str(path), "a.png", "remove it")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": GREY}, ["holds 'x'", "'images'", "'samples'"]),
        ({}, ["holds nothing"]),
        ({"images": GREY, "samples": GREY[0]}, ["either"]),
        ({"images": GREY.astype(float)}, ["float64 [4, 32, 32]", "uint8"]),
        ({"images": channels_first(RGB)}, ["uint8 [4, 3, 32, 32]", "[N,H,W,C]"]),
        ({"images": RGB[..., :2]}, ["1, 3 or 4 channels"]),
        ({"images": GREY[:0]}, ["[0, 32, 32]"]),
        ({"images": GREY[0]}, ["[32, 32]"]),
        ({"images": np.array([None, "x"])}, ["'images' cannot be read", "plain numbers"]),
        ({"images": GREY, "labels": np.arange(3)}, ["'labels' is int64 [3]", "[4]"]),
        ({"images": GREY, "labels": np.zeros(4)}, ["'labels' is float64", "whole"]),
        ({"images": GREY, "labels": np.zeros((4, 1), int)}, ["[4, 1]"]),
        ({"samples": np.zeros(3)}, ["'samples' is float64 [3]", "[N,D]"]),
        ({"samples": np.zeros((3, 2), int)}, ["'samples' is int64", "float32"]),
        ({"samples": np.array([[0.0], [np.nan]])}, ["sample 1", "NaN"]),
        ({"samples": np.where(np.arange(9**6) == 7**6, np.nan, 0)[:, None]}, ["sample 117649", "NaN"]),
        ({"samples": np.array([[1e300], [0.0]])}, ["sample 0", "infinity"]),
        ({"samples": np.zeros((1, 2))}, ["1 samples", "at least two"]),
    ],
)
def test_npz_with_other_contents_is_refused(
    tmp_path: Path, arrays: dict[str, Array], words: list[str]
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    refused(path, str(path), *words, labels="labels" in arrays)


def test_damaged_npz_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=GREY)
    content = bytearray(path.read_bytes())
    for damaged in (b"", b"text", b"PK\x03\x04 no", bytes(content[:-100])):
        path.write_bytes(damaged)
        refused(path, str(path), "not a .npz archive", "numpy.savez")
    content[1000] ^= 1
    path.write_bytes(content)
    refused(path, str(path), "CRC", "write the file again")
    with path.open("wb") as file:
        np.save(file, GREY)
    refused(path, str(path), "single array")


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t-images-idx3-ubyte.gz"
    idx(path, 0x803, GREY)
    content = path.read_bytes()
    start = content.index(b"ubyte\0") + 6  # of the deflate stream, behind the stored name
    invalid = content[:start] + b"\xff" * 40
    for damaged in (content[:-10], content[:100] + b"xx" + content[102:], invalid, b"plain"):
        path.write_bytes(damaged)
        refused(path, str(path), "cannot be unzipped", "download it again")
    for cut in (-1, 10):
        refused(idx(path, 0x803, GREY, cut), str(path), "holds", "download it again")
    for magic, cut in ((0x802, None), (0x803, 3), (0x803, 0)):
        refused(idx(path, magic, GREY, cut), str(path), "not an IDX file", "0x00000803")


def test_idx_labels_must_match_the_images(tmp_path: Path) -> None:
    path = idx(tmp_path / "t-images-idx3-ubyte.gz", 0x803, GREY)
    labels = idx(tmp_path / "t-labels-idx1-ubyte.gz", 0x801, np.arange(4))
    refused(labels, str(labels), "give the images", "images-idx3")
    idx(labels, 0x801, np.arange(3))
    refused(path, str(labels), "3 labels", "4 images", labels=True)
    assert load(path).labels is None
    idx(labels, 0x803, GREY)
    refused(path, str(labels), "not an IDX file of labels", labels=True)
    assert load(path).labels is None


def test_unknown_sources_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone", "gone", "digits", "two-moons")
    refused("files", "--data")
    (tmp_path / "a.rar").touch()
    refused(tmp_path / "a.rar", "a.rar", "convert")


@pytest.mark.parametrize("settings", [{"size": 8}, {"mode": "grey"}])
def test_image_settings_are_refused_for_vectors(tmp_path: Path, settings: Any) -> None:
    np.savez(tmp_path / "a.npz", samples=np.zeros((3, 2)))
    refused(tmp_path / "a.npz", "a.npz", "data.size", **settings)
    refused("two-moons", "two-moons", "data.size", **settings)
