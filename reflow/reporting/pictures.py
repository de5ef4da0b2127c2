"""Images from tensors: bytes of pixels, grids and PNG files. Images are (N, C, H, W) in [-1, 1]."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

TILE = 40  # grids enlarge small images by whole factors to about this many pixels
GAP = 2  # pixels between tiles
PAPER = 255


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return images as uint8 (N, H, W, C), the inverse of reading them."""
    levels = ((images.float() + 1) * 127.5).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def to_picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return one image (H, W, C) as a Pillow image, grey or RGB."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Return all images in one picture, row by row; by default about square."""
    pixels = to_bytes(images)
    count, height, width, channels = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    zoom = max(1, TILE // max(height, width))
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    step_y, step_x = height * zoom + GAP, width * zoom + GAP
    sheet = np.full((rows * step_y - GAP, columns * step_x - GAP, channels), PAPER, np.uint8)
    for number, tile in enumerate(pixels):
        y, x = number // columns * step_y, number % columns * step_x
        sheet[y : y + height * zoom, x : x + width * zoom] = tile
    return to_picture(sheet)


def png(picture: Image.Image) -> bytes:
    """Return the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
