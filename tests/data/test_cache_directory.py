"""Where decoded data lies, and what stands in the way of writing it."""

import fcntl
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import RGB, channels_first, folder, load, refused, write

from reflow.data import cache, decoding, writer

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"REFLOW_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"REFLOW_CACHE": "~/a"}, "/home/me/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/reflow"),
        ({"XDG_CACHE_HOME": "b"}, "/home/me/.cache/reflow"),  # the standard has relative ones ignored
        ({"REFLOW_CACHE": ""}, "/home/me/.cache/reflow"),
    ],
)
def test_the_cache_lies_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("REFLOW_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/me"} | variables).items():
        monkeypatch.setenv(name, value)
    assert cache.cache_directory() == Path(expected)


def test_a_disk_without_room_is_refused_before_the_work(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "f", np.tile(RGB, (100, 1, 1, 1)))
    needed = writer.PAGE + 400 * 3 * 32 * 32
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    refused(source, "takes 1.3 MB", f"{place} has 1.2 MB free", "REFLOW_CACHE")
    assert not [*place.glob("*.part"), *place.glob("*.safetensors")]
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert len(load(source)) == 400


def test_a_disk_that_fills_up_is_one_line_and_nothing_stays(tmp_path: Path, place: Path) -> None:
    source = folder(tmp_path / "f")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # bytes of any file
        refused(source, str(place), "cannot be written: File too large", "REFLOW_CACHE")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [*place.glob("*.part"), *place.glob("*.safetensors")]
    assert len(load(source)) == 4


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "file"))
    refused(folder(tmp_path / "f"), str(tmp_path / "file"), "cannot be written", "choose another place")


def test_a_source_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "f")

    def change_meanwhile(*arguments: Any) -> Any:
        time.sleep(0.02)
        write(source / "003.png", RGB[0])
        return decoding.fill(*arguments)

    monkeypatch.setattr(cache, "fill", change_meanwhile)
    refused(source, str(source), "changed while it was read", "run the same command again")
    assert not [*place.glob("*.part"), *place.glob("*.safetensors")]
    monkeypatch.undo()
    np.testing.assert_array_equal(load(source).values, channels_first(RGB[[0, 1, 2, 0]]))


def test_a_file_that_vanishes_is_not_taken_for_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "f")

    def remove_before(*arguments: Any) -> Any:
        (source / "003.png").unlink()
        return decoding.fill(*arguments)

    monkeypatch.setattr(cache, "fill", remove_before)
    refused(source, "003.png", "cannot be read", skip_corrupt=True)


def test_a_disk_without_locks_serves_several_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    source = folder(tmp_path / "f")
    opened = []

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(cache, "fill", decoding.fill)
        opened.append(load(source))  # another process decodes it from beginning to end
        return decoding.fill(*arguments)

    monkeypatch.setattr(cache, "fill", meanwhile)
    opened.append(load(source))
    for data in opened:
        np.testing.assert_array_equal(data.values, channels_first(RGB))
    assert len(list(place.glob("*.safetensors"))) == 1
    assert not list(place.glob("*.part"))


def test_leftovers_of_this_host_and_stale_ones_are_removed(tmp_path: Path, place: Path) -> None:
    source = folder(tmp_path / "f")
    load(source)
    (lock,) = place.glob("*.lock")
    names = {
        "dead": f"{lock.stem}.{cache._host()}.0123.part",
        "stale": f"{lock.stem}.other.0123.part",
        "alive": f"{lock.stem}.other.4567.part",
        "of another source": f"{'0' * 32}.{cache._host()}.0123.part",
    }
    for name in names.values():
        (place / name).touch()
    long_ago = time.time() - 2 * cache.STALE_SECONDS
    os.utime(place / names["stale"], (long_ago, long_ago))
    load(source, size=8)
    left = {path.name for path in place.glob("*.part")}
    assert left == {names["alive"], names["of another source"]}
