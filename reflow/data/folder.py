"""A folder of images: loose ones without labels, or one sub-folder per class.

A folder that EDM's dataset_tool wrote, with "labels" in `dataset.json`, has the labels given there.
Links to folders are followed.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from reflow.data.dataset import Labels, labels_if_wanted
from reflow.data.formats import Block, Contents, Corrupt, Part, images_per_block
from reflow.data.images import decode_all, limited, reason
from reflow.data.levels import CorruptImageError
from reflow.data.names import (
    HEAD,
    INDEX,
    SUFFIXES,
    Listing,
    ending,
    is_image_head,
    is_junk,
    largest_index,
    looked_for,
    parts_of_a_set,
)
from reflow.data.zip import edm_labels
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings


def files_of_folder(path: Path) -> dict[str, Path]:
    """Return the image files at any depth by their names relative to the folder, and `dataset.json`."""
    return _listed(path).files


def left_out_of_folder(path: Path) -> Mapping[str, int]:
    """Return how many files are no images, by ending."""
    return _listed(path).left_out


def read_folder(path: Path, settings: DataSettings) -> Contents:
    """Return the images sorted by name, with labels if they lie in class folders."""
    files = files_of_folder(path)
    index = files.pop(INDEX, None)
    if not files:
        raise ReflowError(f"--data {path}: no images; looked for {looked_for()} in it and its sub-folders")
    _ask_for_part(path, list(files))
    try:
        weight = sum(file.stat().st_size for file in files.values())
        names = sorted(files, key=lambda name: name.partition("/"))
        if index is not None and b'"labels"' in (text := _index(index, files, wanted=settings.labels)):
            names = sorted(files)
            labels, class_names = labels_if_wanted(
                settings, lambda: edm_labels(text, names, f"{index}", settings)
            )
        else:
            _refuse_loose_beside_folders(path, names)
            labels, class_names = labels_if_wanted(settings, lambda: _labels(path, names))
    except OSError as error:
        raise _unreadable(path, error) from error
    blocks = _blocks(path, names, images_per_block(len(names), weight), settings)
    return Contents(len(names), blocks, labels, class_names, weight)


def _listed(path: Path) -> Listing:
    names: list[str] = []
    left_out: Counter[str] = Counter()
    try:
        found = path.stat()
        _walk(path, "", [(found.st_dev, found.st_ino)], names, left_out)
    except OSError as error:
        raise _unreadable(path, error) from error
    return Listing({name: path / name for name in sorted(names)}, left_out)


def _walk(
    path: Path, inside: str, above: list[tuple[int, int]], names: list[str], left_out: Counter[str]
) -> None:
    """Add the images in a folder; `above`: device and number of it and of those it lies in."""
    with os.scandir(path / inside) as entries:
        for entry in entries:
            name, is_folder = f"{inside}{entry.name}", entry.is_dir()
            if is_junk(entry.name, folder=is_folder):
                continue
            if is_folder:
                found = entry.stat()
                own = (found.st_dev, found.st_ino)
                if own in above:
                    raise ReflowError(f"{path / name} is a link to a folder that it lies in; remove it")
                _walk(path, f"{name}/", [*above, own], names, left_out)
            elif name == INDEX or _is_image(entry, path / name):
                names.append(name)
            else:
                left_out[ending(name)] += 1


def _is_image(entry: os.DirEntry[str], file: Path) -> bool:
    kind = ending(entry.name)
    if kind and kind not in SUFFIXES:
        return False
    if entry.is_symlink() and not entry.is_file() and not file.exists():
        raise ReflowError(
            f"{file} cannot be read: it is a dangling link to {file.readlink()}; restore that, or remove it"
        )
    if kind or not entry.is_file():
        return bool(kind)
    with file.open("rb") as stream:
        return is_image_head(stream.read(HEAD))


def _ask_for_part(path: Path, names: list[str]) -> None:
    """Refuse folders like train/ and test/ above the classes or images: which one is wanted?"""
    if parts := parts_of_a_set(names):
        choices = " or ".join(f"--data {path / part}" for part in parts)
        raise ReflowError(f"--data {path} holds parts of a set, not classes; give one of them: {choices}")


def _index(file: Path, files: Mapping[str, Path], *, wanted: bool) -> bytes:
    """Return the text of `dataset.json`; nothing where it is too large and no labels are wanted."""
    limit, size = largest_index(files), file.stat().st_size
    if size <= limit:
        return file.read_bytes()
    if wanted:
        raise ReflowError(
            f"{file} has {size} bytes, more than names and classes of {len(files)} images take ({limit}); "
            "repair or remove it"
        )
    return b""


def _labels(path: Path, names: list[str]) -> Labels:
    classes = _classes(path, names)
    labels = np.repeat(np.arange(len(classes)), list(classes.values())) if classes else None
    return labels, tuple(classes)


def _refuse_loose_beside_folders(path: Path, names: list[str]) -> None:
    loose, inside = ([name for name in names if ("/" in name) == deep] for deep in (False, True))
    if loose and inside:
        raise ReflowError(
            f"--data {path} holds both loose images ({loose[0]}) and class folders "
            f"({inside[0].partition('/')[0]}); keep one of the two"
        )


def _classes(path: Path, names: list[str]) -> dict[str, int]:
    """Return the number of images in each class folder, in ascending order; none if all are loose."""
    sizes: dict[str, int] = {}
    for folder in sorted(name.partition("/")[0] for name in names if "/" in name):
        sizes[folder] = sizes.get(folder, 0) + 1
    folders = {
        entry.name for entry in path.iterdir() if not is_junk(entry.name, folder=True) and entry.is_dir()
    }
    if sizes and (empty := folders - sizes.keys()):
        raise ReflowError(f"class folder {path / min(empty)} holds no images; fill or remove it")
    return sizes


def _blocks(path: Path, names: list[str], step: int, settings: DataSettings) -> Iterator[Block]:
    for first in range(0, len(names), step):
        yield partial(_decoded, path, names[first : first + step], settings)


def _decoded(path: Path, names: list[str], settings: DataSettings) -> list[Part | Corrupt]:
    encoded = ((name, f"{path / name}", _content(path / name)) for name in names)
    return decode_all(encoded, settings)


def _content(file: Path) -> bytes | CorruptImageError:
    try:
        with file.open("rb") as stream:
            return limited(stream, f"{file}", file.stat().st_size)
    except CorruptImageError as error:
        return error
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(path: Path, error: OSError) -> ReflowError:
    """Return the error for what may be sound, but cannot be read: never a reason to skip it."""
    return ReflowError(f"{path} cannot be read ({reason(error)}); fix its permissions")
