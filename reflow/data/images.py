"""From image files of any kind to bytes: upright, opaque, of one size and one number of channels.

Pillow decodes; an `Image` that leaves `decode` has mode L or RGB. Arrays are uint8 (N, C, H, W).
Images are taken one at a time, so that the result is all that has to fit into memory.
"""

import io
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from reflow.errors import ReflowError
from reflow.settings import DataSettings

Pixels = NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

# Pillow knows more, among them formats that start other programs, as EPS does.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

MODES = {"grey": "L", "rgb": "RGB"}

# What Pillow raises at damaged files: 40,000 of them raised the first three; its plugins know all.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error)


def decode(name: str, source: Path | bytes) -> Image.Image:
    """Return the image of a file or of its content; `name` stands for it in messages."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; damage to pixels raises
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            stream = source if isinstance(source, Path) else io.BytesIO(source)
            with Image.open(stream, formats=FORMATS) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return opaque(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ReflowError(f"{name} has too many pixels for an image; shrink or remove it") from error
    except UnidentifiedImageError as error:
        raise ReflowError(
            f"{name} is not an image of a known format; remove it or convert it to PNG"
        ) from error
    except DAMAGE as error:
        raise ReflowError(f"{name} cannot be decoded ({reason(error)}); repair or remove it") from error


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


def stack(images: Iterable[tuple[str, Image.Image]], count: int, settings: DataSettings) -> Pixels:
    """Return `count` named images of mode L or RGB as one array, each fitted to the settings."""
    values: Pixels | None = None
    first = ""
    for row, (name, image) in enumerate(images):
        fitted = _fitted(image, settings)
        shape = (len(fitted.getbands()), fitted.height, fitted.width)
        if values is None:
            first, values = name, _room(count, shape)
        if shape[1:] != values.shape[2:]:
            raise ReflowError(
                f"images differ in size: {first} has {values.shape[3]} x {values.shape[2]} pixels, "
                f"{name} has {shape[2]} x {shape[1]}; give them one size with --set data.size=32"
            )
        if shape[0] > values.shape[1]:
            grey, values = values, _room(count, shape)
            values[:row] = grey[:row]
        values[row] = np.atleast_3d(np.asarray(fitted)).transpose(2, 0, 1)
    assert values is not None, "readers refuse an empty set"
    return values


def refit(pixels: Pixels, settings: DataSettings, origin: str) -> Pixels:
    """Return (N, H, W, C), C = 1, 3 or 4, as (N, C, H, W) of the size and mode in the settings."""
    count, height, width, channels = pixels.shape
    wanted = {"auto": channels, "grey": 1, "rgb": 3}[settings.mode]
    as_stored = settings.size is None or height == width == settings.size
    if as_stored and channels == wanted != 4:
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    squeezed = pixels[..., 0] if channels == 1 else pixels
    images = ((f"image {row} of {origin}", opaque(Image.fromarray(squeezed[row]))) for row in range(count))
    return stack(images, count, settings)


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


def _fitted(image: Image.Image, settings: DataSettings) -> Image.Image:
    if settings.mode != "auto":
        image = image.convert(MODES[settings.mode])
    if settings.size is None:
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = (left, top, left + side, top + side)
    shape = (settings.size, settings.size)
    return image.resize(shape, Image.Resampling.LANCZOS, box=square, reducing_gap=None)


def _room(count: int, shape: tuple[int, ...]) -> Pixels:
    try:
        return np.empty((count, *shape), np.uint8)
    except MemoryError as error:
        raise ReflowError(
            f"{count} images of {shape[2]} x {shape[1]} pixels do not fit into memory; "
            "make them smaller with --set data.size=32"
        ) from error
