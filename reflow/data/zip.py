"""A zip of images as EDM's dataset_tool writes it: images at any depth, labels in `dataset.json`.

`dataset.json` is {"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null}; its names are
relative to the folder it lies in, which is the top or a single folder there.
"""

import contextlib
import json
import lzma
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from reflow.data.dataset import Labels, class_labels, labels_if_wanted
from reflow.data.formats import Block, Contents, images_per_block
from reflow.data.images import decode_all, limited, reason
from reflow.data.levels import CorruptImageError
from reflow.data.names import (
    HEAD,
    INDEX,
    SUFFIXES,
    ending,
    is_image_head,
    is_inside_junk,
    largest_index,
    looked_for,
    parts_of_a_set,
)
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

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
        names, _ = _listed(archive)
        if not names:
            raise ReflowError(f"{path} holds no images; looked for {looked_for()}")
        if parts := parts_of_a_set(names):
            raise ReflowError(
                f"{path} holds parts of a set ({', '.join(parts)}); unpack it and give the folder of one"
            )
        labels, class_names = labels_if_wanted(settings, lambda: _labels(archive, names, path, settings))
        weight = sum(archive.getinfo(name).file_size for name in names)
    blocks = _blocks(path, names, images_per_block(len(names), weight), settings)
    return Contents(len(names), blocks, labels, class_names, weight)


def left_out_of_zip(path: Path) -> Mapping[str, int]:
    """Return how many members are no images, by ending."""
    with _opened(path) as archive:
        return _listed(archive)[1]


def edm_labels(text: bytes, names: list[str], origin: str, settings: DataSettings) -> Labels:
    """Return the labels, renumbered, and class names of images from the text of `dataset.json`."""
    labels = _entries(text, origin)
    if labels is None:
        return None, ()
    if missing := set(names) - labels.keys():
        raise ReflowError(f"{origin} has no label for {min(missing)!r}; add it or remove the image")
    if absent := labels.keys() - set(names):
        raise ReflowError(f"{origin} labels {min(absent)!r}, which is absent; remove the label")
    return class_labels(np.array([labels[name] for name in names], np.int64), len(names), origin, settings)


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
            'as in [["00000/img00000000.png", 6]]; of one-hot labels take the position of the 1'
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


def _labels(archive: zipfile.ZipFile, names: list[str], path: Path, settings: DataSettings) -> Labels:
    """Return the labels; where there are none, refuse to do without, and say what to do."""
    indices = {INDEX} | {f"{PurePosixPath(name).parts[0]}/{INDEX}" for name in names}
    present = indices & set(archive.namelist())
    labels: Labels = None, ()
    if present:
        index = min(present, key=lambda name: (name.count("/"), name))
        folder = index.removesuffix(INDEX)
        relative = [name.removeprefix(folder) for name in names]
        limit, size = largest_index(relative), archive.getinfo(index).file_size
        if size > limit:
            raise ReflowError(
                f"{index} in {path} has {size} bytes, more than names and classes of {len(names)} images "
                f"take ({limit}); repair or remove it"
            )
        with _unzipping(index, path), archive.open(index) as file:
            text = file.read(limit)
        labels = edm_labels(text, relative, f"{index} in {path}", settings)
    if labels[0] is None and settings.labels:
        raise ReflowError(
            f"{path} has no labels, and folders in a zip are not taken for classes; unpack it and give the "
            f'folder, or add a {INDEX}, as in {{"labels": [["{names[0]}", 0], ...]}}'
        )
    return labels


def _listed(archive: zipfile.ZipFile) -> tuple[list[str], Counter[str]]:
    """Return the names of images, sorted, and how many other members there are, by ending."""
    names: set[str] = set()
    left_out: Counter[str] = Counter()
    for name in set(archive.namelist()):
        if name[-1:] in ("/", "") or is_inside_junk(name) or name.rpartition("/")[2] == INDEX:
            continue
        if ending(name) in SUFFIXES or (not ending(name) and _begins_like_image(archive, name)):
            names.add(name)
        else:
            left_out[ending(name)] += 1
    return sorted(names), left_out


def _begins_like_image(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(name) as file:
            return is_image_head(file.read(HEAD))
    except DAMAGE:
        return False  # then it is not known to be one


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
    with _unzipping(name, path):
        size = archive.getinfo(name).file_size
        with archive.open(name) as file:
            return limited(file, f"{name!r} in {path}", size)


@contextlib.contextmanager
def _unzipping(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except ReflowError:
        raise
    except DAMAGE as error:
        # A bad disk is no bad image.
        kind = ReflowError if isinstance(error, OSError) else CorruptImageError
        raise kind(
            f"{name!r} in {path} cannot be unzipped ({reason(error)}); "
            "create the archive again, without a password"
        ) from error
