"""Opening a data set: one small module per format.

`open_data` takes a built-in name or a path and returns a `DataSet`; readers keep pixels as bytes. Files
are decoded once, into a cache, and read by memory map from then on.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from reflow.data.cache import open_cached
from reflow.data.contents import Format, Part, Watch
from reflow.data.dataset import DataSet, split
from reflow.data.digits import digits
from reflow.data.folder import files_of_folder, read_folder
from reflow.data.idx import files_of_idx, read_idx
from reflow.data.images import refit, refuse_image_settings
from reflow.data.npz import read_npz
from reflow.data.toys import TOYS, toy
from reflow.data.zipped import read_zip
from reflow.errors import ReflowError
from reflow.settings import DataSettings

__all__ = ["BUILT_IN", "DataSet", "Watch", "open_data", "split"]

BUILT_IN = ("digits", *TOYS)

FOLDER = Format("folder", files_of_folder, read_folder)
FORMATS = {
    ".npz": Format("npz", lambda path: {"": path}, read_npz),
    ".zip": Format("zip", lambda path: {"": path}, read_zip),
    ".gz": Format("idx", files_of_idx, read_idx),
}


def open_data(settings: DataSettings, seed: int, watch: Watch = Watch()) -> DataSet:  # noqa: B008 (frozen)
    """Return the data of `settings.source`, checked; the seed draws the points of 2-D sets."""
    if settings.source == "digits":
        return _digits(settings)
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
    kind = FOLDER if path.is_dir() else FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ReflowError(
            f"--data {path}: not a folder of images, .npz, .zip or IDX .gz; convert it to one"
        )
    return open_cached(path, kind, settings, watch)


def _digits(settings: DataSettings) -> DataSet:
    """Return the digits in the size and mode of the settings."""
    data = digits()
    images = refit(0, data.values.astype(np.uint8).transpose(0, 2, 3, 1), settings, "digits")
    return replace(data, stored=np.concatenate([part.values for part in images if isinstance(part, Part)]))
