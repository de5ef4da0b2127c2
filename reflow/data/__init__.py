"""Opening a data set: one small module per format.

`open_data` takes a built-in name or a path and returns a `DataSet`; readers keep pixels as bytes.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from reflow.data.dataset import DataSet, split
from reflow.data.digits import digits
from reflow.data.folder import read_folder
from reflow.data.idx import read_idx
from reflow.data.images import refit, refuse_image_settings
from reflow.data.npz import read_npz
from reflow.data.toys import TOYS, toy
from reflow.data.zipped import read_zip
from reflow.errors import ReflowError
from reflow.settings import DataSettings

__all__ = ["BUILT_IN", "DataSet", "open_data", "split"]

BUILT_IN = ("digits", *TOYS)

Reader = Callable[[Path, DataSettings], DataSet]

READERS: dict[str, Reader] = {
    ".npz": read_npz,
    ".zip": read_zip,
    ".gz": read_idx,
}


def open_data(settings: DataSettings, seed: int) -> DataSet:
    """Return the data of `settings.source`, checked; the seed draws the points of 2-D sets."""
    if settings.source == "digits":
        data = digits()
        pixels = data.values.astype(np.uint8).transpose(0, 2, 3, 1)
        return replace(data, values=refit(pixels, settings, "digits"))
    if settings.source in TOYS:
        refuse_image_settings(settings, settings.source)
        return toy(TOYS[settings.source], settings.points, seed)
    if settings.source == "files":
        raise ReflowError("this model was trained on files of your own: name them with --data")
    path = Path(settings.source)
    if not path.exists():
        raise ReflowError(
            f"--data {path}: there is no such path, and the built-in sets are {', '.join(BUILT_IN)}"
        )
    if path.is_dir():
        data = read_folder(path, settings)
    elif path.suffix.lower() in READERS:
        data = READERS[path.suffix.lower()](path, settings)
    else:
        raise ReflowError(
            f"--data {path}: not a folder of images, .npz, .zip or IDX .gz; convert it to one"
        )
    return _checked(data, path)


def _checked(data: DataSet, path: Path) -> DataSet:
    if len(data) < 2:
        raise ReflowError(f"--data {path}: {len(data)} samples; at least two are needed")
    if data.values.dtype.kind == "f" and not np.isfinite(data.values).all():
        row = int(np.flatnonzero(~np.isfinite(data.values).all(axis=1))[0])
        raise ReflowError(f"--data {path}: sample {row} holds NaN or infinity; remove it")
    if data.labels is not None and len(data.labels) != len(data):
        raise ReflowError(
            f"--data {path}: {len(data.labels)} labels for {len(data)} samples; they must match"
        )
    return data
