"""Artifacts on disk: the only module that reads or writes safetensors headers.

An artifact is a safetensors file whose one metadata entry, `reflow`, is canonical JSON: format, kind,
stage, rectification, recipe, parents, facts, the SHA-256 of its tensors and that of all these entries.
Equal inputs give equal bytes. Files appear under their name only when complete: they are written beside
it, flushed to the disk and renamed. Reading a header does not import torch.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reflow.artifacts.files import write_atomically
from reflow.errors import ReflowError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
ENTRY = "reflow"  # the one metadata entry
MODEL, STATE, LOG, PREVIEW = "model.safetensors", "state.safetensors", "log.jsonl", "samples.png"
PREVIOUS = "state-previous.safetensors"
AVERAGES, TRACKING = "averages-*.safetensors", "tracking"
TRACKED = ("run", "tensorboard", "wandb")  # what trackers keep in there
PAIRS, SHARDS, PLAN = "pairs.json", "pairs-*-of-*.safetensors", "plan.json"
SEAL = "header"  # names the digest of everything beside it
UNSEALED = {"format", "kind", "stage", "rectification", "recipe", "parents", "facts", "payload", "shards"}
LARGEST_HEADER = 10_000_000  # bytes: room for 100,000 tensors or names; the library allows ten times this

Kind = Literal["model", "state", "averages", "pairs", "data", "classifier", "features"]


@dataclass(frozen=True)
class Header:
    """What an artifact says of itself. No paths, host names or dates: equal inputs, equal bytes."""

    kind: Kind
    stage: str
    rectification: int
    recipe: dict[str, Any]
    parents: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self, **more: Any) -> str:
        """Return canonical JSON, with further entries beside the header's own."""
        return canonical({"format": FORMAT, **asdict(self), **more})

    def sealed(self, **more: Any) -> str:
        """Return the same with its own digest, by which readers notice a changed character."""
        content = json.loads(self.to_json(**more))
        return canonical(content | {SEAL: _content_digest(content)})


def canonical(content: Any) -> str:
    """Return JSON with sorted keys and no spare blanks."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def finite(content: Any) -> Any:
    """Return what JSON can hold of some content: null in place of NaN and infinity."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: finite(value) for name, value in content.items()}
    return [finite(value) for value in content] if isinstance(content, list | tuple) else content


def write_artifact(
    path: Path, tensors: Mapping[str, "Tensor"], header: Header, *, once: bool = False
) -> str:
    """Write an artifact and return the SHA-256 of the file; `once` as for `write_atomically`."""
    from safetensors.torch import save

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = header.sealed(payload=payload_digest(ready))
    content = save(ready, metadata={ENTRY: text})
    put = write_atomically(path, content, once=once)
    return hashlib.sha256(content).hexdigest() if put else file_digest(path)


def read_artifact(path: Path, kind: Kind) -> tuple[Header, dict[str, "Tensor"]]:
    """Return header and tensors, checked: kind, format, payload digest, finite values."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    header, payload = _read_entry(path)
    _require_kind(path, header, kind)
    try:
        tensors = load(path.read_bytes())
    except SafetensorError as error:
        raise damaged(path, str(error)) from error
    if payload_digest(tensors) != payload:
        raise damaged(path, "its contents do not match its digest")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise damaged(path, f"tensor {name} holds NaN or infinity")
    return header, tensors


def read_header(path: Path, kind: Kind | None = None) -> Header:
    """Return the header of an artifact without reading its tensors."""
    header, _ = _read_entry(path)
    if kind is not None:
        _require_kind(path, header, kind)
    return header


def parse_header(content: dict[str, Any], path: Path) -> Header:
    """Return the header in a decoded JSON object, checked; `path` names the file in messages."""
    version = content.get("format")
    if version != FORMAT:
        raise ReflowError(
            f"{path} has artifact format {version!r} and this reflow reads {FORMAT}; "
            "use the version of reflow that wrote it, or a newer one"
        )
    _require_seal(content, path)
    try:
        header = Header(**{name: content[name] for name in Header.__dataclass_fields__})
    except KeyError as error:
        raise damaged(path, f"its header has no {error}") from error
    if not all(isinstance(part, dict) for part in (header.recipe, header.parents, header.facts)):
        raise damaged(path, "its recipe, parents or facts are not objects")
    return header


def tensor_layout(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return where the tensors begin, in bytes, and the name, dtype, shape, offsets of each."""
    try:
        with path.open("rb") as file:
            size_field = file.read(8)
            size = struct.unpack("<Q", size_field)[0] if len(size_field) == 8 else 0
            if not 2 <= size <= LARGEST_HEADER:
                raise foreign(path)
            text = file.read(size)
        layout = json.loads(text)
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        raise ReflowError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise foreign(path) from error
    if not isinstance(layout, dict):
        raise foreign(path)
    return 8 + size, layout


def preamble(header: Header, tensors: Mapping[str, tuple[str, tuple[int, ...], int]], begin: int) -> bytes:
    """Return the first `begin` bytes of a file in which tensors follow, each given as dtype, shape, bytes.

    The JSON is padded with blanks, as the format allows, so that it can be written after the tensors.
    """
    layout: dict[str, Any] = {"__metadata__": {ENTRY: header.sealed()}}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        layout[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = canonical(layout).encode()
    assert len(text) <= begin - 8 <= LARGEST_HEADER, "there is room for it"
    return struct.pack("<Q", begin - 8) + text.ljust(begin - 8)


def payload_digest(tensors: Mapping[str, "Tensor"]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of the tensors, sorted by name."""
    import torch

    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(canonical([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def of_others(path: Path) -> bool:
    """Return whether a file is a whole one of safetensors that somebody else wrote: without our entry."""
    try:
        _, layout = tensor_layout(path)
    except ReflowError:  # perhaps damaged
        return False
    metadata = layout.get("__metadata__")
    return not isinstance(metadata, dict) or ENTRY not in metadata


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReflowError(f"{path} cannot be read: {error.strerror or error}") from error


def missing(path: Path) -> ReflowError:
    """Return the error for a file that is not there, from what its folder holds instead."""
    folder, pairs = path.parent, path.name == PAIRS
    if path.name == MODEL and (folder / PAIRS).exists():
        return ReflowError(f"{folder} holds pairs, not a model; give the folder of a model")
    if path.name == MODEL and (folder / STATE).exists():
        return ReflowError(f"{folder} holds an unfinished model; run its command again to finish it")
    if pairs and (folder / MODEL).exists():
        return ReflowError(
            f"{folder} holds a model, not pairs; make them: reflow couple {folder} --out DIR"
        )
    if pairs and any(folder.glob(SHARDS)):
        return ReflowError(f"{folder} holds unfinished pairs; run their command again to finish them")
    remedy = "make the pairs with reflow couple" if pairs else "run the stage that makes it first"
    return ReflowError(f"{path} does not exist; {remedy}")


def damaged(path: Path, what: str) -> ReflowError:
    """Return the error for a file of ours that is not as we wrote it."""
    return ReflowError(f"{path} is damaged: {what}; restore it, or start over with --fresh")


def foreign(path: Path) -> ReflowError:
    """Return the error for a file that we did not write."""
    return ReflowError(f"{path} is not a reflow artifact (or it is cut short); check the path")


def _read_entry(path: Path) -> tuple[Header, str]:
    _, layout = tensor_layout(path)
    metadata = layout.get("__metadata__")
    if not isinstance(metadata, dict) or ENTRY not in metadata:
        raise foreign(path)
    try:
        content = json.loads(metadata[ENTRY])
    except ValueError as error:
        raise damaged(path, "its header is not JSON") from error
    if not isinstance(content, dict):
        raise foreign(path)
    return parse_header(content, path), str(content.get("payload"))


def _require_seal(content: dict[str, Any], path: Path) -> None:
    """Refuse a header that is not as it was written; earlier versions wrote none of these digests."""
    seal = content.get(SEAL)
    rest = {name: value for name, value in content.items() if name != SEAL}
    try:
        sound = seal == _content_digest(rest) if SEAL in content else content.keys() <= UNSEALED
    except ValueError:  # NaN and infinity, which JSON of ours does not hold
        sound = False
    if not sound:
        raise damaged(path, "its header does not match its digest")


def _content_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _require_kind(path: Path, header: Header, kind: Kind) -> None:
    if header.kind != kind:
        raise ReflowError(f"{path} holds {_article(header.kind)}, not {_article(kind)}; check the path")


def _article(kind: str) -> str:
    return kind if kind in ("averages", "pairs", "data", "features") else f"a {kind}"
