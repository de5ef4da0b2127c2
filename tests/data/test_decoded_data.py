"""Decoded data: the same bytes whoever decodes them, in a file that anybody may read."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from commands import Command, one_line
from files import GREY, RGB, Array, channels_first, folder, load, write

from reflow.data import Watch, formats, open_data, split, writer
from reflow.recipes.recipe import DataSettings

pytestmark = pytest.mark.usefixtures("place")


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


def test_a_changed_digit_in_the_header_of_decoded_data_is_noticed(
    tmp_path: Path, place: Path, reflow: Command
) -> None:
    """`inspect` refuses it, and a start decodes again."""
    np.savez(tmp_path / "a.npz", images=RGB, labels=np.array([1, 2, 2, 1]))
    load(tmp_path / "a.npz")
    (file,) = place.glob("*.safetensors")
    content = file.read_bytes()
    altered = content.replace(b'\\"skipped\\":0', b'\\"skipped\\":1')
    assert altered != content
    file.write_bytes(altered)
    assert "its header does not match its digest" in one_line(reflow("inspect", file))
    load(tmp_path / "a.npz")
    assert file.read_bytes() == content


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


@pytest.mark.parametrize("chunk", [1, 3000, writer.CHUNK])
@pytest.mark.parametrize("first_colour", [0, 1, 10, 11])
def test_the_first_colour_image_turns_all_before_it_into_rgb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, first_colour: int
) -> None:
    monkeypatch.setattr(writer, "CHUNK", chunk)
    expected = np.empty((12, 3, 32, 32), np.uint8)
    for row in range(12):
        grey = row < first_colour or row == 11 != first_colour
        image: Array = np.roll(GREY[0], row, 1) if grey else np.roll(RGB[0], row, 1)
        write(tmp_path / "f" / f"{row:02}.png", image)
        expected[row] = image[None] if grey else image.transpose(2, 0, 1)
    np.testing.assert_array_equal(load(tmp_path / "f").values, expected)


def test_progress_counts_bytes_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "IMAGES", 8)
    seen: list[tuple[str, int, int, str]] = []
    source = folder(tmp_path / "f", np.tile(GREY, (5, 1, 1)))
    open_data(DataSettings(source=str(source)), 0, Watch(lambda *what: seen.append(what)))
    counted = [(what, done) for what, done, total, unit in seen if (total, unit) == (20, "samples")]
    assert counted == [(f"decode {source}", 8), (f"decode {source}", 16), (f"decode {source}", 20)]
    assert {(what, unit) for what, _, _, unit in seen if unit != "samples"} == {(f"read {source}", "MB")}


MB = 1 << 20


@pytest.mark.parametrize("packed", [False, True])
def test_no_memory_of_the_size_of_the_data_is_taken(tmp_path: Path, place: Path, packed: bool) -> None:
    """The system may drop the pages of a map at any time; what counts is what is allocated."""
    n = 20_000
    images = np.broadcast_to(RGB[0], (n, 32, 32, 3))  # 61 MB
    save = np.savez_compressed if packed else np.savez
    save(tmp_path / "a.npz", images=images, labels=np.arange(n) % 10)
    tracemalloc.start()
    try:
        training, held_out = split(load(tmp_path / "a.npz"), 0.2, seed=0)
        _, opening = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for k in range(20):
            training.take(np.arange(k, 16_000, 250))
        held_out.digest()
        _, drawing = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    (file,) = place.glob("*.safetensors")
    assert file.stat().st_size > 58 * MB
    assert opening < 6 * MB  # a few blocks of 1 MiB, and labels and row numbers of 8 bytes
    assert drawing < 10 * MB  # those, and 4 MiB that are digested at a time
