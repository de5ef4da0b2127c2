"""From image files of any kind to bytes: upright, opaque, of one size and one number of channels.

Pillow decodes; an `Image` that leaves `decode` has mode L or RGB. Arrays are uint8 (N, C, H, W).
"""

import io
import struct
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from reflow.data.formats import Block, Corrupt, Part
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

Pixels = NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

# Pillow knows more, among them formats that start other programs, as EPS does.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

MODES = {"grey": "L", "rgb": "RGB"}

# What Pillow raises at damaged files: 40,000 of them raised the first three; its plugins know all.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error)


class CorruptImageError(ReflowError):
    """An image that cannot be decoded; the others of its set may be sound."""


def decode(name: str, content: bytes) -> Image.Image:
    """Return the image in the content of a file; `name` stands for it in messages.

    Raises CorruptImageError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; damage to pixels raises
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return opaque(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise CorruptImageError(f"{name} has too many pixels for an image; shrink or remove it") from error
    except UnidentifiedImageError as error:
        raise CorruptImageError(
            f"{name} is not an image of a known format; remove it or convert it to PNG"
        ) from error
    except DAMAGE as error:
        raise CorruptImageError(
            f"{name} cannot be decoded ({reason(error)}); repair or remove it"
        ) from error


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
            decoded.append(Part(origin, fitted(decode(origin, content), settings)))
        except CorruptImageError as error:
            decoded.append(Corrupt(name, str(error)))
    together: list[Part | Corrupt] = []
    for _, group in groupby(decoded, lambda image: image.values.shape if isinstance(image, Part) else None):
        images = list(group)
        parts = [image.values for image in images if isinstance(image, Part)]
        together += [Part(images[0].name, np.concatenate(parts))] if parts else images
    return together


def opaque(image: Image.Image) -> Image.Image:
    """Return the image over white: mode L if it was grey (1, L, LA, I;16), else RGB."""
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, not levels")
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


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
    return [
        Part(f"image {first + row} of {origin}", fitted(opaque(Image.fromarray(image)), settings))
        for row, image in enumerate(squeezed)
    ]


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


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return L for 16-bit grey; Pillow's own conversion clips at 255 instead of scaling."""
    levels = np.array(image, dtype=np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("its pixels need more than 16 bits")
    if image.has_transparency_data:
        levels[levels == image.info["transparency"]] = 65535
    return Image.fromarray(np.rint(levels / 257).astype(np.uint8))
