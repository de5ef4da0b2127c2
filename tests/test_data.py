"""Data sets: every format gives the bytes that were stored, and bad input one helpful line."""

import gzip
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from reflow.config import DataSettings
from reflow.data import DataSet, open_data, split
from reflow.errors import ReflowError

Array = NDArray[Any]

RGB = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
GREY = RGB[..., 0]
GREEN = np.array([0, 255, 0], np.uint8)


def load(source: Path | str, **settings: Any) -> DataSet:
    return open_data(DataSettings(source=str(source), **settings), seed=0)


def refused(source: Path | str, *words: str, **settings: Any) -> None:
    """Assert that loading fails in one line with these words in it."""
    with pytest.raises(ReflowError) as caught:
        load(source, **settings)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def write(path: Path, pixels: Array | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def png(pixels: Array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def folder(path: Path, images: Array = RGB) -> Path:
    for row, image in enumerate(images):
        write(path / f"{row:03}.png", image)
    return path


def pack(path: Path, members: dict[str, bytes], labels: Any = "absent", index: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if labels != "absent":
            archive.writestr(f"{index}dataset.json", json.dumps({"labels": labels}))
    return path


def members(images: Array = RGB) -> dict[str, bytes]:
    return {f"00000/img{row:08}.png": png(image) for row, image in enumerate(images)}


def idx(path: Path, magic: int, values: Array, cut: int | None = None) -> Path:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    with gzip.open(path, "wb") as file:
        file.write((magic.to_bytes(4, "big") + sizes + values.astype(np.uint8).tobytes())[:cut])
    return path


def channels_first(images: Array) -> Array:
    return images.transpose(0, 3, 1, 2) if images.ndim == 4 else images[:, None]


def one(path: Path, **settings: Any) -> Array:
    """Return the first of two equal images, (C, H, W), that a folder with this file holds."""
    shutil.copy(path, path.with_stem("copy"))
    return load(path.parent, **settings).values[0]


# Formats


@pytest.mark.parametrize("images", [RGB, GREY], ids=["rgb", "grey"])
def test_every_container_gives_the_stored_bytes_and_one_digest(tmp_path: Path, images: Array) -> None:
    np.savez(tmp_path / "a.npz", images=images)
    sources = [
        folder(tmp_path / "folder", images),
        tmp_path / "a.npz",
        pack(tmp_path / "a.zip", members(images)),
    ]
    if images.ndim == 3:
        sources.append(idx(tmp_path / "t-images-idx3-ubyte.gz", 0x803, images))
    for source in sources:
        data = load(source)
        np.testing.assert_array_equal(data.values, channels_first(images))
        assert data.values.dtype == np.uint8
        assert (data.labels, data.class_names) == (None, ())
    assert len({load(source).digest() for source in sources}) == 1


def test_digest_depends_on_content_and_not_on_path(tmp_path: Path) -> None:
    here = folder(tmp_path / "here")
    digest = load(here).digest()
    assert load(shutil.copytree(here, tmp_path / "there")).digest() == digest
    write(here / "000.png", RGB[0] ^ 1)
    assert load(here).digest() != digest


def test_digest_depends_on_labels_and_class_names(tmp_path: Path) -> None:
    digests = set()
    for name, labels in enumerate([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 2, 2]]):
        np.savez(tmp_path / f"{name}.npz", images=RGB, labels=np.array(labels))
        digests.add(load(tmp_path / f"{name}.npz").digest())
    assert len(digests) == 3


def test_sub_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    for row, name in enumerate(["dog/b.png", "cat/z.png", "dog/deep/a.PNG", "cat/a.png"]):
        write(tmp_path / name, RGB[row])
    for name in "gecbdaf":
        write(tmp_path / name / "a.png", RGB[0])
    data = load(tmp_path)
    assert data.class_names == ("a", "b", "c", "cat", "d", "dog", "e", "f", "g")
    np.testing.assert_array_equal(data.labels, [0, 1, 2, 3, 3, 4, 5, 5, 6, 7, 8])
    order = [0, 0, 0, 3, 1, 0, 0, 2, 0, 0, 0]
    np.testing.assert_array_equal(data.values, channels_first(RGB[order]))


def test_a_folder_ignores_hidden_and_foreign_files(tmp_path: Path) -> None:
    folder(tmp_path)
    for name in [".hidden.png", "._000.png", "notes.txt", "Thumbs.db", ".git/a.png", "docs/a.md"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not an image")
    (tmp_path / "dataset.json").write_text('{"license": "CC0"}')
    assert len(load(tmp_path)) == 4


@pytest.mark.parametrize("index", ["", "cifar10/"])
def test_edm_archives_have_the_labels_of_their_index(tmp_path: Path, index: str) -> None:
    content = {f"{index}{name}": image for name, image in members().items()}
    labels = [[name, label] for name, label in zip(members(), [10, 9, 10, -1], strict=True)]
    data = load(pack(tmp_path / "a.zip", content, labels[::-1], index))
    np.testing.assert_array_equal(data.labels, [2, 1, 2, 0])
    assert data.class_names == ("-1", "9", "10")
    np.testing.assert_array_equal(data.values, channels_first(RGB))
    assert load(pack(tmp_path / "b.zip", content, None, index)).labels is None


def test_an_unpacked_edm_archive_is_the_same_data(tmp_path: Path) -> None:
    for labels in [[[name, row % 3] for row, name in enumerate(members())], None]:
        archive = pack(tmp_path / "a.zip", members(), labels)
        shutil.unpack_archive(archive, tmp_path / "out")
        assert load(tmp_path / "out").digest() == load(archive).digest()


def test_archives_ignore_what_macos_adds(tmp_path: Path) -> None:
    extra = {"__MACOSX/00000/._img00000000.png": b"x", "readme.txt": b"x", "00000/": b""}
    assert len(load(pack(tmp_path / "a.zip", members() | extra))) == 4


def test_npz_labels_become_dense_and_keep_their_names(tmp_path: Path) -> None:
    labels = np.array([100, 7, 100, -3], np.int16)
    np.savez_compressed(tmp_path / "a.npz", images=GREY, labels=labels)
    data = load(tmp_path / "a.npz")
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    np.testing.assert_array_equal(data.labels, [2, 1, 2, 0])
    assert data.class_names == ("-3", "7", "100")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_npz_samples_are_float32_vectors(tmp_path: Path, dtype: str) -> None:
    samples = np.random.default_rng(0).normal(size=(5, 3)).astype(dtype)
    np.savez(tmp_path / "a.npz", samples=np.asfortranarray(samples), labels=np.arange(5))
    data = load(tmp_path / "a.npz")
    assert data.event == (3,)
    np.testing.assert_array_equal(data.values, samples.astype(np.float32))
    values, labels = data.take(np.array([4, 0]))
    np.testing.assert_array_equal(values.numpy(), samples[[4, 0]].astype(np.float32))
    assert labels is not None and labels.tolist() == [4, 0]


def test_idx_labels_are_found_beside_the_images(tmp_path: Path) -> None:
    path = idx(tmp_path / "t10k-images-idx3-ubyte.gz", 0x803, GREY)
    idx(tmp_path / "t10k-labels-idx1-ubyte.gz", 0x801, np.array([3, 5, 3, 9]))
    data = load(path)
    np.testing.assert_array_equal(data.labels, [0, 1, 0, 2])
    assert data.class_names == ("3", "5", "9")


# Size and mode


def stripes(height: int, width: int) -> Array:
    """Red, green and blue thirds along the longer side."""
    position = np.arange(max(height, width)) * 3 // max(height, width)
    colours = np.repeat(np.eye(3, dtype=np.uint8)[position][None] * 255, min(height, width), axis=0)
    return colours if width > height else colours.transpose(1, 0, 2)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (16, 49), (31, 16)])
def test_crop_keeps_the_centre_without_blur_where_the_shorter_side_fits(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    pixels = RGB[0].repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]]
    top, left = (shape[0] - 16) // 2, (shape[1] - 16) // 2
    cropped = one(write(tmp_path / "a.png", pixels), size=16)
    np.testing.assert_array_equal(cropped.transpose(1, 2, 0), pixels[top:, left:][:16, :16])


@pytest.mark.parametrize("shape", [(64, 192), (192, 64), (8, 24)])
def test_resize_scales_the_shorter_side_then_crops_the_centre(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    pixels = one(write(tmp_path / "a.png", stripes(*shape)), size=16)
    assert pixels.shape == (3, 16, 16)
    inner = pixels[:, 6:10, 6:10]  # Lanczos reaches three pixels of the coarser grid
    np.testing.assert_array_equal(inner, np.broadcast_to(GREEN[:, None, None], inner.shape))


def test_shrinking_averages_instead_of_picking_pixels(tmp_path: Path) -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = one(write(tmp_path / "a.png", board), size=16)
    assert abs(pixels[:, 2:-2, 2:-2].astype(float) - 127.5).max() < 2  # rounding twice


@pytest.mark.parametrize("kind", ["npz", "zip", "idx"])
@pytest.mark.parametrize(("mode", "event"), [("auto", (1, 8, 8)), ("rgb", (3, 8, 8))])
def test_size_and_mode_apply_to_every_container(
    tmp_path: Path, kind: str, mode: str, event: tuple[int, ...]
) -> None:
    np.savez(tmp_path / "a.npz", images=GREY)
    source = {
        "npz": tmp_path / "a.npz",
        "zip": pack(tmp_path / "a.zip", members(GREY)),
        "idx": idx(tmp_path / "t-images-idx3-ubyte.gz", 0x803, GREY),
    }[kind]
    expected = load(folder(tmp_path / "folder", GREY), size=8, mode=mode)
    assert expected.event == event
    assert load(source, size=8, mode=mode).digest() == expected.digest()


def test_auto_mode_is_grey_only_if_every_image_is(tmp_path: Path) -> None:
    for row, mode in enumerate(["1", "L", "LA", "I;16"]):
        write(tmp_path / f"{row}.png", Image.new(mode, (3, 3)))
    assert load(tmp_path).event == (1, 3, 3)
    assert load(tmp_path, mode="rgb").event == (3, 3, 3)
    write(tmp_path / "2b.png", np.full((3, 3, 3), GREEN))
    data = load(tmp_path)
    assert data.event == (3, 3, 3)
    np.testing.assert_array_equal(data.values[3, :, 0, 0], GREEN)
    assert not data.values[[0, 1, 4]].any()


def test_grey_mode_takes_luma(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.full((2, 3, 3, 3), GREEN))
    expected = round(0.587 * 255)  # ITU-R BT.601
    np.testing.assert_array_equal(load(tmp_path / "a.npz", mode="grey").values, expected)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    pixels = one(write(tmp_path / "a.png", levels * 257))
    np.testing.assert_array_equal(pixels[0], levels)


def palette(mode: str) -> Image.Image:
    """Black pixels of palette entries 1 and 0, the first one transparent if the mode has alpha."""
    image = Image.new(mode, (2, 1))
    image.putpalette([0] * 6)
    image.putpixel((0, 0), (1, 0) if mode == "PA" else 1)
    if mode == "PA":
        image.putpixel((1, 0), (0, 255))
    return image


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (np.array([[[0, 0], [0, 255]]], np.uint8), {}),
        (np.array([[[0, 0, 0, 0], [0, 0, 0, 255]]], np.uint8), {}),
        (np.array([[9, 0]], np.uint8), {"transparency": 9}),
        (np.array([[[9, 9, 9], [0, 0, 0]]], np.uint8), {"transparency": (9, 9, 9)}),
        (np.array([[300, 0]], np.uint16), {"transparency": 300}),
        (palette("P"), {"transparency": 1}),
        (palette("P"), {"transparency": b"\xff\x00"}),
        (palette("PA"), {"format": "TIFF"}),
    ],
    ids=["LA", "RGBA", "L", "RGB", "I;16", "P", "P-bytes", "PA"],
)
def test_transparency_is_laid_over_white(
    tmp_path: Path, image: Array | Image.Image, options: dict[str, Any]
) -> None:
    pixels = one(write(tmp_path / "a.png", image, **options))
    assert pixels[:, 0].tolist() == [[255, 0]] * len(pixels)


def test_half_transparency_mixes_with_white(tmp_path: Path) -> None:
    pixels = np.full((2, 4, 4, 4), [0, 255, 0, 51], np.uint8)  # a fifth opaque
    np.savez(tmp_path / "a.npz", images=pixels)
    write(tmp_path / "f" / "a.png", pixels[0])
    for values in (load(tmp_path / "a.npz").values[0], one(tmp_path / "f" / "a.png")):
        np.testing.assert_array_equal(values[:, 0, 0], [204, 255, 204])


UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = GREY[0, :5, :9]
    pixels = one(write(tmp_path / "a.png", stored, exif=exif))
    np.testing.assert_array_equal(pixels[0], UPRIGHT[orientation](stored))


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm"])
def test_common_formats_are_decoded(tmp_path: Path, suffix: str) -> None:
    pixels = one(write(tmp_path / f"a.{suffix}", np.full((8, 8, 3), [200, 100, 50], np.uint8)))
    error = pixels.astype(int) - np.array([200, 100, 50])[:, None, None]
    assert abs(error).max() <= 4  # the lossy ones


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = one(write(tmp_path / "a.jpg", image)).astype(int)
    assert abs(red - np.array([255, 0, 0])[:, None, None]).max() <= 4  # JPEG


def test_broken_metadata_of_a_sound_image_is_no_matter(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        one(write(tmp_path / "a.png", GREY[0], exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")), GREY[:1]
    )


# What goes wrong


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
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    refused(folder(tmp_path), "000.png", "too many pixels", "shrink or remove it")


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    write(folder(tmp_path) / "f.tif", Image.new("F", (32, 32)))
    refused(tmp_path, "f.tif", "floating-point")


def test_images_that_exceed_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Array:
        raise MemoryError

    folder(tmp_path)
    monkeypatch.setattr(np, "empty", full)
    refused(tmp_path, "4 images of 32 x 32", "data.size")


def test_loose_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    write(folder(tmp_path) / "cat" / "a.png", RGB[0])
    refused(tmp_path, str(tmp_path), "000.png", "cat", "keep one")


def test_empty_folders_say_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "dog").mkdir()
    refused(tmp_path, str(tmp_path), "looked for .png, .jpg")
    write(tmp_path / "cat" / "a.png", RGB[0])
    refused(tmp_path, "dog", "fill or remove it")


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
    refused(path, str(path), "dataset.json", *words)


@pytest.mark.parametrize(("text", "word"), [("{", "not JSON"), ("[]", "labels"), ("{}", "null")])
def test_a_broken_edm_index_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = pack(tmp_path / "a.zip", members() | {"dataset.json": text.encode()})
    refused(path, str(path), "dataset.json", word)


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", members())
    content = path.read_bytes()
    for damaged in (b"", b"PK\x03\x04 no", content[: len(content) // 2]):
        path.write_bytes(damaged)
        refused(path, str(path), "make it anew")
    flipped = bytearray(content)
    flipped[content.index(b"IDAT") + 20] ^= 1
    path.write_bytes(flipped)
    refused(path, str(path), NAMES[0], "CRC", "make the archive anew")
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
        ({"samples": np.array([[1e300], [0.0]])}, ["sample 0", "infinity"]),
        ({"samples": np.zeros((1, 2))}, ["1 samples", "at least two"]),
    ],
)
def test_npz_with_other_contents_is_refused(
    tmp_path: Path, arrays: dict[str, Array], words: list[str]
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    refused(path, str(path), *words)


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
    refused(path, str(labels), "3 labels", "4 images")
    idx(labels, 0x803, GREY)
    refused(path, str(labels), "not an IDX file of labels")


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


# The set in memory


def test_take_spans_minus_one_to_one(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
    np.savez(tmp_path / "a.npz", images=levels)
    values, labels = load(tmp_path / "a.npz").take(np.arange(2))
    assert labels is None
    expected = np.linspace(-1, 1, 256).reshape(2, 1, 8, 16)
    np.testing.assert_allclose(values.numpy(), expected, atol=2e-7)  # float32 rounding
    assert (values.min().item(), values.max().item()) == (-1, 1)


def test_split_is_disjoint_complete_and_deterministic() -> None:
    values = np.arange(103, dtype=np.float32)[:, None]
    data = DataSet(values, np.arange(103), tuple(map(str, range(103))))
    train, held_out = split(data, 0.2, seed=1)
    assert (len(train), len(held_out)) == (82, 21)
    for part in (train, held_out):
        np.testing.assert_array_equal(part.values[:, 0], part.labels)
        assert part.class_names == data.class_names
    together = np.concatenate([train.values, held_out.values])
    np.testing.assert_array_equal(np.sort(together, axis=0), values)
    assert split(data, 0.2, seed=1)[1].digest() == held_out.digest()
    assert split(data, 0.2, seed=2)[1].digest() != held_out.digest()


def test_split_refuses_an_empty_side() -> None:
    with pytest.raises(ReflowError, match=r"data\.held_out"):
        split(DataSet(np.zeros((2, 1), np.float32)), 0.1, seed=0)


# Built-in sets

HALF_MOON = 0.64 * (0.5 - 1 / np.pi + 0.25**2)

# Covariances per set: of x, of y, between both; all means are zero.
MOMENTS = {
    "eight-gaussians": (8, 0.5 + 0.1**2, 0.5 + 0.1**2, 0.0),
    "two-moons": (2, 0.64 * 0.75 + 0.05**2, HALF_MOON + 0.05**2, 0.64 * (1 / 8 - 1 / np.pi)),
    "checkerboard": (8, 1 / 3, 1 / 3, 1 / 16),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_toys_have_the_moments_of_their_closed_forms(name: str) -> None:
    count = 100_000
    data = load(name, points=count)
    classes, *moments = MOMENTS[name]
    assert data.event == (2,)
    assert data.values.dtype == np.float32
    x, y = data.values.astype(float).T
    products = np.stack([x, y, x * x, y * y, x * y])
    error = products.mean(axis=1) - [0, 0, *moments]
    assert (abs(error) < 5 * products.std(axis=1) / count**0.5).all()  # five standard errors
    shares = np.bincount(data.labels, minlength=classes) / count
    assert len(shares) == len(data.class_names) == classes
    assert abs(shares - 1 / classes).max() < 5 * (1 / classes / count) ** 0.5  # likewise


def test_toys_follow_the_seed() -> None:
    settings = DataSettings(source="two-moons", points=50)
    digest = open_data(settings, seed=3).digest()
    assert open_data(settings, seed=3).digest() == digest
    assert open_data(settings, seed=4).digest() != digest


def test_the_checkerboard_fills_dark_squares_only() -> None:
    values = load("checkerboard").values
    assert abs(values).max() <= 1
    assert not (np.floor((values + 1) * 2).sum(axis=1) % 2).any()


def test_labels_of_the_circle_name_the_nearest_gaussian() -> None:
    data = load("eight-gaussians")
    angle = np.arctan2(data.values[:, 1], data.values[:, 0])
    # neighbours are 7.6 standard deviations apart: hardly one in ten thousand is beyond half of it
    assert (np.rint(angle * 4 / np.pi) % 8 == data.labels).mean() > 0.999


def test_digits_are_real_images_with_ten_labels() -> None:
    data = load("digits")
    assert (len(data), data.event, data.values.dtype) == (1797, (1, 8, 8), np.uint8)
    assert data.class_names == tuple("0123456789")
    assert data.labels is not None and set(data.labels) == set(range(10))
    levels = np.unique(data.values)
    np.testing.assert_array_equal(levels, np.rint(np.arange(17) * 255 / 16))
    assert load("digits").digest() == data.digest()


def test_digits_follow_size_and_mode() -> None:
    assert load("digits", size=16, mode="rgb").event == (3, 16, 16)
