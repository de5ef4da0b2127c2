"""Sources of any format, decoded once into a file that is used by memory map from then on.

The file is named by the content of the source and the settings of decoding, and gets its name when it
is complete. One process makes it while others that want the same source wait. What is damaged or left
behind is made again: the cache may be deleted whenever nobody uses it.
"""

import contextlib
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reflow.artifacts import Header, canonical, read_header, tensor_layout
from reflow.artifacts.files import held, keep_names, write_atomically
from reflow.data.dataset import DataSet
from reflow.data.decoding import Skipped, fill, labels_left
from reflow.data.fingerprint import Stamp, content_key, recall, remember, stamp
from reflow.data.formats import Format, Watch, listing
from reflow.data.summary import summary
from reflow.data.writer import DTYPES, Growing, writing_cache
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings
from reflow.terminal import visible

DECODER = 1  # to be raised when all sources decode to other bytes than before
EXACT = 2  # of sources with an image that version 1 decoded to other pixels, or not at all
DECODING = ("size", "mode", "skip_corrupt")  # the settings that matter
STALE_SECONDS = 3600  # nobody leaves a file alone for so long while filling it
NUMPY = {safetensors: np.dtype(numpy) for numpy, safetensors in DTYPES.items()}


def cache_directory() -> Path:
    """Return where decoded data lies: $REFLOW_CACHE, $XDG_CACHE_HOME/reflow or ~/.cache/reflow."""
    if own := os.environ.get("REFLOW_CACHE"):
        return Path(own).expanduser()
    if (shared := os.environ.get("XDG_CACHE_HOME")) and Path(shared).is_absolute():
        return Path(shared) / "reflow"
    try:
        return Path.home() / ".cache" / "reflow"
    except RuntimeError as error:
        raise ReflowError("there is no home directory for the data cache; set REFLOW_CACHE") from error


def open_cached(path: Path, kind: Format, settings: DataSettings, watch: Watch) -> DataSet:
    """Return the data of a source by memory map; decode it first if that was not done or it changed."""
    source = _Source(path, kind, settings, watch, cache_directory() / "data")
    found = source.known()
    if found is None:
        with contextlib.suppress(OSError):  # what has to be written says so
            source.place.mkdir(parents=True, exist_ok=True)
        with _alone(source.own("lock"), f"{path}", watch) as locked:
            found = source.known() or source.made(locked=locked)
    if found.skipped:
        names = _list_beside(found.path)
        lines = names.read_text(errors="replace").splitlines() if names.exists() else []
        first = listing([line.partition("\t")[0] for line in lines])
        total = len(found.data) + found.skipped
        watch.say(
            f"{path}: {found.skipped} of {total} images left out as corrupt: {first} (reasons: {names})"
        )
    if settings.labels and (found.data.labels is None or _has_negative(found.data.class_names)):
        kind.read(path, settings)  # which may refuse a source whose labels are not classes, and say why
    watch.say(summary(f"{path}", found.data, found.notes, kind.left_out(path)))
    return found.data


def verify(path: Path) -> Header:
    """Return the header of a file of decoded data after reading all of it."""
    header, values, labels = _mapped(path)
    if DataSet(values, labels, tuple(header.facts["class_names"])).digest() != header.facts["digest"]:
        raise _damaged(path, "its contents do not match its digest")
    return header


class _Cached(NamedTuple):
    """Decoded data, the file it lies in, how many images were left out, and what was noticed in others."""

    data: DataSet
    path: Path
    skipped: int
    notes: Mapping[str, int]


@dataclass(frozen=True)
class _Source:
    """A source in the form that the settings ask for, and the directory of all decoded data."""

    path: Path
    kind: Format
    settings: DataSettings
    watch: Watch
    place: Path

    def own(self, suffix: str) -> Path:
        """Return the index, lock or unfinished file of this source, whatever the settings."""
        where = f"{self.path.resolve()}".encode(errors="surrogateescape")
        return self.place / f"{hashlib.sha256(where).hexdigest()[:32]}.{suffix}"

    def header(self, content: str) -> Header:
        """Return what is known of decoded data before it is decoded."""
        return Header(
            kind="data",
            stage="decode",
            rectification=0,
            recipe={"data": {name: getattr(self.settings, name) for name in DECODING}},
            parents={"source": content},
            facts={"decoder": DECODER},
        )

    def known(self) -> _Cached | None:
        """Return the data if the index knows the files as they are now, and their data is there."""
        content = recall(self.own("json"), stamp(self.path, self.kind.files(self.path)))
        return None if content is None else self.look_up(self.header(content))

    def look_up(self, header: Header) -> _Cached | None:
        """Return the data that this header is the beginning of, of the version that it takes.

        An earlier program left no notes: it did not know which images take the later version.
        """
        for decoder in sorted({DECODER, max(DECODER, EXACT)}):
            wanted = replace(header, facts={"decoder": decoder})
            found = _look_up(self.place, wanted)
            if found is not None and (found.notes or not self.kind.encoded):
                return found
        return None

    def made(self, *, locked: bool) -> _Cached:
        """Return the data after reading the source: it may be there under its content, or is decoded."""
        files = self.kind.files(self.path)
        before = stamp(self.path, files)
        header = self.header(content_key(self.kind.name, files, f"read {self.path}", self.watch))
        found = self.look_up(header) or self.decoded(header, before, locked=locked)
        remember(self.own("json"), before, header.parents["source"])
        return found

    def decoded(self, header: Header, before: Stamp, *, locked: bool) -> _Cached:
        """Decode the source into the file that its header names."""
        contents = self.kind.read(self.path, self.settings)
        part = self.own(f"{_host()}.{secrets.token_hex(8)}.part")
        header = _known_now(header, contents.class_names, "0" * 64, contents.count)
        with Growing(part, header, contents.count, labelled=contents.labels is not None) as file:
            if locked:
                self._clear_leftovers(part)
            skipped, decoder, seen = fill(file, contents, self.settings, f"decode {self.path}", self.watch)
            header = replace(header, facts={"decoder": max(DECODER, decoder)})
            if file.count < 2:
                raise ReflowError(f"--data {self.path}: {file.count} samples; at least two are needed")
            labels = labels_left(contents, skipped)
            digest = file.data(labels, contents.class_names).digest()
            header = _known_now(header, contents.class_names, digest, len(skipped))
            file.finish(header, labels)
            if stamp(self.path, self.kind.files(self.path)) != before:
                raise ReflowError(f"{self.path} changed while it was read; run the same command again")
            return _publish(part, _target(self.place, header), skipped, {"decoder": EXACT, **seen})

    def _clear_leftovers(self, part: Path) -> None:
        """Remove what killed processes left of this source; those of other hosts may be alive.

        A network disk may keep locks within each host.
        """
        now = part.stat().st_mtime
        for other in self.place.glob(self.own("*.part").name):
            with contextlib.suppress(FileNotFoundError):
                stale = now - other.stat().st_mtime > STALE_SECONDS
                if other != part and (stale or other.name.split(".")[1] == _host()):
                    other.unlink()


def _known_now(header: Header, class_names: tuple[str, ...], digest: str, skipped: int) -> Header:
    """Return the header with what is known after decoding."""
    facts = {"class_names": list(class_names), "digest": digest, "skipped": skipped}
    return replace(header, facts=header.facts | facts)


def _target(place: Path, header: Header) -> Path:
    """Return the file of decoded data, named by content, settings and version of the decoder."""
    key = canonical([header.parents, header.recipe, header.facts["decoder"]])
    return place / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


def _list_beside(path: Path) -> Path:
    return path.with_suffix(".skipped.txt")


def _notes_beside(path: Path) -> Path:
    return path.with_suffix(".notes")


def _notes(path: Path) -> Mapping[str, int]:
    """Return what was noticed while this was decoded; nothing if that was not noted, or damaged."""
    try:
        notes = json.loads(_notes_beside(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    sound = isinstance(notes, dict) and all(type(count) is int for count in notes.values())
    return notes if sound and notes.get("decoder", 0) >= EXACT else {}


def _has_negative(class_names: tuple[str, ...]) -> bool:
    return any(name[:1] == "-" and name[1:].isdigit() for name in class_names)


def _publish(part: Path, path: Path, skipped: list[Skipped], notes: Mapping[str, int]) -> _Cached:
    """Give a finished file its name, and put beside it what was left out and what was noticed."""
    write_atomically(_notes_beside(path), canonical(notes).encode())
    if skipped:
        cells = (
            [visible(cell, bytes_stay=True) for cell in (image.name, image.reason)] for image in skipped
        )
        lines = "".join(f"{name}\t{reason}\n" for name, reason in cells)
        write_atomically(_list_beside(path), lines.encode(errors="surrogateescape"))
    with writing_cache(path):
        part.replace(path)
        keep_names(path.parent)
    return _opened(path)


def _look_up(place: Path, wanted: Header) -> _Cached | None:
    """Return the data that this header is the beginning of; what is damaged counts as absent."""
    path = _target(place, wanted)
    if not path.exists():
        return None
    try:
        header = read_header(path, "data")
        same = (header.parents, header.recipe) == (wanted.parents, wanted.recipe)
        return _opened(path) if same and header.facts["decoder"] == wanted.facts["decoder"] else None
    except (ReflowError, KeyError):
        return None


def _opened(path: Path) -> _Cached:
    """Return decoded data by memory map; its bytes are trusted."""
    header, values, labels = _mapped(path)
    facts = header.facts
    data = DataSet(values, labels, tuple(facts["class_names"]), known_digest=facts["digest"])
    return _Cached(data, path, facts["skipped"], _notes(path))


def _mapped(path: Path) -> tuple[Header, NDArray[Any], NDArray[np.int64] | None]:
    """Return the header and the memory maps of values and labels after checking where they lie."""
    header = read_header(path, "data")
    start, layout = tensor_layout(path)
    arrays: dict[str, NDArray[Any]] = {}
    try:
        for name in sorted(layout.keys() - {"__metadata__"}):
            entry = layout[name]
            begin, end = entry["data_offsets"]
            arrays[name] = np.asarray(
                np.memmap(path, NUMPY[entry["dtype"]], "r", start + begin, tuple(entry["shape"]))
            )
            if arrays[name].nbytes != end - begin:
                raise ValueError("shape and offsets differ")
        if path.stat().st_size != start + end:
            raise ValueError("it is cut short")
        return header, arrays["values"], arrays.get("labels")
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _damaged(path, f"its tensors are not as announced ({error})") from error


@contextlib.contextmanager
def _alone(lock: Path, source: str, watch: Watch) -> Iterator[bool]:
    """Wait until no other process decodes this source; yield whether the disk knows locks.

    Without them, several may decode it at once, each into a file of its own.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(lock, "busy"))
            locked = True
        except ReflowError as error:
            locked = isinstance(error.__cause__, BlockingIOError)
            if locked:
                watch.say(f"{source} is being decoded by another process: waiting for it")
                stack.enter_context(held(lock))
        yield locked


def _damaged(path: Path, what: str) -> ReflowError:
    return ReflowError(f"{path} is damaged: {what}; delete it, and the source is decoded again")


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
