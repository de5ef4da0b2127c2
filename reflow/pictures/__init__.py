"""Images from tensors: bytes of pixels, grids and PNG files. Images are (N, C, H, W) in [-1, 1]."""

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

TILE = 40  # grids enlarge small images by whole factors to about this many pixels
GAP = 2  # pixels between tiles
PAPER = OPAQUE = 255
CLOUD, BAR = 320, 8  # side of a picture of points, width of a bar of a histogram, in pixels

Limits = tuple[float, float]


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


def sheet(images: Tensor, columns: int, reduction: int = 1) -> Image.Image:
    """Return all images in one picture at their own size, with see-through gaps; a browser enlarges it.

    reduction: whole factor by which larger images are shrunk first.
    """
    if reduction > 1:
        images = avg_pool2d(images, reduction)
    pixels = to_bytes(images)
    count, height, width, channels = pixels.shape
    gap = gap_of(width)
    size = (math.ceil(count / columns) * (height + gap) - gap, columns * (width + gap) - gap)
    page = np.zeros((*size, channels + 1), np.uint8)
    for number, tile in enumerate(pixels):
        y, x = number // columns * (height + gap), number % columns * (width + gap)
        page[y : y + height, x : x + width, :channels] = tile
        page[y : y + height, x : x + width, channels] = OPAQUE
    return Image.fromarray(page)


def gap_of(width: int) -> int:
    """Return the pixels between tiles of a sheet."""
    return max(1, width // 16)


def cloud(points: Tensor, limits: Limits, colour: tuple[int, int, int]) -> Image.Image:
    """Return points (N, D) as small squares on a see-through ground: their first two coordinates.

    limits: the least and the greatest of both that is shown. Of D = 1 a histogram is drawn.
    """
    page = np.zeros((CLOUD, CLOUD, 4), np.uint8)
    page[:, :, :3] = colour
    low, high = limits
    place = np.floor((points[:, :2].float().numpy() - low) / (high - low) * CLOUD).astype(np.int64)
    if place.shape[1] == 1:
        heights = np.bincount(place[(place >= 0) & (place < CLOUD)] // BAR, minlength=CLOUD // BAR)
        tall = np.repeat(np.rint(heights / max(1, heights.max()) * (CLOUD - BAR)), BAR).astype(np.int64)
        rows = np.arange(CLOUD)[:, None] >= CLOUD - tall[None, :]
        page[:, : rows.shape[1], 3][rows] = OPAQUE
        return Image.fromarray(page)
    x, y = place[:, 0], CLOUD - 1 - place[:, 1]
    for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        inside = (x + right >= 0) & (x + right < CLOUD) & (y + down >= 0) & (y + down < CLOUD)
        page[(y + down)[inside], (x + right)[inside], 3] = OPAQUE
    return Image.fromarray(page)


def png(picture: Image.Image) -> bytes:
    """Return the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
