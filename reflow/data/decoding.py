"""Decoding the contents of a source into a file, on all processors; what happens to corrupt images."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reflow.data.formats import Contents, Corrupt, Part, Watch, listing
from reflow.data.workers import in_order, processes, processors
from reflow.data.writer import Growing
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

PARALLEL_BYTES = 1 << 22  # fewer are decoded before other processes have started


class Skipped(NamedTuple):
    """An image that was left out: the row it would have had, its name, and why."""

    row: int
    name: str
    reason: str


class Filled(NamedTuple):
    """What happened while a file was filled.

    decoder: the first version of the decoder that gives all this. seen: what was noticed, in how many
    images.
    """

    skipped: list[Skipped]
    decoder: int
    seen: Counter[str]


def fill(file: Growing, contents: Contents, settings: DataSettings, title: str, watch: Watch) -> Filled:
    """Append all samples to the file and return what happened.

    Raises ReflowError naming the corrupt images, after looking at all, where none may be left out.
    """
    skipped: list[Skipped] = []
    seen: Counter[str] = Counter()
    done, decoder = 0, 1
    with _decoding(contents) as blocks:
        for block in blocks:
            for part in block:
                decoder = max(decoder, part.decoder)
                if isinstance(part, Corrupt):
                    skipped.append(Skipped(done, part.name, part.refusal))
                elif settings.skip_corrupt or not skipped:
                    file.append(part)
                    seen.update(part.seen)
                done += 1 if isinstance(part, Corrupt) else len(part.values)
            watch.progress(title, done, contents.count, "samples")
    if skipped and not settings.skip_corrupt:
        raise _refusal(skipped, contents.count)
    return Filled(skipped, decoder, seen)


def labels_left(contents: Contents, skipped: list[Skipped]) -> NDArray[np.int64] | None:
    """Return the labels without those of images that were left out; refuse a class without images."""
    if contents.labels is None:
        return None
    labels = np.delete(contents.labels, [image.row for image in skipped])
    missing = np.flatnonzero(np.bincount(labels, minlength=len(contents.class_names)) == 0)
    if len(missing):
        raise ReflowError(
            f"all images of class {contents.class_names[missing[0]]!r} are corrupt; "
            "repair some, or remove the class"
        )
    return labels


@contextlib.contextmanager
def _decoding(contents: Contents) -> Iterator[Iterator[list[Part | Corrupt]]]:
    """Yield the decoded blocks in order; other processes help where that pays."""
    workers = processors()
    if contents.weight < PARALLEL_BYTES or workers == 1:
        yield (block() for block in contents.blocks)
    else:
        with processes(workers) as pool:
            yield in_order(contents.blocks, pool, workers)


def _refusal(corrupt: list[Skipped], count: int) -> ReflowError:
    """Return the error that names the corrupt images among `count`."""
    first, *others = corrupt
    as_well = ""
    if others:
        names = listing([image.name for image in others])
        as_well = f" (and so for {len(others)} more of {count} images: {names})"
    left_out = "them" if others else "it"
    return ReflowError(
        f"{first.reason}{as_well}, or leave {left_out} out with --set data.skip_corrupt=true"
    )
