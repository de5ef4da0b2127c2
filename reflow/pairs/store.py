"""Pairs on disk: fixed-size shards and the index that makes them one set.

A shard holds `noise` (n, *event) float32, `image` (n, *event) float32, float16 or bfloat16 and, for
models with classes, `label` (n,) int64. `pairs.json`, written last, lists the shards with counts and
digests; without it the set is unfinished. Opening a set reads all of it once, through small buffers;
from then on pairs are read through memory maps.
"""

import json
import os
import resource
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reflow.artifacts import (
    PAIRS,
    Header,
    damaged,
    file_digest,
    foreign,
    missing,
    parse_header,
    read_header,
    write_artifact,
)
from reflow.artifacts.facts import PairFacts, pair_facts
from reflow.artifacts.files import write_atomically
from reflow.artifacts.stage_directory import differences
from reflow.errors import ReflowError
from reflow.flow import Pair
from reflow.pairs.shard import Shard, ShardLayout, as_float, check, open_shard, read_layout
from reflow.recipes.read import parse_recipe
from reflow.recipes.recipe import Recipe

THREADS = 8  # at most, to check shards with
SPARE_FILES = 64  # that may be open beside the shards

Progress = Callable[[int, int], None]  # bytes done, bytes in all


def shard_name(number: int, count: int) -> str:
    """Return the file name of shard `number` of `count`."""
    return f"pairs-{number:05d}-of-{count:05d}.safetensors"


def write_shard(path: Path, pair: Pair, header: Header) -> str:
    """Write one shard, unless another process has, and return the digest of what stands there."""
    tensors = {"noise": pair.x0, "image": pair.x1}
    if pair.label is not None:
        tensors["label"] = pair.label
    return write_artifact(path, tensors, header, once=True)


def write_index(directory: Path, header: Header, shards: Sequence[dict[str, Any]]) -> None:
    """Write the index: the set is complete from here on."""
    text = header.sealed(shards=list(shards))
    write_atomically(directory / PAIRS, (text + "\n").encode())


def read_index(path: Path) -> tuple[Header, list[dict[str, Any]]]:
    """Return the header and the list of shards of an index file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise missing(path) from error
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
    """An opened set of pairs: header, digest of the index, shards and the first row of each."""

    header: Header
    facts: PairFacts
    digest: str
    shards: list[Shard]
    starts: NDArray[np.int64]
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.facts.event

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe they were made with."""
        return parse_recipe(self.header.recipe, origin="the recipe of the pairs")

    def take(self, rows: NDArray[np.int64]) -> Pair:
        """Return the pairs at these rows, float32; the disk is asked in ascending order."""
        places = np.argsort(rows, kind="stable")
        ascending = rows[places]
        numbers = np.searchsorted(self.starts, ascending, side="right") - 1
        inside = ascending - self.starts[numbers]
        noise = np.empty((len(rows), *self.event), np.float32)
        image = np.empty(noise.shape, self.shards[0].image.dtype)
        label = np.empty(len(rows), np.int64)
        # Row by row: with a hundred shards most rows are alone in theirs, and nothing is copied twice.
        for place, number, row in zip(places.tolist(), numbers.tolist(), inside.tolist(), strict=True):
            shard = self.shards[number]
            noise[place], image[place] = shard.noise[row], shard.image[row]
            if shard.label is not None:
                label[place] = shard.label[row]
        labelled = self.shards[0].label is not None
        return Pair(torch.from_numpy(noise), as_float(image), torch.from_numpy(label) if labelled else None)


def open_pairs(directory: Path, progress: Progress | None = None) -> PairStore:
    """Return the pairs in a directory after reading all of them once to check them against the index.

    Raises ReflowError when a shard is missing, altered, of another set or shape, or values are not finite.
    """
    path = directory / PAIRS
    header, listed = read_index(path)
    try:
        facts = pair_facts(header.facts)
        names = [str(entry["file"]) for entry in listed]
        digests = [str(entry["sha256"]) for entry in listed]
        counts = [int(entry["count"]) for entry in listed]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"its facts or shards are incomplete ({error})") from error
    _require_whole(path, names, digests, counts, facts.count)
    files = [directory / name for name in names]
    for file in files:
        if not file.exists():
            raise damaged(directory, f"shard {file.name} is missing")
    layouts = [
        read_layout(file, count, facts.event, labelled=facts.classes is not None)
        for file, count in zip(files, counts, strict=True)
    ]
    if len(kinds := {layout.slots["image"].dtype for layout in layouts}) > 1:
        raise damaged(directory, f"its images are {' and '.join(sorted(kinds))}, in one set")
    _check_all(layouts, digests, drawn=not facts.inverted, progress=progress)
    for file in files:
        _require_of_set(file, header)
    _allow_open_files(len(files))
    shards = [open_shard(layout) for layout in layouts]
    starts = np.cumsum([0, *counts[:-1]], dtype=np.int64)
    return PairStore(header, facts, file_digest(path), shards, starts, sum(counts))


def _require_whole(
    index: Path, names: list[str], digests: list[str], counts: list[int], announced: int | None
) -> None:
    """Refuse a list of shards that names other places, lists pairs twice or leaves some out."""
    for name in names:
        if name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\"):
            raise damaged(index, f"it lists {name!r}, which is not the name of a file beside it")
    if sum(counts) < 1 or min(counts) < 0:
        raise damaged(index, "it lists no pairs")
    filled = [digest for digest, count in zip(digests, counts, strict=True) if count]
    for values in (names, filled):
        if twice := [value for value, times in Counter(values).items() if times > 1]:
            raise damaged(index, f"it lists {twice[0]} twice")
    if announced is not None and announced != sum(counts):
        raise damaged(index, f"it announces {announced} pairs and lists shards with {sum(counts)}")


def _require_of_set(file: Path, index: Header) -> None:
    """Refuse a shard that was not made for this index, which may have further parents and facts."""
    own = read_header(file, "pairs")
    of_shards = replace(index, parents={role: index.parents.get(role, "") for role in own.parents})
    told = differences(own, of_shards)
    for fact in ("event", "classes", "inverted"):
        if own.facts.get(fact) != index.facts.get(fact):
            told.append(f"{fact} is {own.facts.get(fact)} there, {index.facts.get(fact)} in the index")
    if told:
        raise damaged(file, f"it does not belong to {PAIRS} ({'; '.join(told)})")


def _check_all(
    layouts: list[ShardLayout], digests: list[str], *, drawn: bool, progress: Progress | None
) -> None:
    """Check the shards on several threads; hashing and arithmetic leave the interpreter's lock."""
    sizes = [layout.path.stat().st_size for layout in layouts]
    done, total = 0, sum(sizes)
    pool = ThreadPoolExecutor(min(THREADS, len(layouts), os.cpu_count() or 1))
    try:
        jobs = [
            pool.submit(check, layout, digest, drawn=drawn)
            for layout, digest in zip(layouts, digests, strict=True)
        ]
        for job, size in zip(jobs, sizes, strict=True):
            job.result()
            done += size
            if progress is not None:
                progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files, as far as the system lets us, where shards need more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
