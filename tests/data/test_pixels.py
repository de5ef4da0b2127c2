"""Images of any size and mode become what the settings ask for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import GREEN, GREY, RGB, Array, folder, idx, load, members, one, pack, write
from PIL import Image


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
