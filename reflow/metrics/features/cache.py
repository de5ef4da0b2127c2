"""What evaluations have in common is computed once and kept in the user's cache: networks and features.

A file is named by what its content follows from: digests of data and weights, settings and seed. What is
damaged or missing is computed again, and where nothing can be written it is computed every time.
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from reflow.artifacts import Header, read_artifact, write_artifact
from reflow.data.cache import cache_directory
from reflow.errors import ReflowError

FOLDER = "evaluate"  # in the cache


class Cached(NamedTuple):
    """Tensors and facts that were computed."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def cached(
    kind: Literal["classifier", "features"],
    *,
    parents: dict[str, str],
    settings: Mapping[str, Any],
    make: Callable[[], Cached],
) -> Cached:
    """Return what `make` returns, from the cache if that was made before of these parents and settings."""
    wanted = Header(kind, "evaluate", 0, {kind: dict(settings)}, parents)
    path = cache_directory() / FOLDER / f"{_key(wanted)}.safetensors"
    if (found := _read(path, wanted)) is not None:
        return found
    made = make()
    with contextlib.suppress(OSError, ReflowError):  # a cache that cannot be written is only slower
        path.parent.mkdir(parents=True, exist_ok=True)
        write_artifact(path, made.tensors, replace(wanted, facts=dict(made.facts)))
    return made


def _read(path: Path, wanted: Header) -> Cached | None:
    with contextlib.suppress(ReflowError):  # absent or damaged
        header, tensors = read_artifact(path, wanted.kind)
        if replace(header, facts={}) == wanted:
            return Cached(tensors, header.facts)
    return None


def _key(wanted: Header) -> str:
    return hashlib.sha256(wanted.to_json().encode()).hexdigest()[:32]
