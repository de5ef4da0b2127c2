"""What a source holds is found in full, said in one line, and nothing that is no data gets in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import GREY, RGB, folder, load, members, pack, png, refused, write
from PIL import Image, ImageCms

from reflow.data import Watch, open_data
from reflow.recipes.recipe import DataSettings

JUNK = [
    *("Thumbs.db", ".DS_Store", "desktop.ini", "._000.png", "__MACOSX/x.png", "__MACOSX/cat/._a.png"),
    *("@eaDir/000.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/a.png", "$RECYCLE.BIN/a.png", ".thumbnails/a.png"),
    *("System Volume Information/a.png", "@Recycle/a.png", "lost+found/a.png"),
]


def said(source: Path, **settings: Any) -> str:
    """Return the one line that is said of a source."""
    lines: list[str] = []
    open_data(DataSettings(source=str(source), **settings), 0, Watch(say=lines.append))
    (line,) = lines
    return line.removeprefix(f"{source}: ")


@pytest.mark.parametrize("name", JUNK)
@pytest.mark.parametrize("classes", [False, True])
def test_junk_is_neither_data_nor_a_class(tmp_path: Path, name: str, classes: bool) -> None:
    for row in range(4):
        write(tmp_path / "f" / ("" if not classes else "ab"[row % 2]) / f"{row}.png", RGB[row])
    files = {file: file.read_bytes() for file in (tmp_path / "f").rglob("*.png")}
    before = load(tmp_path / "f", labels=classes).digest()
    for place in (tmp_path / "f", tmp_path / "f" / "a")[: 1 + classes]:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(png(GREY[0, :5]))
    assert load(tmp_path / "f", labels=classes).digest() == before
    assert "left out" not in said(tmp_path / "f")
    content = {str(file.relative_to(tmp_path / "f")): text for file, text in files.items()}
    archive = pack(tmp_path / "a.zip", content | {name: png(GREY[0, :5]), f"a/{name}": png(GREY[0, :5])})
    assert len(load(archive)) == 4
    assert "left out" not in said(archive)


OTHERS = ["jfif", "jpe", "avif", "apng", "pnm", "jp2", "tga", "qoi", "pcx", "sgi", "dib", "MPO"]


@pytest.mark.parametrize("suffix", OTHERS)
def test_whatever_pillow_reads_is_read(tmp_path: Path, suffix: str) -> None:
    kinds = {"apng": "PNG", "jpe": "JPEG", "pnm": "PPM"}
    pixels = np.full((16, 16, 3), [200, 100, 50], np.uint8)
    source = folder(tmp_path / "f", pixels[None])
    path = write(source / f"x.{suffix}", pixels, format=kinds.get(suffix))
    for data in (
        load(source),
        load(pack(tmp_path / "a.zip", {"000.png": png(pixels), path.name: path.read_bytes()})),
    ):
        assert len(data) == 2
        assert abs(data.values[1].astype(int) - pixels.transpose(2, 0, 1)).max() <= 6  # the lossy ones


def test_bitmaps_are_read(tmp_path: Path) -> None:
    for name in ("a.pbm", "b.pbm"):
        (tmp_path / name).write_bytes(b"P4\n8 1\n\xa5")
    assert load(tmp_path).values[0, 0, 0].tolist() == [0, 255, 0, 255, 255, 0, 255, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_files_without_ending_are_known_by_their_content(tmp_path: Path, kind: str) -> None:
    source = folder(tmp_path / "f")
    Image.fromarray(RGB[0]).save(source / "picture", kind)
    (source / "LICENSE").write_text("Permission is granted")
    assert len(load(source)) == 5
    assert said(source).endswith("1 other files left out (1 without ending)")
    content = {file.name: file.read_bytes() for file in source.iterdir()}
    assert len(load(pack(tmp_path / "a.zip", content))) == 5


def test_the_line_tells_what_was_read_and_what_was_not(tmp_path: Path) -> None:
    source = tmp_path / "f"
    for row in range(4):
        write(source / ("cat" if row else "dog") / f"{row}.png", RGB[row])
    for name in ("a.txt", "b.txt", "cat/c.heic"):
        (source / name).touch()
    assert (
        said(source)
        == "4 images of 32 x 32, rgb; 2 classes (cat 3, dog 1); 3 other files left out (2 .txt, 1 .heic)"
    )
    np.savez(tmp_path / "v.npz", samples=np.zeros((3, 2)))
    assert said(tmp_path / "v.npz") == "3 vectors of 2 numbers; no classes"


@pytest.mark.usefixtures("place")
def test_what_happened_to_pixels_is_said_at_every_opening(tmp_path: Path) -> None:
    clear = np.dstack([RGB[0], GREY[0]])
    source = folder(tmp_path / "f", RGB[:2])
    write(source / "a.png", clear)
    write(source / "b.png", np.dstack([RGB[0], np.full_like(GREY[0], 255)]))  # alpha that hides nothing
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write(source / "c.png", RGB[3], icc_profile=profile)
    for _ in range(2):
        assert said(source) == (
            "5 images of 32 x 32, rgb; no classes; 1 with transparency laid over white; "
            "colour profiles of 1 not applied"
        )
    dark = folder(tmp_path / "d", GREY.astype(np.uint16))
    assert "4 of 16 bits without a level above 4095: scale them" in said(dark)
    np.savez(tmp_path / "a.npz", images=clear[None].repeat(2, axis=0))
    assert "2 with transparency laid over white" in said(tmp_path / "a.npz")


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    folder(tmp_path / "real" / "more", RGB[2:])
    for name in ("cat", "dog"):
        write(tmp_path / "f" / name / "a.png", RGB[0])
    (tmp_path / "f" / "dog" / "more").symlink_to(tmp_path / "real" / "more")
    assert load(tmp_path / "f", labels=True).labels.tolist() == [0, 1, 1, 1]  # type: ignore[union-attr]
    (tmp_path / "f" / "dog" / "again").symlink_to(tmp_path / "f")
    refused(tmp_path / "f", str(tmp_path / "f" / "dog" / "again"), "a folder that it lies in")


@pytest.mark.parametrize("name", ["gone.png", "gone"])
def test_dangling_links_are_called_that(tmp_path: Path, name: str) -> None:
    (folder(tmp_path) / name).symlink_to(tmp_path / "nowhere")
    refused(tmp_path, str(tmp_path / name), "dangling link", str(tmp_path / "nowhere"))


def test_an_unreadable_index_of_an_archive_is_no_image(tmp_path: Path) -> None:
    assert len(load(pack(tmp_path / "a.zip", members() | {"00001/dataset.json": b"{}"}))) == 4
