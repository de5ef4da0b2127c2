"""Sources are decoded once; what is decoded is found again, and never taken for something else."""

import fcntl
import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, one_line
from files import GREY, RGB, Array, channels_first, folder, idx, load, members, pack, refused, write

from reflow.data import Watch, cache, contents, decoding, fingerprint, growing, open_data
from reflow.errors import ReflowError
from reflow.settings import DataSettings


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache, and count any time of a file as long ago."""
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprint, "SETTLED_NS", 0)
    return tmp_path / "cache" / "data"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of samples whenever a source is decoded."""
    counts: list[int] = []

    def counting(file: growing.Growing, contents: Any, *rest: Any) -> Any:
        counts.append(contents.count)
        return decoding.fill(file, contents, *rest)

    monkeypatch.setattr(cache, "fill", counting)
    return counts


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows whenever the bytes of a source are read to see whether they changed."""
    titles: list[str] = []

    def counting(kind: str, files: Any, title: str, watch: Watch) -> str:
        titles.append(title)
        return fingerprint.content_key(kind, files, title, watch)

    monkeypatch.setattr(cache, "content_key", counting)
    return titles


def everything(path: Path) -> dict[str, Path]:
    """Write the same grey images in every format."""
    np.savez(path / "a.npz", images=GREY)
    return {
        "folder": folder(path / "folder", GREY),
        "npz": path / "a.npz",
        "zip": pack(path / "a.zip", members(GREY)),
        "idx": idx(path / "t-images-idx3-ubyte.gz", 0x803, GREY),
    }


@pytest.mark.parametrize("kind", ["folder", "npz", "zip", "idx"])
def test_a_second_opening_decodes_and_reads_nothing(
    tmp_path: Path, decoded: list[int], digested: list[str], kind: str
) -> None:
    source = everything(tmp_path)[kind]
    for _ in range(3):
        data = load(source)
        np.testing.assert_array_equal(data.values, channels_first(GREY))
        assert not data.values.flags.owndata
    assert (decoded, len(digested)) == ([4], 1)


@pytest.mark.parametrize("kind", ["folder", "npz", "zip", "idx"])
def test_a_copy_elsewhere_is_read_but_not_decoded(tmp_path: Path, decoded: list[int], kind: str) -> None:
    source = everything(tmp_path)[kind]
    there = tmp_path / "there" / source.name
    there.parent.mkdir()
    digest = load(source).digest()
    (shutil.copytree if source.is_dir() else shutil.copy)(source, there)
    assert load(there).digest() == digest
    assert decoded == [4]


def test_settings_that_matter_have_files_of_their_own(tmp_path: Path, decoded: list[int]) -> None:
    source = folder(tmp_path / "f")
    shapes = {}
    for settings in ({}, {"size": 8}, {"size": 16}, {"mode": "grey"}, {"skip_corrupt": True}) * 2:
        shapes[str(settings)] = load(source, **settings).event  # type: ignore[arg-type]
    assert list(shapes.values()) == [(3, 32, 32), (3, 8, 8), (3, 16, 16), (1, 32, 32), (3, 32, 32)]
    assert len(decoded) == 5
    load(source, labels=True, held_out=0.5, flip=True, points=7)
    assert len(decoded) == 5


def change_pixels(source: Path) -> None:
    write(source / "002.png", RGB[1])


def keep_size_and_time(source: Path) -> None:
    """Change a byte of a file; size and time of modification stay, as after `cp --preserve`."""
    before = (source / "002.png").stat()
    shutil.copy(source / "003.png", source / "002.png")
    assert (source / "002.png").stat().st_size == before.st_size
    time.sleep(0.02)  # the clock of the file system ticks every few milliseconds
    os.utime(source / "002.png", ns=(before.st_atime_ns, before.st_mtime_ns))


def rename(source: Path) -> None:
    (source / "000.png").rename(source / "009.png")


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (change_pixels, [0, 1, 1, 3]),
        (keep_size_and_time, [0, 1, 3, 3]),
        (rename, [1, 2, 3, 0]),
        (lambda source: (source / "001.png").unlink(), [0, 2, 3]),
        (lambda source: write(source / "0005.png", RGB[2]), [0, 2, 1, 2, 3]),
    ],
    ids=["pixels", "time", "name", "fewer", "more"],
)
def test_any_change_of_a_source_is_noticed(
    tmp_path: Path, change: Callable[[Path], None], rows: list[int]
) -> None:
    source = tmp_path / "f"
    source.mkdir()
    for row, image in enumerate(RGB):  # of one size in bytes, too
        write(source / f"{row:03}.png", image, compress_level=0)
    load(source)
    time.sleep(0.02)
    change(source)
    np.testing.assert_array_equal(load(source).values, channels_first(RGB[rows]))


def test_a_class_of_another_name_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "f" / "cat" / "a.png", RGB[0])
    write(tmp_path / "f" / "dog" / "a.png", RGB[1])
    load(tmp_path / "f")
    (tmp_path / "f" / "cat").rename(tmp_path / "f" / "cow")
    assert load(tmp_path / "f").class_names == ("cow", "dog")


def test_labels_beside_idx_images_belong_to_the_content(tmp_path: Path) -> None:
    source = idx(tmp_path / "t-images-idx3-ubyte.gz", 0x803, GREY)
    assert load(source).labels is None
    idx(tmp_path / "t-labels-idx1-ubyte.gz", 0x801, np.array([3, 5, 3, 9]))
    np.testing.assert_array_equal(load(source).labels, [0, 1, 0, 2])


def test_files_written_just_now_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int], digested: list[str]
) -> None:
    """Within a tick of the clock they may change once more, and nobody could tell."""
    monkeypatch.setattr(fingerprint, "SETTLED_NS", 10**12)
    source = folder(tmp_path / "f")
    load(source)
    load(source)
    assert (decoded, len(digested)) == ([4], 2)


def test_a_damaged_index_never_gives_other_data(tmp_path: Path, place: Path) -> None:
    source, other = folder(tmp_path / "f", GREY), folder(tmp_path / "g", GREY[::-1])
    load(source)
    (index,) = place.glob("*.json")
    load(other)
    (of_other,) = set(place.glob("*.json")) - {index}
    entry, foreign = json.loads(index.read_bytes()), json.loads(of_other.read_bytes())
    swapped = entry | {"content": foreign["content"]}
    for text in ("", "{", "[]", "null", json.dumps(swapped), json.dumps(foreign), json.dumps({"stamp": 1})):
        index.write_text(text)
        np.testing.assert_array_equal(load(source).values, channels_first(GREY))


def test_a_damaged_file_of_decoded_data_is_made_anew(
    tmp_path: Path, place: Path, decoded: list[int]
) -> None:
    source = folder(tmp_path / "f")
    load(source)
    (file,) = place.glob("*.safetensors")
    content = file.read_bytes()
    for damage in (content[:-1], content + b"x", b"", content[:1000], b"x" + content[1:]):
        file.write_bytes(damage)
        np.testing.assert_array_equal(load(source).values, channels_first(RGB))
        assert file.read_bytes() == content
    assert len(decoded) == 6


def test_another_file_under_the_name_is_not_taken_for_the_data(tmp_path: Path, place: Path) -> None:
    source = folder(tmp_path / "f")
    load(source)
    (file,) = place.glob("*.safetensors")
    load(folder(tmp_path / "g", GREY))
    (other,) = set(place.glob("*.safetensors")) - {file}
    shutil.copy(other, file)
    np.testing.assert_array_equal(load(source).values, channels_first(RGB))


def test_data_of_an_earlier_decoder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    source = folder(tmp_path / "f")
    load(source)
    monkeypatch.setattr(cache, "DECODER", 2)
    load(source)
    assert len(decoded) == 2
    monkeypatch.setattr(cache, "DECODER", 1)
    load(source)
    assert len(decoded) == 2


def test_inspect_reads_decoded_data_whole(tmp_path: Path, place: Path, reflow: Command) -> None:
    np.savez(tmp_path / "a.npz", images=RGB, labels=np.array([1, 2, 2, 1]))
    digest = load(tmp_path / "a.npz").digest()
    (file,) = place.glob("*.safetensors")
    answer = reflow("inspect", file)
    assert answer.code == 0, answer.err
    assert "data of stage decode, complete and sound" in answer.out and digest in answer.out
    content = bytearray(file.read_bytes())
    for position in (len(content) - 1, content.index(b"\0\0\0\0\0\0\0", 4000)):  # a pixel, a label
        altered = bytearray(content)
        altered[position] ^= 1
        file.write_bytes(altered)
        assert "do not match its digest; delete it" in one_line(reflow("inspect", file))


def test_decoded_data_is_an_ordinary_safetensors_file(tmp_path: Path, place: Path) -> None:
    from safetensors.numpy import load_file

    np.savez(tmp_path / "a.npz", images=RGB[:3, :3, :3], labels=np.array([7, 9, 7]))
    load(tmp_path / "a.npz")
    (file,) = place.glob("*.safetensors")
    tensors = load_file(file)
    np.testing.assert_array_equal(tensors["values"], channels_first(RGB[:3, :3, :3]))
    np.testing.assert_array_equal(tensors["labels"], [0, 1, 0])


def test_equal_sources_give_equal_bytes(tmp_path: Path, place: Path) -> None:
    source = folder(tmp_path / "f")
    load(source)
    (file,) = place.glob("*.safetensors")
    content = file.read_bytes()
    shutil.rmtree(place)
    load(shutil.copytree(source, tmp_path / "g"))
    assert file.read_bytes() == content


@pytest.mark.parametrize("chunk", [1, 3000, growing.CHUNK])
@pytest.mark.parametrize("first_colour", [0, 1, 10, 11])
def test_the_first_colour_image_turns_all_before_it_into_rgb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, first_colour: int
) -> None:
    monkeypatch.setattr(growing, "CHUNK", chunk)
    expected = np.empty((12, 3, 32, 32), np.uint8)
    for row in range(12):
        grey = row < first_colour or row == 11 != first_colour
        image: Array = np.roll(GREY[0], row, 1) if grey else np.roll(RGB[0], row, 1)
        write(tmp_path / "f" / f"{row:02}.png", image)
        expected[row] = image[None] if grey else image.transpose(2, 0, 1)
    np.testing.assert_array_equal(load(tmp_path / "f").values, expected)


@pytest.mark.parametrize("kind", ["folder", "npz", "zip", "idx"])
def test_other_processes_decode_the_same_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = everything(tmp_path)[kind]
    if kind == "folder":
        for row in range(4, 40):
            write(source / f"{row:03}.png", RGB[row % 4] if row == 35 else np.roll(GREY[0], row))
        (source / "017.png").write_bytes(b"")
    expected = load(source, size=16, skip_corrupt=True).values.copy()
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr(decoding, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(decoding, "processors", lambda: 2)
    np.testing.assert_array_equal(load(source, size=16, skip_corrupt=True).values, expected)
    if kind == "folder":
        assert len(expected) == 39
        refused(source, "017.png", size=16)


def test_progress_counts_bytes_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "IMAGES", 8)
    seen: list[tuple[str, int, int, str]] = []
    source = folder(tmp_path / "f", np.tile(GREY, (5, 1, 1)))
    open_data(DataSettings(source=str(source)), 0, Watch(lambda *what: seen.append(what)))
    counted = [(what, done) for what, done, total, unit in seen if (total, unit) == (20, "samples")]
    assert counted == [(f"decode {source}", 8), (f"decode {source}", 16), (f"decode {source}", 20)]
    assert {(what, unit) for what, _, _, unit in seen if unit != "samples"} == {(f"read {source}", "MB")}


# Where it lies, and what stands in the way


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
    needed = growing.PAGE + 400 * 3 * 32 * 32
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(growing.shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    refused(source, "1.2 MB", str(place), "REFLOW_CACHE")
    assert not [*place.glob("*.part"), *place.glob("*.safetensors")]
    monkeypatch.setattr(growing.shutil, "disk_usage", lambda _: usage._replace(free=needed))
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
    refused(source, str(source), "changed while it was read", "give the same command again")
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


def test_a_message_that_refuses_is_the_same_from_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "f")
    (source / "001.png").write_bytes(b"")
    messages = []
    for limit in (decoding.PARALLEL_BYTES, 0):
        monkeypatch.setattr(decoding, "PARALLEL_BYTES", limit)
        monkeypatch.setattr(decoding, "processors", lambda: 2)
        with pytest.raises(ReflowError) as caught:
            load(source)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
