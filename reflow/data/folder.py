"""A folder of images: loose ones without labels, or one sub-folder per class.

A folder that EDM's dataset_tool wrote, with "labels" in `dataset.json`, has the labels given there.
"""

from pathlib import Path

import numpy as np

from reflow.data.dataset import DataSet
from reflow.data.images import SUFFIXES, Pixels, decode, reason, stack
from reflow.data.zipped import edm_labels
from reflow.errors import ReflowError
from reflow.settings import DataSettings


def read_folder(path: Path, settings: DataSettings) -> DataSet:
    """Return the images sorted by name, with labels if they lie in class folders."""
    try:
        index = path / "dataset.json"
        if index.is_file() and b'"labels"' in (text := index.read_bytes()):
            return _indexed(path, text, settings)
        return _listed(path, settings)
    except OSError as error:
        raise ReflowError(f"{path} cannot be read ({reason(error)}); mend its permissions") from error


def _indexed(path: Path, text: bytes, settings: DataSettings) -> DataSet:
    files = _images(path, "**/*")
    names = [file.relative_to(path).as_posix() for file in files]
    labels, class_names = edm_labels(text, names, f"{path / 'dataset.json'}")
    return DataSet(_pixels(files, path, settings), labels, class_names)


def _listed(path: Path, settings: DataSettings) -> DataSet:
    loose = _images(path, "*")
    classes = _class_folders(path)
    filled = {name: files for name, files in classes.items() if files}
    if loose and filled:
        raise ReflowError(
            f"--data {path} holds both loose images ({loose[0].name}) and class folders "
            f"({min(filled)}); keep one of the two"
        )
    if loose or not filled:
        return DataSet(_pixels(loose, path, settings))
    if empty := classes.keys() - filled.keys():
        raise ReflowError(f"class folder {path / min(empty)} holds no images; fill or remove it")
    pixels = _pixels([file for files in filled.values() for file in files], path, settings)
    sizes = [len(files) for files in filled.values()]
    return DataSet(pixels, np.repeat(np.arange(len(sizes)), sizes), tuple(filled))


def _class_folders(path: Path) -> dict[str, list[Path]]:
    """Return the images in each sub-folder, at any depth, by its name in ascending order."""
    names = (entry.name for entry in path.iterdir() if entry.is_dir())
    return {name: _images(path / name, "**/*") for name in sorted(names) if name[0] != "."}


def _images(folder: Path, pattern: str) -> list[Path]:
    """Return the image files that match, sorted, without hidden ones."""
    found = {
        file.relative_to(folder).as_posix(): file
        for file in folder.glob(pattern)
        if file.suffix.lower() in SUFFIXES and not file.is_dir()
    }
    return [found[name] for name in sorted(found) if "/." not in f"/{name}"]


def _pixels(files: list[Path], path: Path, settings: DataSettings) -> Pixels:
    if not files:
        raise ReflowError(
            f"--data {path}: no images; looked for {', '.join(SUFFIXES)} in it and its sub-folders"
        )
    return stack(((f"{file}", decode(f"{file}", file)) for file in files), len(files), settings)
