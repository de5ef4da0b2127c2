"""Every format gives the bytes that were stored, with their labels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from files import GREY, RGB, Array, channels_first, folder, idx, load, members, pack, write

from reflow.data import formats


@pytest.mark.parametrize("images", [RGB, GREY], ids=["rgb", "grey"])
def test_every_container_gives_the_stored_bytes_and_one_digest(tmp_path: Path, images: Array) -> None:
    np.savez(tmp_path / "a.npz", images=images)
    sources = [
        folder(tmp_path / "folder", images),
        tmp_path / "a.npz",
        pack(tmp_path / "a.zip", members(images)),
    ]
    if images.ndim == 3:
        sources.append(idx(tmp_path / "t-images-idx3-ubyte.gz", 0x803, images))
    for source in sources:
        data = load(source)
        np.testing.assert_array_equal(data.values, channels_first(images))
        assert data.values.dtype == np.uint8
        assert (data.labels, data.class_names) == (None, ())
    assert len({load(source).digest() for source in sources}) == 1


def test_digest_depends_on_content_and_not_on_path(tmp_path: Path) -> None:
    here = folder(tmp_path / "here")
    digest = load(here).digest()
    assert load(shutil.copytree(here, tmp_path / "there")).digest() == digest
    write(here / "000.png", RGB[0] ^ 1)
    assert load(here).digest() != digest


def test_digest_depends_on_labels_and_class_names(tmp_path: Path) -> None:
    digests = set()
    for name, labels in enumerate([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 2, 2]]):
        np.savez(tmp_path / f"{name}.npz", images=RGB, labels=np.array(labels))
        digests.add(load(tmp_path / f"{name}.npz").digest())
    assert len(digests) == 3


def test_sub_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    for row, name in enumerate(["dog/b.png", "cat/z.png", "dog/deep/a.PNG", "cat/a.png"]):
        write(tmp_path / name, RGB[row])
    for name in "gecbdaf":
        write(tmp_path / name / "a.png", RGB[0])
    data = load(tmp_path)
    assert data.class_names == ("a", "b", "c", "cat", "d", "dog", "e", "f", "g")
    np.testing.assert_array_equal(data.labels, [0, 1, 2, 3, 3, 4, 5, 5, 6, 7, 8])
    order = [0, 0, 0, 3, 1, 0, 0, 2, 0, 0, 0]
    np.testing.assert_array_equal(data.values, channels_first(RGB[order]))


def test_classes_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    for row, name in enumerate(["a/1.png", "a-b/1.png", "a/0.png"]):  # "-" comes before "/"
        write(tmp_path / name, RGB[row])
    data = load(tmp_path)
    assert data.class_names == ("a", "a-b")
    np.testing.assert_array_equal(data.labels, [0, 0, 1])
    np.testing.assert_array_equal(data.values, channels_first(RGB[[2, 0, 1]]))


def test_a_link_to_a_folder_is_a_class(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere")
    (tmp_path / "f").mkdir()
    for name in "ab":
        (tmp_path / "f" / name).symlink_to(tmp_path / "elsewhere")
    assert load(tmp_path / "f").class_names == ("a", "b")


@pytest.mark.parametrize("block", [1, 2500, 1 << 20])
def test_arrays_are_whole_whatever_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(formats, "BLOCK", block)
    samples = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    for name, save in {"a": np.savez, "b": np.savez_compressed}.items():
        save(tmp_path / f"{name}.npz", images=RGB)
        save(tmp_path / f"{name}-vectors.npz", samples=samples)
        np.testing.assert_array_equal(load(tmp_path / f"{name}.npz").values, channels_first(RGB))
        np.testing.assert_array_equal(load(tmp_path / f"{name}-vectors.npz").values, samples)
    np.savez(tmp_path / "c.npz", samples=np.asfortranarray(samples))
    np.testing.assert_array_equal(load(tmp_path / "c.npz").values, samples)
    source = idx(tmp_path / "t-images-idx3-ubyte.gz", 0x803, GREY)
    np.testing.assert_array_equal(load(source).values, channels_first(GREY))


def test_a_folder_ignores_hidden_and_foreign_files(tmp_path: Path) -> None:
    folder(tmp_path)
    for name in [".hidden.png", "._000.png", "notes.txt", "Thumbs.db", ".git/a.png", "docs/a.md"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not an image")
    (tmp_path / "dataset.json").write_text('{"license": "CC0"}')
    assert len(load(tmp_path)) == 4


@pytest.mark.parametrize("index", ["", "cifar10/"])
def test_edm_archives_have_the_labels_of_their_index(tmp_path: Path, index: str) -> None:
    content = {f"{index}{name}": image for name, image in members().items()}
    labels = [[name, label] for name, label in zip(members(), [10, 9, 10, -1], strict=True)]
    data = load(pack(tmp_path / "a.zip", content, labels[::-1], index))
    np.testing.assert_array_equal(data.labels, [2, 1, 2, 0])
    assert data.class_names == ("-1", "9", "10")
    np.testing.assert_array_equal(data.values, channels_first(RGB))
    assert load(pack(tmp_path / "b.zip", content, None, index)).labels is None


def test_an_unpacked_edm_archive_is_the_same_data(tmp_path: Path) -> None:
    for labels in [[[name, row % 3] for row, name in enumerate(members())], None]:
        archive = pack(tmp_path / "a.zip", members(), labels)
        shutil.unpack_archive(archive, tmp_path / "out")
        assert load(tmp_path / "out").digest() == load(archive).digest()


def test_archives_ignore_what_macos_adds(tmp_path: Path) -> None:
    extra = {"__MACOSX/00000/._img00000000.png": b"x", "readme.txt": b"x", "00000/": b""}
    assert len(load(pack(tmp_path / "a.zip", members() | extra))) == 4


def test_npz_labels_become_dense_and_keep_their_names(tmp_path: Path) -> None:
    labels = np.array([100, 7, 100, -3], np.int16)
    np.savez_compressed(tmp_path / "a.npz", images=GREY, labels=labels)
    data = load(tmp_path / "a.npz")
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    np.testing.assert_array_equal(data.labels, [2, 1, 2, 0])
    assert data.class_names == ("-3", "7", "100")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_npz_samples_are_float32_vectors(tmp_path: Path, dtype: str) -> None:
    samples = np.random.default_rng(0).normal(size=(5, 3)).astype(dtype)
    np.savez(tmp_path / "a.npz", samples=np.asfortranarray(samples), labels=np.arange(5))
    data = load(tmp_path / "a.npz")
    assert data.event == (3,)
    np.testing.assert_array_equal(data.values, samples.astype(np.float32))
    values, labels = data.take(np.array([4, 0]))
    np.testing.assert_array_equal(values.numpy(), samples[[4, 0]].astype(np.float32))
    assert labels is not None and labels.tolist() == [4, 0]


def test_idx_labels_are_found_beside_the_images(tmp_path: Path) -> None:
    path = idx(tmp_path / "t10k-images-idx3-ubyte.gz", 0x803, GREY)
    idx(tmp_path / "t10k-labels-idx1-ubyte.gz", 0x801, np.array([3, 5, 3, 9]))
    data = load(path)
    np.testing.assert_array_equal(data.labels, [0, 1, 0, 2])
    assert data.class_names == ("3", "5", "9")
