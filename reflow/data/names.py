"""Which files are images: by their ending, or by their first bytes where there is none.

Hidden files, and what operating systems, network disks and photo managers keep beside images
(thumbnails, indexes, resource forks, trash), are never data.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".jfif", ".jpe", ".mpo", ".apng", ".avif", ".pbm", ".pnm", ".pfm", ".dib", ".tga", ".qoi"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pcx", ".sgi"),
)
INDEX = "dataset.json"
JUNK_FOLDERS = frozenset(
    (
        *("__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
        *("network trash folder", "temporary items"),
    )
)
JUNK_FILES = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "picasa.ini", "zbthumbnail.info")
)
PARTS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"))
HEAD = 16  # bytes
MARKS = (
    *(b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"qoif"),
    *(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "),
    *(b"P%d%c" % (kind, blank) for kind in range(1, 7) for blank in b" \t\r\n"),
)


class Listing(NamedTuple):
    """The files of a source by relative name, and how many others were left out, by ending."""

    files: dict[str, Path]
    left_out: Mapping[str, int]


def is_junk(name: str, *, folder: bool) -> bool:
    """Return whether a file or folder of this name, without its place, is never data."""
    return name[:1] == "." or name.lower() in (JUNK_FOLDERS if folder else JUNK_FILES)


def is_inside_junk(name: str) -> bool:
    """Return whether a file, or a folder above it, is never data; `name` is relative, with slashes."""
    *above, own = PurePosixPath(name).parts
    return is_junk(own, folder=False) or any(is_junk(part, folder=True) for part in above)


def ending(name: str) -> str:
    """Return the ending of a name in small letters, with its dot; empty if there is none."""
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return f".{last.lower()}" if dot and stem and last else ""


def is_image_head(head: bytes) -> bool:
    """Return whether a file that begins with these HEAD bytes is an image of a kind that is read."""
    boxed = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return boxed or head.startswith(MARKS) or head[4:12] in (b"ftypavif", b"ftypmif1")


def parts_of_a_set(names: Iterable[str]) -> list[str]:
    """Return folders like train and test if all files lie in such, which are no classes; else nothing.

    A single one counts if there are folders in it.
    """
    names = list(names)
    tops = sorted(
        {name.partition("/")[0] for name in names if "/" in name}, key=lambda top: "train" not in top
    )
    only = all("/" in name for name in names) and {top.lower() for top in tops} <= PARTS
    return tops if only and (len(tops) > 1 or any(name.count("/") > 1 for name in names)) else []


def largest_index(names: Iterable[str]) -> int:
    """Return how many bytes a `dataset.json` with a class for each of these images may have."""
    return (1 << 20) + sum(256 + 6 * len(name) for name in names)  # six: as in \u00e9


def looked_for() -> str:
    """Return the endings of images, for messages."""
    return ", ".join(SUFFIXES)


def by_ending(left_out: Counter[str] | Mapping[str, int]) -> str:
    """Return how many files have which ending, the most frequent first."""
    order = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count} {kind or 'without ending'}" for kind, count in order[:5]]
    rest = sum(count for _, count in order[5:])
    return ", ".join(told) + (f", {rest} others" if rest else "")
