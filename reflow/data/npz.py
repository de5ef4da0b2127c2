"""A NumPy archive: `images` uint8 [N,H,W,C] or [N,H,W], or `samples` float [N,D]; `labels` [N].

Labels are optional integers. This is also what `reflow sample --out FILE.npz` writes.
"""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from reflow.data.dataset import DataSet, number_classes
from reflow.data.images import reason, refit, refuse_image_settings
from reflow.data.zipped import DAMAGE
from reflow.errors import ReflowError
from reflow.settings import DataSettings


def read_npz(path: Path, settings: DataSettings) -> DataSet:
    """Return the images or vectors of an archive, with its labels renumbered as 0..K-1."""
    try:
        with path.open("rb") as file:  # np.load leaves a damaged file open
            return _read(file, path, settings)
    except OSError as error:
        raise ReflowError(f"{path} cannot be read ({reason(error)}); mend its permissions") from error


def _read(file: BinaryIO, path: Path, settings: DataSettings) -> DataSet:
    try:
        archive = np.load(file, allow_pickle=False)
    except DAMAGE as error:
        raise ReflowError(f"{path} is not a .npz archive; write it again with numpy.savez") from error
    if not isinstance(archive, NpzFile):
        raise ReflowError(f"{path} is a single array; write it with numpy.savez(path, images=...)")
    keys = sorted({"images", "samples"} & set(archive.files))
    if len(keys) != 1:
        raise ReflowError(
            f"{path} holds {', '.join(map(repr, archive.files)) or 'nothing'}; it must hold either "
            "'images' (uint8 [N,H,W,C] or [N,H,W]) or 'samples' (float32 [N,D])"
        )
    convert = _images if keys == ["images"] else _samples
    values = convert(_array(archive, keys[0], path), settings, path)
    if "labels" not in archive.files:
        return DataSet(values)
    return DataSet(values, *_labels(_array(archive, "labels", path), len(values), path))


def _array(archive: NpzFile, key: str, path: Path) -> NDArray[Any]:
    try:
        return np.asarray(archive[key])
    except DAMAGE as error:
        raise ReflowError(
            f"{path}: {key!r} cannot be read ({reason(error)}); "
            "write the file again with numpy.savez, from arrays of plain numbers"
        ) from error


def _images(images: NDArray[Any], settings: DataSettings, path: Path) -> NDArray[np.uint8]:
    pixels = images[..., None] if images.ndim == 3 else images
    known = pixels.ndim == 4 and pixels.shape[3] in (1, 3, 4) and pixels.size
    if images.dtype != np.uint8 or not known:
        raise ReflowError(
            f"{path}: 'images' is {images.dtype} {list(images.shape)}; "
            "make it uint8 [N,H,W,C] with 1, 3 or 4 channels, or uint8 [N,H,W]"
        )
    return refit(pixels, settings, f"{path}")


def _samples(samples: NDArray[Any], settings: DataSettings, path: Path) -> NDArray[np.float32]:
    if samples.dtype.name not in ("float32", "float64") or samples.ndim != 2 or not samples.size:
        raise ReflowError(
            f"{path}: 'samples' is {samples.dtype} {list(samples.shape)}; make it float32 [N,D]"
        )
    refuse_image_settings(settings, f"{path}")
    with np.errstate(over="ignore"):  # what overflows is found with the other infinities
        return np.ascontiguousarray(samples, np.float32)


def _labels(labels: NDArray[Any], count: int, path: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ReflowError(
            f"{path}: 'labels' is {labels.dtype} {list(labels.shape)}; "
            f"make it int64 [{count}], one whole number per sample"
        )
    return number_classes(labels)
