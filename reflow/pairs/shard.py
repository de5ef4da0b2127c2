"""Reading one shard of pairs: checked in one pass through a small buffer, then used by memory map."""

import errno
import hashlib
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.artifacts import damaged, tensor_layout
from reflow.errors import ReflowError

STORED = {"noise": ("F32",), "image": ("F32", "F16", "BF16"), "label": ("I64",)}
NUMPY = {"F32": np.float32, "F16": np.float16, "BF16": np.int16, "I64": np.int64}  # BF16 as its bits
EXPONENTS = {"F32": (np.uint32, 0x7F80_0000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
CHUNK = 1 << 20  # bytes read at a time: they stay in the cache from the digest to the other checks
NOISE_STD = (0.9, 1.1)  # of any sizeable shard; swapped noise and image fall outside


class Slot(NamedTuple):
    """Where a tensor lies in the file of its shard: bytes begin to end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class ShardLayout:
    """The file of a shard: where its tensors begin, in bytes, and where each lies."""

    path: Path
    start: int
    slots: dict[str, Slot]


@dataclass(frozen=True)
class Shard:
    """The memory maps of one shard; bfloat16 images as the int16 of their bits."""

    noise: NDArray[np.float32]
    image: NDArray[Any]
    label: NDArray[np.int64] | None


def read_layout(path: Path, count: int, event: tuple[int, ...], *, labelled: bool) -> ShardLayout:
    """Return where the tensors of a shard lie, after checking their dtypes and shapes."""
    start, layout = tensor_layout(path)
    shapes: dict[str, tuple[int, ...]] = {"noise": (count, *event), "image": (count, *event)}
    if labelled:
        shapes["label"] = (count,)
    slots = {}
    for name, shape in shapes.items():
        try:
            entry = layout[name]
            dtype, found, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            size = np.dtype(NUMPY[dtype]).itemsize
            fits = found == shape and begin % size == 0 and end - begin == math.prod(shape) * size
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits or dtype not in STORED[name]:
            kinds = " or ".join(STORED[name])
            raise damaged(path, f"its {name} is not of shape {shape} and {kinds}")
        slots[name] = Slot(dtype, shape, start + begin, start + end)
    return ShardLayout(path, start, slots)


def check(shard: ShardLayout, digest: str, *, drawn: bool) -> None:
    """Read a shard once and refuse other bytes than listed and values that cannot be.

    `drawn` says that the noise was drawn; that of inverted data need not be standard normal.
    """
    path, sha, position = shard.path, hashlib.sha256(), 0
    moments = {name: _Moments(slot.dtype, moments=name == "noise") for name, slot in shard.slots.items()}
    try:
        for chunk in _chunks(path, shard.start):
            sha.update(chunk.data)
            for name, slot in shard.slots.items():
                inside = chunk[max(slot.begin - position, 0) : max(slot.end - position, 0)]
                moments[name].add(inside)
            position += len(chunk)
    except OSError as error:
        raise ReflowError(f"{path} cannot be read: {error.strerror or error}") from error
    if sha.hexdigest() != digest:
        raise damaged(path, "its contents do not match the index")
    if position < max(slot.end for slot in shard.slots.values()):
        raise damaged(path, "it is cut short")
    for name, seen in moments.items():
        if not seen.finite:
            raise damaged(path, f"its {name} holds NaN or infinity")
    (low, high), noise = NOISE_STD, moments["noise"]
    if drawn and noise.count > 10_000 and not low < noise.std() < high:
        raise damaged(path, "its noise is not standard normal (are noise and image swapped?)")


def open_shard(shard: ShardLayout) -> Shard:
    """Return the memory maps of a shard's tensors: views of one map, which holds one file open."""
    try:
        with shard.path.open("rb") as file:
            whole = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        remedy = "; raise the limit (ulimit -n)" if error.errno == errno.EMFILE else ""
        raise ReflowError(f"{shard.path} cannot be mapped: {error.strerror or error}{remedy}") from error
    arrays: dict[str, NDArray[Any]] = {
        name: whole[slot.begin : slot.end].view(NUMPY[slot.dtype]).reshape(slot.shape)
        for name, slot in shard.slots.items()
    }
    return Shard(arrays["noise"], arrays["image"], arrays.get("label"))


def as_float(stored: NDArray[Any]) -> Tensor:
    """Return stored images as float32."""
    tensor = torch.from_numpy(stored)
    return (tensor.view(torch.bfloat16) if stored.dtype == np.int16 else tensor).float()


def _chunks(path: Path, start: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of a file in one buffer, from `start` on in full chunks: they cut no value in two."""
    buffer, position = np.empty(CHUNK, np.uint8), 0
    with path.open("rb") as file:
        while True:
            wanted = CHUNK if position >= start else min(CHUNK, start - position)
            got = file.readinto(buffer[:wanted].data)
            if not got:
                return
            yield buffer[:got]
            position += got


class _Moments:
    """What has been seen of a tensor: is all of it finite; where asked for, also count and moments."""

    def __init__(self, dtype: str, *, moments: bool) -> None:
        self.dtype, self.moments, self.finite = dtype, moments, True
        self.count, self.sum, self.squares = 0, 0.0, 0.0

    def add(self, content: NDArray[np.uint8]) -> None:
        """Take in the next bytes of the tensor."""
        whole = len(content) - len(content) % np.dtype(NUMPY[self.dtype]).itemsize
        values = content[:whole].view(NUMPY[self.dtype])
        if self.dtype in EXPONENTS:  # NaN and infinity have all bits of the exponent set
            kind, exponent = EXPONENTS[self.dtype]
            self.finite &= int((values.view(kind) & kind(exponent)).max(initial=0)) != exponent
        if self.moments:
            self.count += len(values)
            with np.errstate(all="ignore"):  # what overflows or is no number is refused all the same
                self.sum += float(values.sum(dtype=np.float64))
                self.squares += float(np.dot(values, values))

    def std(self) -> float:
        """Return the standard deviation."""
        mean = self.sum / self.count
        return math.sqrt(max(self.squares / self.count - mean**2, 0.0))
