"""couple --invert: real training images with the noise that the model's ODE takes them to."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Answer, Command, Exact, artifacts, one_line
from torch import Tensor

from reflow import integrate, load_model
from reflow.artifacts import read_header
from reflow.data import DataSet, open_data, split
from reflow.flow import Pair
from reflow.pairs.store import open_pairs, read_index
from reflow.recipes.recipe import DataSettings
from reflow.solvers.plan import fixed_plan
from reflow.solvers.solution import follow

METHOD = ("--tolerance", 1e-3)
STEP = 2 / 255  # between two grey levels of 8 bits
OPEN = ("--set", "couple.noise_gate=[0.001,1000]", "--set", "couple.round_trip_gate=9")


def invert(reflow: Command, model: Path, out: Path, *options: object) -> Answer:
    return reflow("couple", model, "--invert", "--out", out, *METHOD, *options)


def pairs_of(directory: Path) -> Pair:
    store = open_pairs(directory)
    return store.take(np.arange(len(store)))


def halves_of_the_data(model: Path) -> tuple[DataSet, DataSet]:
    """Return training and held-out data, as the model's training split them."""
    how = read_header(model / "model.safetensors").facts["split"]
    whole = open_data(DataSettings(source="digits", labels=True), how["seed"])
    return split(whole, how["held_out"], how["seed"])


def nearest(image: Tensor, data: DataSet) -> tuple[Tensor, Tensor]:
    """Return the row of the nearest image of the data, and the largest difference of a pixel to it."""
    values, _ = data.take(np.arange(len(data)))
    off = (image[:, None] - values[None]).abs().flatten(2).amax(2)
    return off.argmin(1), off.amin(1)


def test_every_training_image_and_no_other_comes_with_its_label(
    reflow: Command, labelled: Path, tmp_path: Path, exact: Exact
) -> None:
    assert invert(reflow, labelled, tmp_path / "x", *OPEN).code == 0
    pair = pairs_of(tmp_path / "x")
    training, held_out = halves_of_the_data(labelled)
    rows, off = nearest(pair.x1, training)
    assert rows.tolist() == list(range(len(training)))
    assert float(off.max()) <= STEP / 2 + 1e-6  # each grey level spread evenly
    assert float((pair.x1 - training.take(rows.numpy())[0]).std()) == pytest.approx(
        STEP / 12**0.5, rel=0.02
    )
    assert float(nearest(pair.x1, held_out)[1].min()) > STEP
    assert pair.label is not None
    assert training.labels is not None
    assert pair.label.tolist() == training.labels.tolist()
    # The flow backwards is known; the tolerance is of the pilot's own, here of unlike images.
    off_noise = pair.x0 - exact.begin(pair.x1, pair.label)
    assert float(off_noise.square().mean().sqrt()) <= 2 * 1e-3


def test_the_stored_noise_leads_forwards_to_the_stored_image(
    reflow: Command, labelled: Path, tmp_path: Path
) -> None:
    """With a trained network, and a solver that knows nothing of the plan."""
    options = ("--tolerance", 0.01, *OPEN)
    assert reflow("couple", labelled, "--invert", "--out", tmp_path / "x", *options).code == 0
    pair = pairs_of(tmp_path / "x")
    model = load_model(labelled)
    solved = integrate(model, pair.x0, solver="dopri5", tolerance=1e-4, label=pair.label).x1
    # Errors at the noise are those of the images, stretched on the way forwards.
    assert float((solved - pair.x1).square().mean().sqrt()) <= 3 * 0.01


def test_the_index_records_noise_round_trip_and_the_data(
    reflow: Command, labelled: Path, tmp_path: Path, exact: Exact
) -> None:
    assert invert(reflow, labelled, tmp_path / "x", *OPEN).code == 0
    pair = pairs_of(tmp_path / "x")
    header, shards = read_index(tmp_path / "x" / "pairs.json")
    assert header.parents == {
        "model": load_model(labelled).digest,
        "data": load_model(labelled).header.facts["split"]["data"],
    }
    assert header.facts["inverted"]
    assert header.facts["count"] == len(pair.x0) == sum(header.facts["nfe_histogram"].values())
    sizes = exact.begin(pair.x1, pair.label).flatten(1).square().mean(1).split(20)
    for shard, size in zip(shards, sizes, strict=True):
        wanted = [float(size.min()), float(size.mean()), float(size.max())]
        assert shard["noise_square"] == pytest.approx(wanted, rel=0.01)  # the tolerance, squared up
        assert 0 < shard["round_trip_rms"] <= shard["round_trip_worst"] < 0.02
        assert shard["dropped"] == 0


def test_pairs_outside_the_gates_are_dropped_and_counted(
    reflow: Command,
    labelled: Path,
    tmp_path: Path,
    exact: Exact,  # noqa: ARG001
) -> None:
    assert invert(reflow, labelled, tmp_path / "all", *OPEN).code == 0
    everything = pairs_of(tmp_path / "all")
    size = everything.x0.flatten(1).square().mean(1)
    low, high = (round(float(size.quantile(share)), 3) for share in (0.3, 0.6))
    keep = (size >= low) & (size <= high)
    gate = ("--set", f"couple.noise_gate=[{low},{high}]", "--set", "couple.round_trip_gate=9")
    answer = invert(reflow, labelled, tmp_path / "gated", *gate)
    assert answer.code == 0, answer.err
    kept = pairs_of(tmp_path / "gated")
    assert torch.equal(kept.x0, everything.x0[keep])
    assert torch.equal(kept.x1, everything.x1[keep])
    files = sorted((tmp_path / "gated").glob("pairs-*"))
    dropped = [read_header(path).facts["dropped"] for path in files]
    assert dropped == [int((~part).sum()) for part in keep.split(20)]
    (tmp_path / "gated" / "pairs.json").unlink()  # shards with few pairs or none count as done
    before = [path.stat().st_mtime_ns for path in files]
    assert invert(reflow, labelled, tmp_path / "gated", *gate).code == 0
    assert [path.stat().st_mtime_ns for path in files] == before
    assert torch.equal(pairs_of(tmp_path / "gated").x0, kept.x0)


def test_images_that_do_not_come_back_are_dropped(
    reflow: Command, labelled: Path, tmp_path: Path, exact: Exact
) -> None:
    gate = ("--set", "couple.noise_gate=[0.001,1000]", "--set", "couple.round_trip_gate={}")
    rough = ("couple", labelled, "--invert", "--steps", 6, "--solver", "euler", "--grid", "shifted")
    assert reflow(*rough, "--out", tmp_path / "x", *OPEN).code == 0
    pair = pairs_of(tmp_path / "x")
    through_the_same_times = fixed_plan("euler", 6, "shifted")
    again = follow(through_the_same_times, exact.velocity, pair.x0, label=pair.label).x1
    trip = (again - pair.x1).flatten(1).square().mean(1).sqrt()
    middle = round(float(trip.median()), 4)
    assert reflow(*rough, "--out", tmp_path / "y", *gate[:3], gate[3].format(middle)).code == 0
    assert torch.equal(pairs_of(tmp_path / "y").x0, pair.x0[trip <= middle])
    line = one_line(reflow(*rough, "--out", tmp_path / "z", *gate[:3], gate[3].format(1e-6)))
    assert "every pair fell outside the gates; widen couple.noise_gate or couple.round_trip_gate" in line


def test_other_data_is_refused(reflow: Command, labelled: Path, tmp_path: Path) -> None:
    options: Any
    for options in (("--data", "two-moons"), ("--set", "data.size=6"), ("--set", "data.source=two-moons")):
        line = one_line(invert(reflow, labelled, tmp_path / "x", *options))
        assert "is not the data that the model was trained on" in line
        assert not (tmp_path / "x").exists()
    generated = ("couple", labelled, "--out", tmp_path / "x", *METHOD, "--set", "couple.count=90")
    assert reflow(*generated).code == 0
    before = artifacts(tmp_path / "x")
    line = one_line(invert(reflow, labelled, tmp_path / "x", "--set", "couple.count=90"))
    assert "it was made from other data" in line
    assert artifacts(tmp_path / "x") == before


def test_a_solver_that_goes_one_way_only_is_refused(
    reflow: Command,
    labelled: Path,
    tmp_path: Path,
    exact: Exact,  # noqa: ARG001
) -> None:
    arguments = ("couple", labelled, "--invert", "--solver", "dpm2m", "--steps", 6, "--out", tmp_path / "x")
    assert "solver dpm2m goes from t = 0 to t = 1 only" in one_line(reflow(*arguments))


@pytest.mark.parametrize(
    "options",
    [("--compile",), ("--part", "1/2"), ("--labels", "1"), ("--count", 9), ("--against", "pairs")],
)
def test_options_that_an_inversion_would_not_follow_are_refused(
    reflow: Command, labelled: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    assert f"{options[0]}" in one_line(invert(reflow, labelled, tmp_path / "x", *options), 2)
    assert not (tmp_path / "x").exists()


def test_an_inversion_that_stopped_goes_on_where_it_was(
    reflow: Command,
    labelled: Path,
    tmp_path: Path,
    exact: Exact,  # noqa: ARG001
) -> None:
    assert invert(reflow, labelled, tmp_path / "calm", *OPEN).code == 0
    out = Path(shutil.copytree(tmp_path / "calm", tmp_path / "x"))
    paths = sorted(out.glob("pairs*"))
    for path in paths[3:]:
        path.unlink()
    before = [path.stat().st_mtime_ns for path in paths[:3]]
    assert invert(reflow, labelled, out, *OPEN).code == 0
    assert artifacts(out) == artifacts(tmp_path / "calm")
    assert [path.stat().st_mtime_ns for path in paths[:3]] == before


def test_generated_and_inverted_pairs_train_together(
    reflow: Command,
    labelled: Path,
    tmp_path: Path,
    exact: Exact,  # noqa: ARG001
) -> None:
    assert invert(reflow, labelled, tmp_path / "inverted", *OPEN).code == 0
    assert reflow("couple", labelled, "--out", tmp_path / "generated").code == 0
    answer = reflow(
        *("train", "--init", labelled, "--out", tmp_path / "reflow", "--set", "reflow.label_dropout=0.1"),
        *("--pairs", tmp_path / "generated", "--pairs", tmp_path / "inverted", "--weights", "0.8,0.2"),
    )
    assert answer.code == 0, answer.err
    header = read_header(tmp_path / "reflow" / "model.safetensors")
    assert header.facts["weights"] == [0.8, 0.2]
    assert header.parents["pairs-2"] == open_pairs(tmp_path / "inverted").digest


def test_points_are_inverted_as_they_are(reflow: Command, tmp_path: Path, exact: Exact) -> None:
    settings = ("--set", "data.points=300", "--set", "train.steps=2", "--set", "model.width=8")
    assert reflow("train", "gaussians", "--out", tmp_path / "base", *settings).code == 0
    answer = invert(reflow, tmp_path / "base", tmp_path / "x", *OPEN)
    assert answer.code == 0, answer.err
    pair = pairs_of(tmp_path / "x")
    assert len(pair.x0) == 240  # held_out is a fifth
    # As above: the RMS error is of the order of the tolerance.
    assert float((pair.x0 - exact.begin(pair.x1)).square().mean().sqrt()) <= 2 * 1e-3
