"""Levels of more than 8 bits, exactly, and the refusal of images whose levels are not exactly known.

Pillow keeps the upper byte of 16-bit colour and of 16-bit grey with alpha, so the lower byte is decoded as
well: for a second time, with the order of the two bytes exchanged.
"""

import struct
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from reflow.errors import ReflowError

Levels = NDArray[np.int64]

NATIVE, FOREIGN = ("L", "B") if sys.byteorder == "little" else ("B", "L")
OTHER_BYTE = {"B": "L", "L": "B", "N": FOREIGN}
SAMPLES = {"RGB", "RGBX", "RGBA", "RGBa", "CMYK"}  # of 16 bits, in names of Pillow
FRACTIONS = {f"L;{bits}": 255 // (2**bits - 1) for bits in (2, 4)} | {"1": 255}  # levels between two
GREY = ("I;16", "I;16B", "I;16L", "I;16N")
REDUCED, MASK = 1, 4  # bits of NewSubfileType
SUBFILE, BITS, PHOTOMETRIC, MAXIMUM, PLANAR, FORMAT = 254, 258, 262, 281, 284, 339  # tags of TIFF


class CorruptImageError(ReflowError):
    """An image that cannot be decoded; the others of its set may be sound."""


class UnknownImageError(CorruptImageError):
    """An image that could be decoded, but to pixels that may not be those that are meant."""


def raw_mode(image: Image.Image) -> str:
    """Return how the pixels lie in a file that is opened and not loaded, in Pillow's words."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else ""


def require_known(image: Image.Image, content: bytes, name: str) -> None:
    """Refuse an opened image that holds several, or whose levels are not exactly known."""
    what = _several(image) or _unknown(image, content)
    if what is not None:
        raise UnknownImageError(f"{name} {what}")


def deep(image: Image.Image, again: Callable[[], Image.Image]) -> Image.Image | None:
    """Return L or RGB over white for colour or alpha of 16 bits, else None; `again` opens it once more."""
    raw = raw_mode(image)
    samples, _, depth = raw.partition(";")
    if raw == "LA;16B":
        content = _loaded(image, "RGBA").astype(np.int64)
        levels = content[..., 0::2] << 8 | content[..., 1::2]
        return _eight(_over_white(levels[..., :1], levels[..., 1]))
    if samples not in SAMPLES or depth not in ("16B", "16L", "16N"):
        return None
    stored = "RGBA" if samples == "RGBa" else samples
    hidden = image.info.get("transparency")
    upper = _loaded(image, f"{stored};{depth}").astype(np.int64)
    with again() as second:
        levels = upper << 8 | _loaded(second, f"{stored};16{OTHER_BYTE[depth[-1]]}")
    if samples == "CMYK":
        return Image.fromarray(np.rint(levels / 257).astype(np.uint8), "CMYK").convert("RGB")
    if samples == "RGBa":
        return _eight((levels[..., :3] + 65535 - levels[..., 3:]).clip(0, 65535))
    if samples == "RGBA":
        return _eight(_over_white(levels[..., :3], levels[..., 3]))
    if isinstance(hidden, tuple):
        levels[(levels == hidden).all(axis=-1)] = 65535
    return _eight(levels)


def grey(image: Image.Image, content: bytes) -> Image.Image:
    """Return L over white for grey of 9 to 16 bits, scaled; Pillow's own conversion clips at 255."""
    bits = _bits(image, content)
    hidden = image.info.get("transparency")
    levels = np.array(image, dtype=np.int64)
    if image.format == "JPEG2000":
        levels >>= 16 - bits
    if levels.min() < 0 or levels.max() > 2**bits - 1:
        raise ValueError(f"its pixels need more than {bits} bits")
    if image.format == "TIFF" and _tag(image, PHOTOMETRIC) == 0:
        levels = 2**bits - 1 - levels
    if hidden is not None:
        levels[levels == hidden] = 2**bits - 1
    return Image.fromarray(np.rint(levels * 255 / (2**bits - 1)).astype(np.uint8))


def is_new(image: Image.Image) -> bool:
    """Return whether the first decoder gave other pixels for this image, which is not loaded yet."""
    raw, hidden = raw_mode(image), "transparency" in image.info
    return (
        raw == "I;12"
        or (raw in GREY and image.format == "TIFF" and _tag(image, PHOTOMETRIC) == 0)
        or (raw.endswith((";16B", ";16L", ";16N")) and raw not in GREY)
        or (hidden and image.format == "PNG" and raw in FRACTIONS)
    )


def spread_transparency(image: Image.Image, raw: str) -> None:
    """Scale the transparent level of a PNG of less than 8 bits as its pixels were."""
    hidden = image.info.get("transparency")
    if image.format == "PNG" and raw in FRACTIONS and isinstance(hidden, int):
        image.info["transparency"] = hidden * FRACTIONS[raw]


def _several(image: Image.Image) -> str | None:
    """Return what to say of an image that is not the only one in its file."""
    if image.format == "TIFF":
        pages = getattr(image, "n_frames", 1)
        own = 0
        for page in range(pages):
            image.seek(page)
            own += not _is_aside(image)
        image.seek(0)
        if own > 1:
            return f"has {own} pages; write each one as a file of its own"
        if pages > 1 and _is_aside(image):
            return "begins with a reduced copy or a mask; write the image itself as a file of its own"
    elif image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: the photo and previews
        return "is animated; write the frames that are wanted as files of their own, or a single one"
    return None


def _is_aside(page: Image.Image) -> bool:
    """Return whether a page of a TIFF is a smaller copy or a mask of another."""
    kind = _tag(page, SUBFILE)
    return isinstance(kind, int) and bool(kind & (REDUCED | MASK))


def _unknown(image: Image.Image, content: bytes) -> str | None:
    """Return why the levels of an image are not exactly known, or None."""
    raw = raw_mode(image)
    if image.format == "TIFF":
        return _unknown_tiff(image)
    if image.format == "JPEG2000":
        sizes = _components(content)
        if len(sizes) == 0 or any(signed for _, signed in sizes):
            return "has signed levels; convert it to PNG"
        bits = {bits for bits, _ in sizes}
        if bits != {8} and not (len(sizes) == 1 and 8 < max(bits) <= 16):
            return f"has {max(bits)} bits per colour, which JPEG 2000 is not read in; convert it to PNG"
    elif raw.endswith(("16B", "16L", "16N")) and image.format not in ("PNG", "PPM"):
        return "has 16 bits per sample, in which this format is not read; convert it to PNG"
    elif image.mode in ("I", "F") and image.format != "PPM":
        return "has levels of 32 bits, of unknown range; convert it to 8 or 16 bits"
    return None


def _unknown_tiff(image: Image.Image) -> str | None:
    kinds = _tag(image, FORMAT)
    if image.mode == "F" or _has(kinds, 3):
        return "has floating-point numbers, not levels, as pixels; convert it to 8 or 16 bits"
    if _has(kinds, 2) or image.mode == "I":
        return "has signed levels or levels of 32 bits, of unknown range; convert it to 8 or 16 bits"
    bits = _tag(image, BITS)
    deepest = max(bits) if isinstance(bits, tuple) else bits if isinstance(bits, int) else 1
    largest = _tag(image, MAXIMUM)
    largest = largest[0] if isinstance(largest, tuple) else largest
    if deepest > 8 and isinstance(largest, int) and largest in {2**n - 1 for n in range(8, deepest)}:
        return f"says that its levels end at {largest}, in {deepest} bits; scale them to the full range"
    bands = len(image.getbands())
    if _tag(image, PLANAR) == 2 and (bands == 2 or (bands > 1 and deepest > 8)):
        return "has alpha or 16 bits per sample in separate planes; write its samples side by side"
    return None


def _has(kinds: object, kind: int) -> bool:
    return kind in kinds if isinstance(kinds, tuple) else kinds == kind


def _tag(image: Image.Image, tag: int) -> object:
    return getattr(image, "tag_v2", {}).get(tag)


def _bits(image: Image.Image, content: bytes) -> int:
    """Return the bits per sample of loaded grey."""
    if image.format == "JPEG2000":
        return _components(content)[0][0]
    bits = _tag(image, BITS) if image.format == "TIFF" else None
    return 12 if bits in (12, (12,)) else 16


def _components(content: bytes) -> list[tuple[int, bool]]:
    """Return bits and whether there is a sign, per component, from the marker SIZ of JPEG 2000."""
    start = content.find(b"\xff\x4f\xff\x51") + 4  # of SIZ's length
    if start < 4 or len(content) < start + 38:
        return []
    (count,) = struct.unpack_from(">H", content, start + 36)
    depths = content[start + 38 : start + 38 + 3 * count : 3]
    return [((depth & 127) + 1, depth > 127) for depth in depths]


def _loaded(image: Image.Image, raw: str) -> NDArray[np.uint8]:
    """Return the pixels (H, W, C), upright, of an image whose bytes are read in this order."""
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        old = tile[3]
        tiles.append(tile._replace(args=(raw, *old[1:]) if isinstance(old, tuple) else raw))
    image.tile = tiles  # type: ignore[attr-defined]
    if raw.startswith("RGBA") and image.mode != "RGBA":
        raise ValueError("its alpha is not where it should be")
    image.info.pop("transparency", None)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return np.asarray(image)


def _over_white(levels: Levels, alpha: Levels) -> NDArray[np.float64]:
    """Return levels (H, W, C) of 16 bits, with alpha (H, W), as they look on white."""
    share = alpha[..., None]
    return np.asarray((levels * share + 65535 * (65535 - share)) / 65535)


def _eight(levels: NDArray[np.int64] | NDArray[np.float64]) -> Image.Image:
    pixels = np.rint(levels / 257).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
