"""Levels of any depth become the nearest of 256, as independent decoders say; or the image is refused."""

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import GREY, RGB, Array, folder, load, refused, write
from PIL import Image

from reflow.data import cache
from reflow.data.images import decode
from reflow.errors import ReflowError

tifffile = pytest.importorskip("tifffile")
imagecodecs = pytest.importorskip("imagecodecs")

SHAPE = (9, 11)


def over_white(levels: Array, bits: int, *, inverted: bool = False) -> Array:
    """Return levels (H, W, C) as they look on white, in 8 bits; the last of 2 or 4 is alpha."""
    top, exact = 2**bits - 1, levels.astype(np.int64)
    colour = exact[..., :3] if exact.shape[-1] > 2 else exact[..., :1]
    if inverted:
        colour = top - colour
    if exact.shape[-1] in (2, 4):
        colour = (colour * exact[..., -1:] + top * (top - exact[..., -1:])) / top
    pixels = np.rint(colour * 255 / top).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def levels_of(bits: int, channels: int) -> Array:
    kind = np.uint8 if bits <= 8 else np.uint16
    return np.random.default_rng(bits).integers(0, 2**bits, (*SHAPE, channels), dtype=kind)


def flat(levels: Array) -> Array:
    return levels[..., 0] if levels.shape[-1] == 1 else levels


def tiffs() -> Iterator[Any]:
    """Yield the kinds of TIFF, and whether each is read."""
    for bits, channels, order, packed, planes in itertools.product(
        (8, 16), (1, 2, 3, 4), "<>", (None, "deflate", "lzw"), ("contig", "separate")
    ):
        for kind in ("rgb",) if channels > 2 else ("minisblack", "miniswhite"):
            if channels == 1 and planes == "separate":
                continue
            read = planes == "contig" if channels == 2 or bits == 16 else True
            read &= not (channels == 2 and (bits == 16 or kind == "miniswhite"))  # Pillow has no such mode
            read &= not (bits == 16 and kind == "miniswhite" and order == ">")
            words = (
                str(bits),
                str(channels),
                kind,
                "big" if order == ">" else "little",
                str(packed),
                planes,
            )
            yield pytest.param(bits, channels, kind, order, packed, planes, read, id="-".join(words))


@pytest.mark.parametrize(("bits", "channels", "kind", "order", "packed", "planes", "read"), list(tiffs()))
def test_a_tiff_is_exact_or_refused(
    bits: int, channels: int, kind: str, order: Any, packed: Any, planes: Any, read: bool
) -> None:
    levels, stream = levels_of(bits, channels), io.BytesIO()
    more = {"planarconfig": planes} if channels > 1 else {}
    more |= {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
    stored = np.moveaxis(levels, -1, 0) if planes == "separate" else flat(levels)
    tifffile.imwrite(
        stream, stored, photometric=kind, byteorder=order, compression=packed, metadata=None, **more
    )
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(stream.getvalue())), stored)
    if not read:
        with pytest.raises(ReflowError, match=r"a\.tif .*write its samples|a\.tif .*convert it to PNG"):
            decode("a.tif", stream.getvalue())
        return
    expected = over_white(levels, bits, inverted=kind == "miniswhite")
    np.testing.assert_array_equal(decode("a.tif", stream.getvalue()).image, expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_png_is_exact(bits: int, channels: int) -> None:
    levels = levels_of(bits, channels)
    content = imagecodecs.png_encode(flat(levels))
    np.testing.assert_array_equal(imagecodecs.png_decode(content), flat(levels))
    np.testing.assert_array_equal(decode("a.png", content).image, over_white(levels, bits))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [4, 7, 8, 10, 12, 16])
def test_jpeg_2000_is_exact_or_refused(bits: int, channels: int) -> None:
    levels = levels_of(bits, channels)
    content = imagecodecs.jpeg2k_encode(flat(levels), level=0, bitspersample=bits, reversible=True)
    if bits < 8 or (bits > 8 and channels == 3):
        with pytest.raises(ReflowError, match=rf"a\.jp2 has {bits} bits per colour"):
            decode("a.jp2", content)
        return
    np.testing.assert_array_equal(decode("a.jp2", content).image, over_white(levels, bits))


@pytest.mark.parametrize("magic", [b"P5", b"P6"])
@pytest.mark.parametrize("top", [1, 15, 200, 255, 1023, 4095, 65535])
def test_ppm_is_scaled_by_its_largest_level(magic: bytes, top: int) -> None:
    shape = (*SHAPE, 3) if magic == b"P6" else SHAPE
    levels = np.random.default_rng(top).integers(0, top + 1, shape)
    content = b"%s 11 9 %d\n" % (magic, top) + levels.astype(">u2" if top > 255 else "u1").tobytes()
    expected = np.rint(levels * 255 / top).astype(np.uint8)
    np.testing.assert_array_equal(decode("a.ppm", content).image, expected)


@pytest.mark.parametrize("name", ["webp", "qoi"])
@pytest.mark.parametrize("channels", [3, 4])
def test_other_lossless_formats_are_exact(name: str, channels: int) -> None:
    levels = levels_of(8, channels)
    options = {"lossless": True} if name == "webp" else {}
    content = getattr(imagecodecs, f"{name}_encode")(levels, **options)
    np.testing.assert_array_equal(decode(f"a.{name}", content).image, over_white(levels, 8))


def tiff(levels: Array, **tags: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, levels, metadata=None, **tags)
    return stream.getvalue()


def test_twelve_bits_are_scaled() -> None:
    levels = np.arange(4096).reshape(64, 64)
    packed = np.packbits((levels.reshape(-1, 1) >> np.arange(11, -1, -1) & 1).astype(np.uint8)).tobytes()
    tags = [(256, 64), (257, 64), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 64)]
    tags.append((279, len(packed)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4
    content = content.ljust(122, b"\0") + packed
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(content)), levels)
    expected = np.rint(levels * 255 / 4095).astype(np.uint8)
    found = decode("a.tif", content)
    np.testing.assert_array_equal(found.image, expected)
    assert found.seen == ()  # not taken for dark


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiff(np.zeros((3, 4, 5), np.uint8), photometric="minisblack"), "has 3 pages; write each one"),
        (tiff(np.zeros(SHAPE, np.int8)), "signed levels"),
        (tiff(np.zeros(SHAPE, np.int16)), "signed levels"),
        (tiff(np.zeros(SHAPE, np.uint32)), "32 bits"),
        (tiff(np.zeros(SHAPE, np.float32)), "floating-point"),
        (tiff(np.zeros(SHAPE, np.uint16), extratags=[(281, 3, 1, 4095, True)]), "end at 4095, in 16 bits"),
    ],
    ids=["pages", "int8", "int16", "uint32", "float32", "largest"],
)
def test_what_is_not_exactly_known_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ReflowError, match=words):
        decode("a.tif", content)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif"])
def test_animations_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(image) for image in RGB[:3]]
    path = write(folder(tmp_path) / f"moving.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    refused(tmp_path, str(path), "is animated", "data.skip_corrupt=true")
    assert len(load(tmp_path, skip_corrupt=True)) == 4


def test_a_smaller_copy_behind_an_image_is_no_second_page() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(GREY[0], metadata=None, photometric="minisblack")
        file.write(GREY[0, ::2, ::2], metadata=None, photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(decode("a.tif", stream.getvalue()).image, GREY[0])


def test_grey_with_alpha_of_sixteen_bits_stays_grey(tmp_path: Path) -> None:
    folder(tmp_path, GREY[:, :9, :11])
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(levels_of(16, 2)))
    assert load(tmp_path).event == (1, *SHAPE)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize(
    ("bits", "colour", "row", "hidden", "expected"),
    [
        (2, 0, b"\x1b", b"\0\x01", [0, 255, 170, 255]),  # levels 0 1 2 3, of which 1 is transparent
        (4, 0, b"\x01\x2f", b"\0\x01", [0, 255, 34, 255]),
        (1, 0, b"\x50", b"\0\x00", [255, 255, 255, 255]),
        (16, 2, b"\x01\x02" * 3 + b"\x01\x03" * 3 + b"\xff\xff" * 6, b"\x01\x03" * 3, [1, 255, 255, 255]),
    ],
)
def test_the_transparent_level_of_a_png_is_meant_before_scaling(
    bits: int, colour: int, row: bytes, hidden: bytes, expected: list[int]
) -> None:
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, colour, 0, 0, 0))
    content += chunk(b"tRNS", hidden) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    pixels = np.atleast_3d(np.asarray(decode("a.png", content).image))
    assert pixels[0, :, 0].tolist() == expected


@pytest.mark.usefixtures("place")
def test_only_sources_that_were_decoded_otherwise_get_the_later_version(
    tmp_path: Path, place: Path
) -> None:
    load(folder(tmp_path / "plain", GREY))
    write(folder(tmp_path / "deep", GREY) / "a.png", Image.fromarray(GREY[0].astype(np.uint16) * 257))
    load(tmp_path / "deep")
    versions = [cache.read_header(file).facts["decoder"] for file in place.glob("*.safetensors")]
    assert versions == [1, 1]
    (tmp_path / "deep" / "b.png").write_bytes(imagecodecs.png_encode(RGB[0].astype(np.uint16) * 257))
    load(tmp_path / "deep")
    versions = [cache.read_header(file).facts["decoder"] for file in place.glob("*.safetensors")]
    assert sorted(versions) == [1, 1, 2]


@pytest.mark.usefixtures("place")
def test_what_an_earlier_program_decoded_is_looked_at_again(tmp_path: Path, place: Path) -> None:
    source = folder(tmp_path / "f")
    load(source)
    (file,) = place.glob("*.safetensors")
    content, written = file.read_bytes(), file.stat().st_mtime_ns
    (notes,) = place.glob("*.notes")
    for text in (None, "", "{}", "[]", '{"decoder":1}', '{"decoder":"2"}'):
        notes.unlink() if text is None else notes.write_text(text)
        load(source)
        assert file.stat().st_mtime_ns != written
        assert file.read_bytes() == content  # and found to be right
        written = file.stat().st_mtime_ns
    load(source)
    assert file.stat().st_mtime_ns == written
