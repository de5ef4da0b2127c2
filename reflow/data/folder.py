"""A folder of images: loose ones without labels, or one sub-folder per class.

A folder that EDM's dataset_tool wrote, with "labels" in `dataset.json`, has the labels given there.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from reflow.data.formats import Block, Contents, Corrupt, Part, images_per_block
from reflow.data.images import SUFFIXES, decode_all, reason
from reflow.data.zip import edm_labels
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

INDEX = "dataset.json"


def files_of_folder(path: Path) -> dict[str, Path]:
    """Return the image files by their names relative to the folder, and `dataset.json`; no hidden ones.

    Of links to folders only those at the top are followed.
    """
    try:
        with os.scandir(path) as entries:
            top = sorted((entry.name, entry.is_dir()) for entry in entries if entry.name[0] != ".")
        names = [name for name, is_folder in top if not is_folder and (name == INDEX or _is_image(name))]
        for name, is_folder in top:
            if is_folder:
                names += _inside(path, name)
        return {name: path / name for name in names}
    except OSError as error:
        raise _unreadable(path, error) from error


def read_folder(path: Path, settings: DataSettings) -> Contents:
    """Return the images sorted by name, with labels if they lie in class folders."""
    files = files_of_folder(path)
    index = files.pop(INDEX, None)
    if not files:
        raise ReflowError(
            f"--data {path}: no images; looked for {', '.join(SUFFIXES)} in it and its sub-folders"
        )
    try:
        text = b"" if index is None else index.read_bytes()
        weight = sum(file.stat().st_size for file in files.values())
        if b'"labels"' in text:
            names = sorted(files)
            labels, class_names = edm_labels(text, names, f"{index}")
        else:
            classes = _classes(path, list(files))
            class_names = tuple(classes)
            names = sorted(files, key=lambda name: name.partition("/"))
            labels = np.repeat(np.arange(len(classes)), list(classes.values())) if classes else None
    except OSError as error:
        raise _unreadable(path, error) from error
    blocks = _blocks(path, names, images_per_block(len(names), weight), settings)
    return Contents(len(names), blocks, labels, class_names, weight)


def _inside(path: Path, folder: str) -> list[str]:
    """Return the images at any depth in a sub-folder."""

    def refuse(error: OSError) -> None:
        raise error

    names = []
    for place, folders, files in os.walk(path / folder, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "."]
        inside = Path(place).relative_to(path).as_posix()
        names += [f"{inside}/{name}" for name in files if name[0] != "." and _is_image(name)]
    return names


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (a hundred thousand times)


def _classes(path: Path, names: list[str]) -> dict[str, int]:
    """Return the number of images in each class folder, in ascending order; none if all are loose."""
    loose = sorted(name for name in names if "/" not in name)
    sizes: dict[str, int] = {}
    for folder in sorted(name.partition("/")[0] for name in names if "/" in name):
        sizes[folder] = sizes.get(folder, 0) + 1
    if loose and sizes:
        raise ReflowError(
            f"--data {path} holds both loose images ({loose[0]}) and class folders "
            f"({min(sizes)}); keep one of the two"
        )
    folders = {entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != "."}
    if sizes and (empty := folders - sizes.keys()):
        raise ReflowError(f"class folder {path / min(empty)} holds no images; fill or remove it")
    return sizes


def _blocks(path: Path, names: list[str], step: int, settings: DataSettings) -> Iterator[Block]:
    for first in range(0, len(names), step):
        yield partial(_decoded, path, names[first : first + step], settings)


def _decoded(path: Path, names: list[str], settings: DataSettings) -> list[Part | Corrupt]:
    encoded = ((name, f"{path / name}", _content(path / name)) for name in names)
    return decode_all(encoded, settings)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(path: Path, error: OSError) -> ReflowError:
    """Return the error for what may be sound, but cannot be read: never a reason to skip it."""
    return ReflowError(f"{path} cannot be read ({reason(error)}); fix its permissions")
