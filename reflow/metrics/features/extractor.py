"""Networks by whose features samples are compared, behind one interface.

Images are (N, C, H, W) in [-1, 1] on the CPU, features (N, D). Scores are comparable within one network
only: its digest goes with them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.errors import ReflowError

Features = NDArray[np.float64] | NDArray[np.float32]

CHUNK = 500  # images per forward pass
PROBE = 2  # images that tell how many features there are
INCEPTION = "inception"


class Preparation(NamedTuple):
    """What happens to images before the network sees them."""

    rounding: str = "none"
    resize: str = "none"


UNPREPARED = Preparation()


class Extractor(Protocol):
    """A network whose features are compared; equal digests give equal features."""

    @property
    def name(self) -> str:
        """Names its kind in the figures."""

    @property
    def digest(self) -> str:
        """SHA-256 of its weights."""

    @property
    def size(self) -> int:
        """Number of features D."""

    @property
    def preparation(self) -> Preparation:
        """What it does to images first."""

    def features(self, images: Tensor) -> Features:
        """Return the features (N, D) of images (N, C, H, W)."""


class Names(NamedTuple):
    """What distances on the features of an extractor are called."""

    frechet: str
    kernel: str


def names_of(extractor: Extractor) -> Names:
    """Return the names of distances; only those on the Inception network of 2015 are FID and KID."""
    own = extractor.name
    return Names("fid", "kid") if own == INCEPTION else Names(f"frechet_{own}", f"kernel_{own}")


@dataclass(frozen=True)
class FileExtractor:
    """A network from a file: it takes images (n, C, H, W) to features (n, D), an array or a tensor."""

    name: str
    path: Path
    digest: str
    size: int
    network: Callable[[Tensor], Any]
    preparation: Preparation = UNPREPARED

    def features(self, images: Tensor) -> Features:
        """Return the features (N, D) of images."""
        parts = [_through(self.network, part, self.path) for part in images.split(CHUNK)]
        return np.concatenate(parts)


def file_extractor(
    name: str,
    path: Path,
    content: bytes,
    network: Callable[[Tensor], Any],
    event: tuple[int, ...],
    preparation: Preparation = UNPREPARED,
) -> FileExtractor:
    """Return the extractor of a network after trying it on images of this shape."""
    size = _through(network, torch.zeros(PROBE, *event), path).shape[1]
    return FileExtractor(name, path, hashlib.sha256(content).hexdigest(), size, network, preparation)


@torch.no_grad()
def _through(network: Callable[[Tensor], Any], images: Tensor, path: Path) -> NDArray[np.float32]:
    """Return the features (n, D) of images, checked."""
    shape = tuple(images.shape)
    try:
        found = network(images)
    except Exception as error:  # of the network, which is not ours
        reason = " ".join(str(error).split())[-200:]
        raise ReflowError(
            f"--features {path}: the network fails on images of {shape}, values in [-1, 1] ({reason}); "
            "resizing and channels are its own affair: put them into the file"
        ) from error
    values = found.float().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)
    if values.ndim != 2 or len(values) != len(images) or values.dtype.kind != "f":
        raise ReflowError(
            f"--features {path}: the network takes images of {shape} to {values.dtype} of "
            f"{values.shape}; it has to give a vector of features for each, ({len(images)}, D)"
        )
    if not np.isfinite(values).all():
        raise ReflowError(f"--features {path}: features are NaN or infinite; use another network")
    return values.astype(np.float32, copy=False)
