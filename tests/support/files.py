"""Data files and pairs that the tests write themselves, and ways to load them."""

import gzip
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from reflow.artifacts import Header
from reflow.data import DataSet, open_data
from reflow.errors import ReflowError
from reflow.flow import Pair
from reflow.pairs.store import shard_name, write_index, write_shard
from reflow.recipes.recipe import DataSettings

Array = NDArray[Any]

RGB = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
GREY = RGB[..., 0]
GREEN = np.array([0, 255, 0], np.uint8)
EVENT = (1, 4, 4)  # of pairs


def load(source: Path | str, **settings: Any) -> DataSet:
    return open_data(DataSettings(source=str(source), **settings), seed=0)


def refused(source: Path | str, *words: str, **settings: Any) -> None:
    """Assert that loading fails in one line with these words in it."""
    with pytest.raises(ReflowError) as caught:
        load(source, **settings)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def write(path: Path, pixels: Array | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def png(pixels: Array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def folder(path: Path, images: Array = RGB) -> Path:
    for row, image in enumerate(images):
        write(path / f"{row:03}.png", image)
    return path


def pack(path: Path, members: dict[str, bytes], labels: Any = "absent", index: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if labels != "absent":
            archive.writestr(f"{index}dataset.json", json.dumps({"labels": labels}))
    return path


def members(images: Array = RGB) -> dict[str, bytes]:
    return {f"00000/img{row:08}.png": png(image) for row, image in enumerate(images)}


def idx(path: Path, magic: int, values: Array, cut: int | None = None) -> Path:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    with gzip.open(path, "wb") as file:
        file.write((magic.to_bytes(4, "big") + sizes + values.astype(np.uint8).tobytes())[:cut])
    return path


def idx_folder(path: Path, images: Array, tested: int, labels: Array | None = None) -> Path:
    """Write the four files of a set of the MNIST family; the last `tested` images are its second part."""
    path.mkdir(parents=True, exist_ok=True)
    labels = np.arange(len(images)) % 10 if labels is None else labels
    for part, rows in (("train", slice(-tested)), ("t10k", slice(-tested, None))):
        idx(path / f"{part}-images-idx3-ubyte.gz", 0x803, images[rows])
        idx(path / f"{part}-labels-idx1-ubyte.gz", 0x801, labels[rows])
    return path


def channels_first(images: Array) -> Array:
    return images.transpose(0, 3, 1, 2) if images.ndim == 4 else images[:, None]


def one(path: Path, **settings: Any) -> Array:
    """Return the first of two equal images, (C, H, W), that a folder with this file holds."""
    shutil.copy(path, path.with_stem("copy"))
    return load(path.parent, **settings).values[0]


def made(n: int, *, labelled: bool = False, image: torch.dtype = torch.float32) -> Pair:
    """Return n pairs whose image is half their noise."""
    noise = torch.from_numpy(np.random.default_rng(n).standard_normal((n, *EVENT), dtype=np.float32))
    return Pair(noise, (noise / 2).to(image), torch.arange(n) if labelled else None)


def store(directory: Path, whole: Pair, sizes: list[int], **facts: Any) -> Path:
    """Write pairs in shards of these sizes."""
    directory.mkdir(exist_ok=True)
    classes = None if whole.label is None else len(whole.label)
    event = list(whole.x0.shape[1:])
    header = Header("pairs", "couple", 1, {}, {}, {"event": event, "classes": classes} | facts)
    listed, first = [], 0
    for number, size in enumerate(sizes):
        part = Pair(*(None if end is None else end[first : first + size] for end in whole))  # type: ignore[arg-type]
        name = shard_name(number, len(sizes))
        listed.append({"file": name, "count": size, "sha256": write_shard(directory / name, part, header)})
        first += size
    write_index(directory, header, listed)
    return directory


def in_every_format(path: Path) -> dict[str, Path]:
    """Write the same grey images in every format."""
    np.savez(path / "a.npz", images=GREY)
    return {
        "folder": folder(path / "folder", GREY),
        "npz": path / "a.npz",
        "zip": pack(path / "a.zip", members(GREY)),
        "idx": idx(path / "t-images-idx3-ubyte.gz", 0x803, GREY),
    }
