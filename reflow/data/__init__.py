"""Opening a data set: one small module per format.

`open_data` takes a built-in name or a path and returns a `DataSet`; readers keep pixels as bytes. Files
are decoded once, into a cache, and read by memory map from then on.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reflow.data.cache import open_cached
from reflow.data.dataset import DataSet, require_taught, split
from reflow.data.digits import digits
from reflow.data.fashion import IDX_FOLDER, fashion_mnist
from reflow.data.folder import files_of_folder, left_out_of_folder, read_folder
from reflow.data.formats import Format, Part, Watch
from reflow.data.hub import HUB, SAVED, from_hub, is_saved
from reflow.data.idx import files_of_idx, is_idx_folder, read_idx
from reflow.data.images import refit, refuse_image_settings
from reflow.data.npz import read_npz
from reflow.data.toys import CLASSES, TOYS, toy
from reflow.data.zip import left_out_of_zip, read_zip
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

__all__ = ["BUILT_IN", "SETS", "DataSet", "Watch", "open_data", "require_taught", "split"]

FOLDER = Format("folder", files_of_folder, read_folder, left_out_of_folder)
FOLDERS = ((is_saved, SAVED), (is_idx_folder, IDX_FOLDER))  # recognised by some of their files
FORMATS = {
    ".npz": Format("npz", lambda path: {"": path}, read_npz, encoded=False),
    ".zip": Format("zip", lambda path: {"": path}, read_zip, left_out_of_zip),
    ".gz": Format("idx", files_of_idx, read_idx, encoded=False),
}


def open_data(settings: DataSettings, seed: int, watch: Watch = Watch()) -> DataSet:  # noqa: B008 (frozen)
    """Return the data of `settings.source`, checked; the seed draws the points of 2-D sets."""
    if settings.source in SETS:
        return SETS[settings.source].open(settings, seed, watch)
    if settings.source == "files":
        raise ReflowError(
            "this recipe brings no data: give a folder, .npz, .zip, IDX .gz or hub:NAME with --data"
        )
    if settings.source.startswith(HUB):
        return open_cached(*from_hub(settings.source), settings, watch)
    path = Path(settings.source)
    if not path.exists():
        raise ReflowError(
            f"--data {path}: there is no such path, and the built-in sets are {', '.join(BUILT_IN)}"
        )
    kind = _folder(path) if path.is_dir() else FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ReflowError(
            f"--data {path}: not a folder of images, .npz, .zip or IDX .gz; convert it to one"
        )
    return open_cached(path, kind, settings, watch)


def _folder(path: Path) -> Format:
    """Return the format of a folder: one known by its files, else images."""
    return next((kind for recognised, kind in FOLDERS if recognised(path)), FOLDER)


def _digits(settings: DataSettings, _seed: int, _watch: Watch) -> DataSet:
    """Return the digits in the size and mode of the settings."""
    data = digits()
    images = refit(0, data.values.astype(np.uint8).transpose(0, 2, 3, 1), settings, "digits")
    return replace(data, stored=np.concatenate([part.values for part in images if isinstance(part, Part)]))


def _fashion(settings: DataSettings, _seed: int, watch: Watch) -> DataSet:
    return fashion_mnist(settings, watch)


def _toy(settings: DataSettings, seed: int, _watch: Watch) -> DataSet:
    refuse_image_settings(settings, settings.source)
    return toy(TOYS[settings.source], settings.points, seed)


class BuiltIn(NamedTuple):
    """A built-in set: the shape of a sample, the number of classes, and how it is opened."""

    event: tuple[int, ...]
    classes: int
    open: Callable[[DataSettings, int, Watch], DataSet]


SETS = {
    "digits": BuiltIn((1, 8, 8), 10, _digits),
    "fashion-mnist": BuiltIn((1, 28, 28), 10, _fashion),
    **{name: BuiltIn((2,), CLASSES[draw], _toy) for name, draw in TOYS.items()},
}
BUILT_IN = tuple(SETS)
