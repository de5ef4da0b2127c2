"""A zip of images as EDM's dataset_tool writes it: images at any depth, labels in `dataset.json`.

`dataset.json` is {"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null}; its names are
relative to the folder it lies in, which is the top or a single folder there.
"""

import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reflow.data.dataset import number_classes
from reflow.data.formats import Block, Contents, images_per_block
from reflow.data.images import SUFFIXES, CorruptImageError, decode_all, reason
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

Labels = tuple[NDArray[np.int64] | None, tuple[str, ...]]

# What zipfile raises at damaged, encrypted and exotic archives.
DAMAGE = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    MemoryError,
)


def read_zip(path: Path, settings: DataSettings) -> Contents:
    """Return the images of an archive, sorted by name, with the labels of its `dataset.json`."""
    with _opened(path) as archive:
        names = sorted(set(filter(_is_image, archive.namelist())))
        if not names:
            raise ReflowError(f"{path} holds no images; looked for {', '.join(SUFFIXES)}")
        labels, class_names = _labels(archive, names, path)
        weight = sum(archive.getinfo(name).file_size for name in names)
    blocks = _blocks(path, names, images_per_block(len(names), weight), settings)
    return Contents(len(names), blocks, labels, class_names, weight)


def edm_labels(text: bytes, names: list[str], origin: str) -> Labels:
    """Return the labels, renumbered, and class names of images from the text of `dataset.json`."""
    labels = _entries(text, origin)
    if labels is None:
        return None, ()
    if missing := set(names) - labels.keys():
        raise ReflowError(f"{origin} has no label for {min(missing)!r}; add it or remove the image")
    if absent := labels.keys() - set(names):
        raise ReflowError(f"{origin} labels {min(absent)!r}, which is absent; remove the label")
    return number_classes(np.array([labels[name] for name in names], np.int64))


def _entries(text: bytes, origin: str) -> dict[str, int] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReflowError(f"{origin} is not JSON ({reason(error)}); repair or remove it") from error
    if not isinstance(content, dict) or "labels" not in content:
        raise ReflowError(f'{origin} has no "labels"; write {{"labels": null}} if there are none')
    entries = content["labels"]
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise ReflowError(
            f'{origin}: "labels" must be null or pairs of a name and a whole number, '
            'as in [["00000/img00000000.png", 6]]'
        )
    labels = dict(entries)
    if len(labels) < len(entries):
        raise ReflowError(f"{origin} labels an image twice; keep one label per image")
    return labels


def _is_entry(entry: Any) -> bool:
    match entry:
        case [str(), int(label)]:
            return not isinstance(label, bool) and -(2**63) <= label < 2**63
        case _:
            return False


def _labels(archive: zipfile.ZipFile, names: list[str], path: Path) -> Labels:
    indices = {"dataset.json"} | {f"{PurePosixPath(name).parts[0]}/dataset.json" for name in names}
    present = indices & set(archive.namelist())
    if not present:
        return None, ()
    index = min(present, key=lambda name: (name.count("/"), name))
    folder = index.removesuffix("dataset.json")
    relative = [name.removeprefix(folder) for name in names]
    return edm_labels(_content(archive, index, path), relative, f"{index} in {path}")


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except DAMAGE as error:
        raise ReflowError(f"{path} cannot be unzipped ({reason(error)}); create it again") from error


def _blocks(path: Path, names: list[str], step: int, settings: DataSettings) -> Iterator[Block]:
    with _opened(path) as archive:
        for first in range(0, len(names), step):
            block = []
            for name in names[first : first + step]:
                try:
                    content: bytes | CorruptImageError = _content(archive, name, path)
                except CorruptImageError as error:
                    content = error
                block.append((name, f"{name!r} in {path}", content))
            yield partial(decode_all, block, settings)


def _content(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except DAMAGE as error:
        # A bad disk is no bad image.
        kind = ReflowError if isinstance(error, OSError) else CorruptImageError
        raise kind(
            f"{name!r} in {path} cannot be unzipped ({reason(error)}); "
            "create the archive again, without a password"
        ) from error


def _is_image(name: str) -> bool:
    hidden = "/." in f"/{name}"
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not hidden and name[-1] != "/"
