"""Snapshots of averages on disk: their bytes, which are refused, summing them, discarding them."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reflow.artifacts import Header, read_artifact, write_artifact
from reflow.errors import ReflowError
from reflow.training import snapshots as module
from reflow.training.snapshots import discard_after, snapshots, weighted_sum, write_snapshot

HEADER = Header(
    kind="model",
    stage="train",
    rectification=1,
    recipe={"seed": 0, "train": {"steps": 40, "batch": 2}, "reflow": {"steps": 7}},
    parents={"data": "0" * 64},
    facts={"event": [2], "steps": 40},
)
WIDTHS = (0.05, 0.1)


def averages(step: int) -> dict[float, dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(step)
    return {
        width: {
            "enter.weight": torch.randn(3, 2, generator=rng),
            "enter.bias": torch.randn(3, generator=rng),
        }
        for width in WIDTHS
    }


def path_of(folder: Path, step: int) -> Path:
    return folder / f"averages-{step:08}.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four snapshots, as a training run leaves them."""
    for step in (10, 20, 30, 40):
        write_snapshot(tmp_path, HEADER, step, averages(step))
    write_artifact(tmp_path / "model.safetensors", averages(40)[0.1], HEADER)
    return tmp_path


def summed(folder: Path, *factors: float) -> dict[str, Tensor]:
    found = snapshots(folder)
    numbers = factors or (1.0,) * (len(WIDTHS) * len(found))
    return weighted_sum(found, np.array(numbers), lambda done: None)  # noqa: ARG005


def test_the_file_holds_the_averages_and_the_header_of_the_training(folder: Path) -> None:
    header, tensors = read_artifact(path_of(folder, 30), "averages")
    facts = HEADER.facts | {"step": 30, "widths": [0.05, 0.1]}
    assert header == replace(HEADER, kind="averages", facts=facts)
    wanted = {f"{w:g}.{name}": value for w, part in averages(30).items() for name, value in part.items()}
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], value) for name, value in wanted.items())
    assert snapshots(folder)[2].model_header() == HEADER


def test_equal_averages_give_equal_bytes_whatever_their_order_and_precision(folder: Path) -> None:
    before = path_of(folder, 30).read_bytes()
    other = {
        width: {name: value.double() for name, value in averages(30)[width].items()}
        for width in reversed(WIDTHS)
    }
    write_snapshot(folder, HEADER, 30, other)
    assert path_of(folder, 30).read_bytes() == before


def test_the_sum_is_that_of_all_averages_times_their_factors(folder: Path) -> None:
    factors = torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = summed(folder, *factors.tolist())
    for name in ("enter.weight", "enter.bias"):
        parts = [averages(step)[width][name] for step in (10, 20, 30, 40) for width in WIDTHS]
        wanted = torch.tensordot(factors, torch.stack(parts).double(), dims=1)
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], wanted.float(), rtol=1e-6, atol=1e-7)  # one rounding


def test_sums_are_made_in_float64(tmp_path: Path) -> None:
    for step, value in ((1, 1.0), (2, 1e-9), (3, -1.0)):
        write_snapshot(tmp_path, HEADER, step, {0.1: {"a": torch.full((2,), value)}})
    total = summed(tmp_path, 1, 1, 1)
    torch.testing.assert_close(total["a"], torch.full((2,), 1e-9), rtol=1e-6, atol=0)


def test_snapshots_may_track_different_widths(folder: Path) -> None:
    write_snapshot(folder, HEADER, 35, {0.2: averages(35)[0.1]})
    assert [found.widths for found in snapshots(folder)] == [*[(0.05, 0.1)] * 3, (0.2,), (0.05, 0.1)]
    found = summed(folder, *[0] * 6, 2, 0, 0)
    assert torch.equal(found["enter.bias"], 2 * averages(35)[0.1]["enter.bias"])


def test_one_snapshot_is_in_memory_at_a_time_and_only_if_it_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Tensor]] = []
    read = []

    def watched(path: Path, kind: Any) -> Any:
        assert not [tensor for tensor in alive if tensor() is not None]
        header, tensors = read_artifact(path, kind)
        alive.extend(weakref.ref(tensor) for tensor in tensors.values())
        read.append(path)
        return header, tensors

    monkeypatch.setattr(module, "read_artifact", watched)
    summed(folder, 1, 1, 0, 0, 1, 0, 0, 1)
    assert read == [path_of(folder, step) for step in (10, 30, 40)]


def test_progress_counts_the_snapshots_that_are_done(folder: Path) -> None:
    told: list[int] = []
    weighted_sum(snapshots(folder), np.ones(8), told.append)
    assert told == [1, 2, 3, 4]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def be_foreign(path: Path) -> None:
    path.write_bytes(b"something else")


def be_a_model(path: Path) -> None:
    path.write_bytes((path.parent / "model.safetensors").read_bytes())


def changed(change: Callable[[Header, dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """Return what writes a snapshot again, with another header or other tensors."""

    def rewrite(path: Path) -> None:
        header, tensors = change(*read_artifact(path, "averages"))
        write_artifact(path, tensors, header)

    return rewrite


def without(prefix: str) -> Callable[[Path], None]:
    return changed(
        lambda h, t: (h, {name: value for name, value in t.items() if not name.startswith(prefix)})
    )


def with_facts(**facts: Any) -> Callable[[Path], None]:
    return changed(lambda h, t: (replace(h, facts=h.facts | facts), t))


def with_recipe(**settings: Any) -> Callable[[Path], None]:
    return changed(lambda h, t: (replace(h, recipe=h.recipe | settings), t))


HARMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, "is damaged"),
    "altered": (alter, "do not match its digest"),
    "foreign": (be_foreign, "is not a reflow artifact"),
    "a model": (be_a_model, "holds a model, not averages"),
    "no tensor": (without("0.1.enter.bias"), "of width 0.1 are not those of the network"),
    "no width": (without("0.05."), "of width 0.05 are not those of the network"),
    "shape": (
        changed(lambda h, t: (h, {name: value[None] for name, value in t.items()})),
        "of width 0.05 are not those of the network",
    ),
    "no facts": (changed(lambda h, t: (replace(h, facts={}), t)), "are not those of averages ('step')"),
    "odd facts": (with_facts(widths=3), "its facts are not those of averages"),
    "odd width": (with_facts(widths=[0.05, 1.0]), "there is no average of widths (0.05, 1.0) at step 30"),
    "no widths": (with_facts(widths=[]), "there is no average of widths () at step 30"),
    "odd step": (with_facts(step=0), "there is no average of widths (0.05, 0.1) at step 0"),
    "parents": (changed(lambda h, t: (replace(h, parents={}), t)), "come from different training runs"),
    "stage": (changed(lambda h, t: (replace(h, stage="reflow"), t)), "come from different training runs"),
    "seed": (with_recipe(seed=5), "come from different training runs"),
    "batch": (with_recipe(train={"steps": 40, "batch": 3}), "come from different training runs"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_and_foreign_snapshots_are_named(folder: Path, harm: str) -> None:
    damage, words = HARMS[harm]
    damage(path_of(folder, 30))
    with pytest.raises(ReflowError) as caught:
        summed(folder)
    assert str(path_of(folder, 30)) in str(caught.value)
    assert words in str(caught.value)


def test_the_first_snapshot_has_every_width_it_names(folder: Path) -> None:
    without("0.05.")(path_of(folder, 10))
    with pytest.raises(ReflowError, match=r"averages-00000010.* of width 0.05 are not those"):
        summed(folder)


def test_a_training_continued_to_more_steps_is_still_one(folder: Path) -> None:
    with_recipe(train={"steps": 20, "batch": 2})(path_of(folder, 10))
    found = snapshots(folder)
    assert [snapshot.step for snapshot in found] == [10, 20, 30, 40]
    assert found[-1].model_header() == HEADER


def test_places_without_snapshots_are_refused(folder: Path, tmp_path: Path) -> None:
    discard_after(folder, 0)
    for path, words in (
        (folder, "holds no snapshots of averages"),
        (tmp_path / "missing", "is not a directory"),
        (folder / "model.safetensors", "is not a directory"),
    ):
        with pytest.raises(ReflowError, match=f"{path} {words}"):
            snapshots(path)


def test_snapshots_after_the_step_resumed_from_are_discarded(folder: Path) -> None:
    others = {"model.safetensors", "averages-of-mine.safetensors"}
    (folder / "averages-of-mine.safetensors").write_bytes(b"")
    discard_after(folder, 20)
    left = {path_of(folder, step).name for step in (10, 20)}
    assert {path.name for path in folder.iterdir()} == left | others
    cut(path_of(folder, 20))  # what a resumed training takes again may be damaged
    discard_after(folder, 0)
    assert {path.name for path in folder.iterdir()} == others


def test_more_than_eight_digits_of_steps_keep_their_order(tmp_path: Path) -> None:
    for step in (100_000_000, 99_999_999):
        write_snapshot(tmp_path, HEADER, step, averages(1))
    assert [found.step for found in snapshots(tmp_path)] == [99_999_999, 100_000_000]
    discard_after(tmp_path, 99_999_999)
    assert [path.name for path in tmp_path.iterdir()] == ["averages-99999999.safetensors"]


def test_writing_fails_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ReflowError, match=r"averages-00000001.safetensors cannot be written"):
        write_snapshot(tmp_path / "missing", HEADER, 1, averages(1))
    path_of(tmp_path, 9).mkdir()  # cannot be unlinked
    with pytest.raises(ReflowError, match=r"averages-00000009.safetensors cannot be written"):
        discard_after(tmp_path, 8)
