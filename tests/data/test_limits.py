"""No file takes more memory than what it should hold, however much it unpacks to."""

import gzip
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import GREY, RGB, folder, idx, load, members, pack, png, refused

from reflow.artifacts import read_header
from reflow.data.images import limited
from reflow.errors import ReflowError

LARGE = 5 << 24  # bytes that files unpack to
SMALL = LARGE // 4  # bytes that reading them may take


@pytest.fixture(autouse=True)
def sparing() -> Iterator[None]:
    """Fail if a test has more than SMALL bytes in memory at any time."""
    tracemalloc.start()
    yield
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < SMALL


def zeros(archive: zipfile.ZipFile, name: str, start: bytes = b"", count: int = LARGE) -> None:
    """Add a member that begins with `start` and goes on with zeros."""
    with archive.open(name, "w") as member:
        member.write(start)
        for _ in range(0, count, 1 << 20):
            member.write(bytes(1 << 20))


@pytest.mark.parametrize(
    ("start", "words"), [(b"", "not an image"), (png(GREY[0]), "more than its pixels and metadata take")]
)
def test_members_of_a_zip(tmp_path: Path, start: bytes, words: str) -> None:
    path = pack(tmp_path / "a.zip", members())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        zeros(archive, "00000/large.png", start)
    refused(path, "00000/large.png", words)
    assert len(load(path, skip_corrupt=True)) == 4


@pytest.mark.parametrize("start", [b"", png(GREY[0])])
def test_files_of_a_folder(tmp_path: Path, start: bytes) -> None:
    path = folder(tmp_path) / "large.png"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(LARGE)
    refused(tmp_path, str(path), "remove it")


def test_a_file_whose_size_in_pixels_stands_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    with path.open("wb") as file:
        file.write(b"II*\0\xf0\xff\xff\x0f")
        file.truncate(1 << 30)
    with (
        path.open("rb") as file,
        pytest.raises(ReflowError, match="more than its pixels and metadata take"),
    ):
        limited(file, str(path), 1 << 30)


def test_an_index_of_labels(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", members())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        zeros(archive, "dataset.json", b'{"labels": ')
    source = folder(tmp_path / "f")
    with (source / "dataset.json").open("wb") as file:
        file.write(b'{"labels": ')
        file.truncate(LARGE)
    for place in (path, source):
        refused(place, "dataset.json", "more than names and classes of 4 images take", labels=True)
        assert load(place).labels is None


@pytest.mark.parametrize("announced", [4, LARGE])
def test_labels_of_an_idx_file(tmp_path: Path, announced: int) -> None:
    path = idx(tmp_path / "t-images-idx3-ubyte.gz", 0x803, GREY)
    with gzip.open(tmp_path / "t-labels-idx1-ubyte.gz", "wb", compresslevel=1) as file:
        file.write(struct.pack(">II", 0x801, announced))
        for _ in range(0, LARGE, 1 << 20):
            file.write(bytes(1 << 20))
    refused(path, "t-labels-idx1-ubyte.gz", "announces" if announced == 4 else "labels for", labels=True)


@pytest.mark.parametrize("shape", [(1, 30_000, 30_000), (1 << 31, 28, 28)])
def test_images_of_an_idx_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "t-images-idx3-ubyte.gz"
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(">IIII", 0x803, *shape))
    refused(path, "cannot hold as images")


def long_header(file: Any) -> None:
    file.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", LARGE))
    for _ in range(0, LARGE, 1 << 20):
        file.write(b" " * (1 << 20))


def many_labels(file: Any) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (LARGE,)})
    for _ in range(0, LARGE, 1 << 20):
        file.write(bytes(1 << 20))


def large_image(file: Any) -> None:
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (1, 30_000, 30_000, 1)}
    )
    for _ in range(0, LARGE, 1 << 20):
        file.write(bytes(1 << 20))


@pytest.mark.parametrize(
    ("key", "written", "words"),
    [
        ("labels", long_header, f"its header has {LARGE} bytes"),
        ("labels", many_labels, "make it int64 [4]"),
        ("images", long_header, f"its header has {LARGE} bytes"),
        ("images", large_image, "too large to be read"),
    ],
)
def test_arrays_of_an_archive(tmp_path: Path, key: str, written: Callable[[Any], None], words: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **({"images": RGB} if key == "labels" else {"labels": np.arange(1)}))  # type: ignore[arg-type]
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{key}.npy", "w", force_zip64=True) as member,
    ):
        written(member)
    refused(path, str(path), key, words, labels=True)


def test_headers_of_artifacts(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        size = 90_000_000
        file.write(struct.pack("<Q", size) + b'{"__metadata__":[')
        for _ in range(size // 4000):
            file.write(b"[],[" * 1000)
    with pytest.raises(ReflowError, match="not a reflow artifact"):
        read_header(path)
