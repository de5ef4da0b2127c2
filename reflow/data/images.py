"""From image files of any kind to bytes: upright, opaque, of one size and one number of channels.

Pillow decodes; an `Image` that leaves `decode` has mode L or RGB. Arrays are uint8 (N, C, H, W).
"""

import io
import struct
import warnings
from collections.abc import Iterable, Iterator
from functools import cache, partial
from itertools import groupby
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from reflow.data.formats import Block, Corrupt, Part
from reflow.data.levels import (
    CorruptImageError,
    UnknownImageError,
    deep,
    grey,
    is_new,
    raw_mode,
    require_known,
    spread_transparency,
)
from reflow.data.names import HEAD, is_image_head
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

Pixels = NDArray[np.uint8]

# What is noticed of an image, to be said of the whole set.
ALPHA, PROFILE, DARK = "alpha", "profile", "dark"
FAINT = 4095  # a grey image of 16 bits without a level above this is almost black, or has 12 bits

# Pillow knows more, among them formats that start other programs, as EPS does.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
LATER = ("AVIF", "JPEG2000", "QOI", "PCX", "SGI", "DIB")  # which the first decoder did not read
BARE = "TGA"  # has no mark at its beginning, so only the name tells

PEEK = 1 << 20  # bytes of a file, after which its header should have told the number of pixels
MOST_PIXELS = 89_478_485  # where Pillow warns
PIXEL, BESIDES = 8, 1 << 26  # bytes of four samples of 16 bits, and for metadata and previews

MODES = {"grey": "L", "rgb": "RGB"}

# What Pillow raises at damaged files: 40,000 of them raised the first three; its plugins know all.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error)


class Decoded(NamedTuple):
    """An image of mode L or RGB, the first version of the decoder that gives it, and what was noticed."""

    image: Image.Image
    decoder: int = 1
    seen: tuple[str, ...] = ()


def decode(name: str, content: bytes) -> Decoded:
    """Return the image in the content of a file; `name` stands for it in messages.

    Raises CorruptImageError.
    """
    known = _formats(bare=_is_bare(name))
    again = partial(Image.open, io.BytesIO(content), formats=known)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; damage to pixels raises
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=known) as image:
                require_known(image, content, name)
                raw, new = raw_mode(image), is_new(image) or image.format not in (*FORMATS, "MPO")
                seen: tuple[str, ...] = (PROFILE,) if image.info.get("icc_profile") else ()
                upright = deep(image, again)
                if upright is not None:
                    return Decoded(upright, 2, seen + (ALPHA,) * ("A" in raw or "a" in raw))
                image.load()
                spread_transparency(image, raw)
                ImageOps.exif_transpose(image, in_place=True)
                flat = grey(image, content) if image.mode.startswith("I") else opaque(image)
                seen += () if raw == "I;12" else noticed(image)
                return Decoded(flat, 2 if new else 1, seen)
    except CorruptImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise CorruptImageError(f"{name} has too many pixels for an image; shrink or remove it") from error
    except UnidentifiedImageError as error:
        raise CorruptImageError(f"{name} {_unidentified(content)}") from error
    except DAMAGE as error:
        raise CorruptImageError(
            f"{name} cannot be decoded ({reason(error)}); repair or remove it"
        ) from error


def limited(stream: IO[bytes], name: str, size: int) -> bytes:
    """Return the content of an image, announced to have `size` bytes; refuse more than its pixels need.

    Raises CorruptImageError after reading little of what is no image, or far too large for one.
    """
    head = stream.read(PEEK)
    if len(head) < PEEK:
        return head
    most = _most_pixels(head, name) * PIXEL + BESIDES
    content = head + stream.read(most + 1 - PEEK) if size <= most else head
    if size > most or len(content) > most:
        raise CorruptImageError(
            f"{name} has {max(size, len(content))} bytes, more than its pixels and metadata take; "
            "repair or remove it"
        )
    return content


def _most_pixels(head: bytes, name: str) -> int:
    """Return how many pixels an image has that begins like this, or may have if that stands further on."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(head), formats=_formats(bare=_is_bare(name))) as image:
                return min(image.width * image.height, MOST_PIXELS)
    except Image.DecompressionBombError as error:
        raise CorruptImageError(f"{name} has too many pixels for an image; shrink or remove it") from error
    except DAMAGE as error:
        if is_image_head(head[:HEAD]):
            return MOST_PIXELS
        raise CorruptImageError(f"{name} {_unidentified(head)}") from error


def decode_all(
    encoded: Iterable[tuple[str, str, bytes | CorruptImageError]], settings: DataSettings
) -> list[Part | Corrupt]:
    """Return images, given as name within the source, name in messages and content or why there is none.

    Neighbours of one shape come together.
    """
    decoded: list[Part | Corrupt] = []
    for name, origin, content in encoded:
        try:
            if isinstance(content, CorruptImageError):
                raise content
            found = decode(origin, content)
            decoded.append(Part(origin, fitted(found.image, settings), found.decoder, found.seen))
        except CorruptImageError as error:
            decoded.append(Corrupt(name, str(error), 2 if isinstance(error, UnknownImageError) else 1))
    together: list[Part | Corrupt] = []
    for _, group in groupby(decoded, lambda image: image.values.shape if isinstance(image, Part) else None):
        images = list(group)
        parts = [image for image in images if isinstance(image, Part)]
        together += [_joined(parts)] if parts else images
    return together


def _joined(parts: list[Part]) -> Part:
    values = np.concatenate([part.values for part in parts])
    seen = tuple(what for part in parts for what in part.seen)
    return Part(parts[0].name, values, max(part.decoder for part in parts), seen)


def opaque(image: Image.Image) -> Image.Image:
    """Return the image over white: mode L if it was grey (1, L, LA, La), else RGB."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, not levels")
    if image.mode == "La":  # its levels are multiplied by alpha already
        levels, alpha = (np.asarray(band, np.int64) for band in image.split())
        return Image.fromarray((levels + 255 - alpha).clip(0, 255).astype(np.uint8))
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


def noticed(image: Image.Image) -> tuple[str, ...]:
    """Return what is worth saying of a loaded image: that some of it is not opaque, or all of it dark."""
    if image.mode.startswith("I"):
        return (DARK,) if 0 < np.asarray(image).max() <= FAINT else ()
    if not image.has_transparency_data:
        return ()
    alpha = (
        image.getchannel(image.mode[-1])
        if image.mode[-1] in "Aa"
        else image.convert("RGBA").getchannel("A")
    )
    least, _ = alpha.getextrema()
    return (ALPHA,) if isinstance(least, (int, float)) and least < 255 else ()


def fitted(image: Image.Image, settings: DataSettings) -> Pixels:
    """Return an image of mode L or RGB as (1, C, H, W) of the size and mode in the settings."""
    if settings.mode != "auto":
        image = image.convert(MODES[settings.mode])
    if settings.size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = (left, top, left + side, top + side)
        shape = (settings.size, settings.size)
        image = image.resize(shape, Image.Resampling.LANCZOS, box=square, reducing_gap=None)
    return np.ascontiguousarray(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)[None])


def refit(first: int, pixels: Pixels, settings: DataSettings, origin: str) -> list[Part | Corrupt]:
    """Return (n, H, W, C), C = 1, 3 or 4, from row `first` on, as images of the wanted size and mode."""
    if as_stored(pixels.shape[1:], settings):
        rows = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return [Part(f"image {first} of {origin}", rows)]
    squeezed = pixels[..., 0] if pixels.shape[3] == 1 else pixels
    parts: list[Part | Corrupt] = []
    for row, levels in enumerate(squeezed, first):
        image = Image.fromarray(levels)
        parts.append(Part(f"image {row} of {origin}", fitted(opaque(image), settings), seen=noticed(image)))
    return parts


def as_stored(shape: tuple[int, ...], settings: DataSettings) -> bool:
    """Return whether images (H, W, C) have the size and mode that the settings ask for."""
    height, width, channels = shape
    wanted = {"auto": channels, "grey": 1, "rgb": 3}[settings.mode]
    return channels == wanted != 4 and (settings.size is None or height == width == settings.size)


def refitting(rows: Iterable[tuple[int, Pixels]], settings: DataSettings, origin: str) -> Iterator[Block]:
    """Yield the blocks of arrays (n, H, W, C), each given with the number of its first row."""
    for first, pixels in rows:
        yield partial(refit, first, pixels, settings, origin)


def refuse_image_settings(settings: DataSettings, origin: str) -> None:
    """Raise where vectors are to be resized or recoloured."""
    if settings.size is not None or settings.mode != "auto":
        raise ReflowError(
            f"{origin} holds vectors, and data.size and data.mode are for images; leave them out"
        )


def reason(error: BaseException) -> str:
    """Return what an exception of a library says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _is_bare(name: str) -> bool:
    return f".{BARE.lower()}" in name.lower()


@cache
def _formats(*, bare: bool) -> tuple[str, ...]:
    """Return the formats to try, of those that this Pillow has; it registers them when asked."""
    Image.init()
    wanted = (*FORMATS, *LATER, BARE) if bare else (*FORMATS, *LATER)
    return tuple(name for name in wanted if name in Image.OPEN)


def _unidentified(content: bytes) -> str:
    """Return what to say of content that no decoder takes."""
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return (
            "is damaged, or a TIFF with a combination of bits, samples and colours that is not read; "
            "remove it or convert it to PNG"
        )
    return "is not an image of a known format; remove it or convert it to PNG"
