"""The IDX files of the MNIST family, gzipped: big-endian magic number, dimensions, bytes.

Format: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", section "file formats".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reflow.data.dataset import DataSet, number_classes
from reflow.data.images import reason, refit
from reflow.errors import ReflowError
from reflow.settings import DataSettings

IMAGES, LABELS = 0x00000803, 0x00000801  # the last byte is the number of dimensions


def read_idx(path: Path, settings: DataSettings) -> DataSet:
    """Return the images of X-images-idx3-ubyte.gz; X-labels-idx1-ubyte.gz beside it labels them."""
    images = _array(path, IMAGES)
    pixels = refit(images[..., None], settings, f"{path}")
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if beside == path or not beside.exists():
        return DataSet(pixels)
    labels = _array(beside, LABELS)
    if len(labels) != len(images):
        raise ReflowError(
            f"{beside} has {len(labels)} labels for the {len(images)} images of {path.name}; "
            "take both from one set"
        )
    return DataSet(pixels, *number_classes(labels))


def _array(path: Path, magic: int) -> NDArray[np.uint8]:
    content = _payload(path)
    found = int.from_bytes(content[:4], "big") if len(content) >= 4 else None
    if found == LABELS and magic == IMAGES:
        raise ReflowError(f"{path} holds labels; give the images, X-images-idx3-ubyte.gz, instead")
    if found != magic:
        raise ReflowError(
            f"{path} is not an IDX file of {'images' if magic == IMAGES else 'labels'} "
            f"(it does not begin with {magic:#010x}); download it again or give another format"
        )
    dimensions = magic & 0xFF
    start = 4 * (1 + dimensions)
    header = content[4:start].ljust(start - 4, b"\0")
    shape = struct.unpack(f">{dimensions}I", header)
    if not math.prod(shape) or len(content) != start + math.prod(shape):
        raise ReflowError(
            f"{path} announces {' x '.join(map(str, shape))} bytes and holds "
            f"{max(len(content) - start, 0)}; download it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _payload(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ReflowError(f"{path} cannot be unzipped ({reason(error)}); download it again") from error
