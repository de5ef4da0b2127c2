"""Data sets of Hugging Face's `datasets`: a folder that `save_to_disk` wrote, or a name on the Hub.

Both end as Arrow files on this disk, whose bytes say what the set is; encoded images are taken out of
them as they are and decoded as those of any other source. The library is an extra, imported where used.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reflow.data.dataset import Labels, labels_if_wanted
from reflow.data.formats import Block, Contents, Format, images_per_block
from reflow.data.images import decode_all, reason
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "hub:"
STATE, SPLITS, INFO = "state.json", "dataset_dict.json", "dataset_info.json"


def is_saved(path: Path) -> bool:
    """Return whether `save_to_disk` wrote a folder."""
    return (path / SPLITS).exists() or all((path / name).exists() for name in (STATE, INFO))


def from_hub(source: str) -> tuple[Path, Format]:
    """Return the folder and format of `hub:NAME` or `hub:NAME:SPLIT`, downloaded if it has to be.

    A split is one, or several in order, as in train+test; without one it is train, or the only one.
    """
    name, _, split = source.removeprefix(HUB).partition(":")
    if not name or "[" in split:
        raise ReflowError(f"--data {source}: write hub:NAME or hub:NAME:train+test, of whole splits")
    with _library(f"--data {source}"):
        import datasets

        data = datasets.load_dataset(name, split=split or None, keep_in_memory=False)
    if not split:
        if "train" not in data and len(data) > 1:
            raise ReflowError(
                f"--data {source} has splits {', '.join(data)}; name one, as in {source}:SPLIT"
            )
        data = data["train"] if "train" in data else next(iter(data.values()))
    paths = [Path(entry["filename"]) for entry in data.cache_files]
    files = {f"{number} {path.name}": path for number, path in enumerate(paths)}  # their order matters
    folder = paths[0].parent
    files |= {INFO: folder / INFO} if (folder / INFO).exists() else {}
    return folder, Format("hub", lambda _: files, lambda _, settings: _contents(data, source, settings))


def _files_of_saved(path: Path) -> dict[str, Path]:
    if (path / SPLITS).exists():
        splits = [folder.name for folder in sorted(path.iterdir()) if (folder / STATE).exists()] or [
            "SPLIT"
        ]
        raise ReflowError(f"--data {path} holds splits {', '.join(splits)}; give one, {path / splits[0]}")
    return {file.name: file for file in sorted(path.iterdir()) if file.suffix in (".json", ".arrow")}


def _read_saved(path: Path, settings: DataSettings) -> Contents:
    with _library(f"--data {path}"):
        import datasets

        data = datasets.load_from_disk(str(path), keep_in_memory=False)
    return _contents(data, f"{path}", settings)


SAVED = Format("saved", _files_of_saved, _read_saved)


def _contents(data: "Dataset", origin: str, settings: DataSettings) -> Contents:
    """Return the column of images, and that of class labels if there is one."""
    import datasets

    image = _column(data, datasets.Image, ("image", "img"), origin)
    if image is None:
        raise ReflowError(f"--data {origin} has no column of images; it has {', '.join(data.column_names)}")
    weight = sum(Path(entry["filename"]).stat().st_size for entry in data.cache_files)
    encoded = data.select_columns(image).cast_column(image, datasets.Image(decode=False))
    blocks = _blocks(encoded, image, images_per_block(len(data), weight), origin, settings)
    labels, names = labels_if_wanted(settings, lambda: _labels(data, origin, settings))
    return Contents(len(data), blocks, labels, names, weight)


def _labels(data: "Dataset", origin: str, settings: DataSettings) -> Labels:
    """Return labels and names of classes, or none without such a column; refuse labels of no class."""
    import datasets

    label = _column(data, datasets.ClassLabel, ("label", "labels"), origin)
    if label is None:
        if settings.labels:
            kinds = ", ".join(f"{name} ({feature})" for name, feature in data.features.items())
            raise ReflowError(
                f"--data {origin} has no column of classes (ClassLabel) but {kinds[:300]}; make one with "
                "class_encode_column and write it with save_to_disk"
            )
        return None, ()
    labels = np.asarray(data.with_format("numpy")[label][:])
    if labels.dtype.kind not in "iu" or (labels < 0).any():  # null, or -1 as in sets to test on
        raise ReflowError(
            f"--data {origin}: rows without a class in {label!r}; choose another split, filter them out, "
            "or set data.labels=false"
        )
    return _numbered(labels, data.features[label].names)


def _numbered(labels: NDArray[np.int64], names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels and names of the classes that have images."""
    kinds, numbered = np.unique(labels, return_inverse=True)
    return numbered.astype(np.int64), tuple(names[kind] for kind in kinds)


def _column(data: "Dataset", kind: type, usual: tuple[str, ...], origin: str) -> str | None:
    """Return the column of a kind of feature; of several, the one with a usual name."""
    found = [name for name, feature in data.features.items() if isinstance(feature, kind)]
    chosen = found if len(found) < 2 else [name for name in found if name in usual]
    if found and len(chosen) != 1:
        raise ReflowError(
            f"--data {origin} has columns {', '.join(found)}; call the one to use {usual[0]!r} with "
            "rename_column and write it with save_to_disk"
        )
    return chosen[0] if chosen else None


def _blocks(
    encoded: "Dataset", column: str, step: int, origin: str, settings: DataSettings
) -> Iterator[Block]:
    first = 0
    for batch in encoded.iter(batch_size=step):
        block = []
        for row, image in enumerate(batch[column], first):
            block.append((f"row {row}", f"row {row} of {origin}", _content(image, row, origin)))
        first += len(block)
        yield partial(decode_all, block, settings)


def _content(image: dict[str, Any] | None, row: int, origin: str) -> bytes:
    """Return the bytes of an image, which must lie in the Arrow file: a path may change unseen."""
    if image is None or image["bytes"] is None:
        what = "no image" if image is None else f"only the path {image['path']}"
        raise ReflowError(
            f"row {row} of {origin} holds {what}; write the set with save_to_disk, every row with an image"
        )
    content: bytes = image["bytes"]
    return content


@contextmanager
def _library(origin: str) -> Iterator[None]:
    """Turn what `datasets` raises, and its absence, into one line."""
    try:
        import datasets
    except ImportError as error:
        raise ReflowError(
            f"{origin} needs Hugging Face's datasets: pip install 'reflow[datasets]'"
        ) from error
    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ReflowError(
            f"{origin} cannot be loaded ({reason(error)[:300]}); check the name, or load it in Python and "
            "give the folder that its save_to_disk writes"
        ) from error
