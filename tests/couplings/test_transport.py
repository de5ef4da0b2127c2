"""Minibatch optimal transport: the cheapest assignment, and nothing else about a batch changes."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, Command, one_line
from fields import batch_of, examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import Numbered, rng
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from reflow.artifacts import read_header
from reflow.couplings import Independent
from reflow.couplings.transport import Transported, assignment
from reflow.flow import Pair
from reflow.randomness import draws

CPU = torch.device("cpu")


def pair_of(n: int, dimension: int, classes: int | None, seed: int) -> Pair:
    source = rng(seed)
    x0, x1 = torch.randn(2, n, dimension, generator=source)
    label = None if classes is None else torch.randint(classes, (n,), generator=source)
    return Pair(x0, 2 + 3 * x1, label)


def costs(pair: Pair) -> NDArray[np.float64]:
    """Return |x1 - x0|^2 for all data and noise, infinite between classes."""
    x0, x1, label = pair
    cost = (x1.double()[:, None] - x0.double()[None]).square().sum(-1)
    if label is not None:
        cost[label[:, None] != label[None]] = torch.inf
    return np.asarray(cost.numpy(), np.float64)


def total(cost: NDArray[np.float64], chosen: NDArray[np.int64]) -> float:
    return float(cost[np.arange(len(cost)), chosen].sum())


sizes = given(
    n=st.integers(1, 40),
    dimension=st.integers(1, 6),
    classes=st.sampled_from([None, 1, 2, 5]),
    seed=st.integers(0, 99),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@sizes
def test_an_assignment_is_the_cheapest_within_classes(
    n: int, dimension: int, classes: int | None, seed: int
) -> None:
    pair = pair_of(n, dimension, classes, seed)
    cost, chosen = costs(pair), assignment(pair)
    assert sorted(chosen.tolist()) == list(range(n))
    if pair.label is not None:
        assert torch.equal(pair.label[torch.from_numpy(chosen)], pair.label)
    # Rounding of sums in float64.
    assert total(cost, chosen) <= total(cost, np.arange(n)) * (1 + 1e-12)
    _, optimum = linear_sum_assignment(cost)
    assert total(cost, chosen) == pytest.approx(total(cost, optimum), rel=1e-12)


@pytest.mark.parametrize("classes", [None, 2])
@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_no_permutation_is_cheaper(n: int, classes: int | None) -> None:
    for seed in range(5):
        pair = pair_of(n, 2, classes, seed)
        cost = costs(pair)
        least = min(total(cost, np.array(order)) for order in itertools.permutations(range(n)))
        assert total(cost, assignment(pair)) == pytest.approx(least, rel=1e-12)


def test_on_a_line_the_order_is_kept() -> None:
    """The map of optimal transport is monotone there, whatever the laws."""
    pair = pair_of(200, 1, None, seed=0)
    given_noise = pair.x0[torch.from_numpy(assignment(pair)), 0]
    assert torch.equal(given_noise[pair.x1[:, 0].argsort()], pair.x0[:, 0].sort().values)


def test_the_transport_cost_comes_near_to_the_one_of_the_laws() -> None:
    """From N(0, 1) to N(m, s^2) it is m^2 + (s - 1)^2; independent it is m^2 + s^2 + 1."""
    n = 500
    data = Numbered(0.5 + 0.3 * torch.randn(n, 1, generator=rng(1)))
    independent = Independent(data, seed=0)
    apart, joined = (examples(c, 0, n, rng()) for c in (independent, Transported(independent, n)))
    cost = [float((pair.x1 - pair.x0).square().mean()) for pair in (apart, joined)]
    # Standard deviations: 2 / sqrt(n) of the mean of independent |x1 - x0|^2; means of both samples err by
    # 1 / sqrt(n) and their deviations by less, which moves the assigned cost by (1 + 0.7) / sqrt(n).
    assert cost == pytest.approx([0.25 + 0.09 + 1, 0.25 + 0.49], abs=3 * 2 / n**0.5)
    assert cost[1] < 0.7 * cost[0]


def images(n: int, *, labelled: bool) -> Numbered:
    return Numbered(torch.rand(n, 1, 4, 4, generator=rng(3)), torch.arange(n) % 3 if labelled else None)


@pytest.mark.parametrize("labelled", [True, False])
def test_only_noise_changes_its_place_and_within_group_and_class(labelled: bool) -> None:
    independent = Independent(images(31, labelled=labelled), seed=0, flip=True)
    sources = rng(5), rng(5)
    plain = independent.draw(np.arange(24, 48), batch_of(24, sources[0]))
    found = Transported(independent, 8).draw(np.arange(24, 48), batch_of(24, sources[1]))
    assert torch.equal(found.x1, plain.x1)
    assert torch.equal(sources[0].get_state(), sources[1].get_state())  # times are drawn from what is left
    label = torch.zeros(24) if plain.label is None or found.label is None else plain.label
    if found.label is not None:
        assert torch.equal(found.label, label)
    group = torch.arange(24) // 8
    moved = 0
    for g, k in itertools.product(range(3), label.unique()):
        inside = (group == g) & (label == k)
        before, after = (sorted(pair.x0[inside].flatten(1).tolist()) for pair in (plain, found))
        assert before == after
        moved += int((plain.x0[inside] != found.x0[inside]).flatten(1).any(1).sum())
    assert moved > 8
    whole, parts = (float((p.x1 - p.x0).square().sum()) for p in (plain, found))
    assert parts < whole


def test_steps_have_noise_of_their_own_and_the_same_draws_give_the_same() -> None:
    coupling = Transported(Independent(images(31, labelled=True), seed=0), 8)

    def noise(step: int) -> Tensor:
        chosen = draws(CPU, 16, seed=1, stream="test", step=step)
        return coupling.draw(16 * step + np.arange(16), chosen).x0

    assert torch.equal(noise(3), noise(3))
    assert not torch.isin(noise(3), noise(4)).any()


LABELS = ("--set", "data.labels=true")
BOTH = ("--set", "train.transport=8", "--set", "train.weighting=uncertainty")


def steps(count: int) -> tuple[str, ...]:
    return ("--set", f"train.steps={count}")


def test_both_settings_train_to_the_same_bytes_after_an_interruption(
    reflow: Command, tmp_path: Path
) -> None:
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    for out, count in ((whole, 4), (grown, 2), (grown, 4)):
        answer = reflow("train", TINY, "--out", out, *LABELS, *BOTH, *steps(count))
        assert answer.code == 0, answer.err
    assert (whole / "model.safetensors").read_bytes() == (grown / "model.safetensors").read_bytes()
    header = read_header(whole / "model.safetensors")
    assert header.recipe["train"]["transport"] == 8
    assert header.recipe["train"]["weighting"] == "uncertainty"
    answer = reflow("train", TINY, "--out", whole, *LABELS, *steps(4))
    assert "train.transport is 8 there and None now" in one_line(answer)


def test_all_losses_that_are_told_are_of_the_coupling_that_is_asked_for(
    reflow: Command, tmp_path: Path
) -> None:
    """Shorter paths have smaller velocities, so a network that knows nothing yet has a smaller loss."""
    still = ("--set", "train.lr=1e-12", "--set", "train.validate_every=1", "--set", "train.log_every=1")
    lines = []
    for name, change in (("plain", ()), ("near", ("--set", "train.transport=16"))):
        assert reflow("train", TINY, "--out", tmp_path / name, *still, *change, *steps(1)).code == 0
        lines.append(json.loads((tmp_path / name / "log.jsonl").read_text()))
    for key in ("loss", "held_out_loss", "training_loss"):
        assert lines[1][key] < 0.97 * lines[0][key]
    usual = read_header(tmp_path / "plain" / "model.safetensors").to_json()
    assert "transport" not in usual
    assert "weighting" not in usual


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.transport=5", "train: transport = 5 does not divide batch = 16; set it to a divisor"),
        ("train.transport=32", "train: transport = 32 does not divide batch = 16; set it to a divisor"),
        ("train.transport=1", "train.transport = 1: "),
        ("reflow.transport=8", "unknown key reflow.transport"),
        ("distill.transport=8", "unknown key distill.transport"),
        ("distill.weighting=uncertainty", "unknown key distill.weighting"),
        ("train.weighting=certainty", "train.weighting"),
    ],
)
def test_settings_that_could_do_nothing_are_refused(
    reflow: Command, tmp_path: Path, change: str, message: str
) -> None:
    answer = reflow("train", TINY, "--out", tmp_path / "base", "--set", change)
    assert message in one_line(answer, code=2)
    assert not (tmp_path / "base").exists()
