"""Pairs on disk: fixed-size shards and the index that makes them one set.

A shard holds `noise` (n, *event) float32, `image` (n, *event) and, for models with classes, `label`
(n,) int64. `pairs.json`, written last, lists the shards with counts and digests; without it the set
is unfinished. Pairs are read through memory maps.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.artifacts import (
    PAIRS,
    Header,
    damaged,
    file_digest,
    foreign,
    parse_header,
    tensor_layout,
    write_artifact,
    write_atomically,
)
from reflow.errors import ReflowError
from reflow.flow import Pair

DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
NOISE_STD = (0.9, 1.1)  # of any sizeable shard; swapped noise and image fall outside


def shard_name(number: int, count: int) -> str:
    """Return the file name of shard `number` of `count`."""
    return f"pairs-{number:05d}-of-{count:05d}.safetensors"


def write_shard(path: Path, pair: Pair, header: Header) -> str:
    """Write one shard and return its digest."""
    tensors = {"noise": pair.x0, "image": pair.x1}
    if pair.label is not None:
        tensors["label"] = pair.label
    return write_artifact(path, tensors, header)


def write_index(directory: Path, header: Header, shards: Sequence[dict[str, Any]]) -> None:
    """Write the index: the set is complete from here on."""
    text = header.to_json(shards=list(shards))
    write_atomically(directory / PAIRS, (text + "\n").encode())


def read_index(path: Path) -> tuple[Header, list[dict[str, Any]]]:
    """Return the header and the list of shards of an index file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        unfinished = " and the pairs are unfinished" if path.parent.is_dir() else ""
        raise ReflowError(
            f"{path} does not exist{unfinished}; make the pairs with reflow couple"
        ) from error
    except OSError as error:
        raise ReflowError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise damaged(path, "it is not JSON") from error
    if not isinstance(content, dict) or "kind" not in content:
        raise foreign(path)
    header = parse_header(content, path)
    if header.kind != "pairs" or not isinstance(content.get("shards"), list):
        raise ReflowError(f"{path} is not an index of pairs; check the path")
    return header, content["shards"]


@dataclass(frozen=True)
class PairStore:
    """An opened set of pairs: header, digest of the index, and one memory map per tensor and shard."""

    header: Header
    digest: str
    noise: list[NDArray[np.float32]]
    image: list[NDArray[Any]]
    label: list[NDArray[np.int64]] | None
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(int(n) for n in self.noise[0].shape[1:])

    def take(self, rows: NDArray[np.int64]) -> Pair:
        """Return the pairs at these rows, float32."""
        shard = np.searchsorted(self.ends, rows, side="right")
        inside = rows - np.concatenate([[0], self.ends])[shard]
        label = None
        if self.label is not None:
            label = _gather(self.label, shard, inside)
        noise, image = (_gather(maps, shard, inside) for maps in (self.noise, self.image))
        return Pair(noise, image.float(), label)


def open_pairs(directory: Path) -> PairStore:
    """Return the pairs in a directory, checked against the index.

    Raises ReflowError when a shard is missing, altered or of another shape, or values are not finite.
    """
    path = directory / PAIRS
    header, shards = read_index(path)
    if not shards:
        raise damaged(path, "it lists no shards")
    try:
        event = tuple(header.facts["event"])
        labelled = header.facts["classes"] is not None
        listed = [(str(s["file"]), str(s["sha256"]), int(s["count"])) for s in shards]
    except (KeyError, TypeError) as error:
        raise damaged(path, f"its facts or shards are incomplete ({error})") from error
    stacks: dict[str, list[NDArray[Any]]] = {"noise": [], "image": [], "label": []}
    for name, digest, count in listed:
        file = directory / name
        if not file.exists():
            raise damaged(directory, f"shard {name} is missing")
        if file_digest(file) != digest:
            raise damaged(file, "its contents do not match the index")
        for tensor, array in _map_shard(file, event, count, labelled).items():
            stacks[tensor].append(array)
    return PairStore(
        header=header,
        digest=file_digest(path),
        noise=stacks["noise"],
        image=stacks["image"],
        label=stacks["label"] if labelled else None,
        ends=np.cumsum([len(noise) for noise in stacks["noise"]]),
    )


def _map_shard(path: Path, event: tuple[int, ...], count: int, labelled: bool) -> dict[str, NDArray[Any]]:
    """Return the memory maps of a shard after checking dtypes, shapes and values."""
    start, layout = tensor_layout(path)
    try:  # one map per shard: every map holds a file open
        whole = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise ReflowError(f"{path} cannot be mapped: {error.strerror or error}") from error
    shapes = {"noise": (count, *event), "image": (count, *event)}
    if labelled:
        shapes["label"] = (count,)
    arrays: dict[str, NDArray[Any]] = {}
    for name, shape in shapes.items():
        entry = layout.get(name, {})
        if tuple(entry.get("shape", ())) != shape or entry.get("dtype") not in DTYPES:
            raise damaged(path, f"its {name} is not of shape {shape}")
        begin, end = (start + offset for offset in entry["data_offsets"])
        try:
            array = whole[begin:end].view(DTYPES[entry["dtype"]]).reshape(shape)
        except ValueError as error:
            raise damaged(path, "it is cut short") from error
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise damaged(path, f"its {name} holds NaN or infinity")
        arrays[name] = array
    low, high = NOISE_STD
    if arrays["noise"].size > 10_000 and not low < float(arrays["noise"].std()) < high:
        raise damaged(path, "its noise is not standard normal (are noise and image swapped?)")
    return arrays


def _gather(maps: list[NDArray[Any]], shard: NDArray[np.int64], inside: NDArray[np.int64]) -> Tensor:
    out = np.empty((len(shard), *maps[0].shape[1:]), maps[0].dtype)
    for number in np.unique(shard):
        chosen = shard == number
        out[chosen] = maps[number][inside[chosen]]
    return torch.from_numpy(out)
