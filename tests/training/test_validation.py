"""Validation losses tell what a model has memorised."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, Command
from fits import UNIFORM_LOSS, Memory, advance, begin, fit_settings, network, rng

from reflow.couplings import Coupling, Independent
from reflow.flow import Losses, Pair, VelocityField
from reflow.randomness import Draws, draws
from reflow.training import session
from reflow.training.fit import Fit
from reflow.training.validation import EXAMPLES, Side, sides, validate

CPU = torch.device("cpu")


def points(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 2, generator=rng(seed))


def test_a_network_that_learns_few_points_by_heart_loses_on_others() -> None:
    few, others = points(4, 0), points(64, 1)
    fit = begin(fit_settings(steps=600, batch=64, ema_halflife=20.0), network(), data=few)
    both = sides((Independent(Memory(few), seed=0), 64), (Independent(Memory(others), seed=0), 64))

    def losses() -> dict[str, float]:
        return validate(fit.average, both, UNIFORM_LOSS, batch=32, seed=0, device=CPU)

    before = losses()
    advance(fit, 600)
    after = losses()
    # The least loss on four points is far below that on the normal law, s pi / 2 = 1.6 with s = 1.
    assert after["training_loss"] < 0.6 * before["training_loss"]
    assert after["held_out_loss"] > 1.5 * after["training_loss"]


def test_validation_is_the_same_whatever_its_batches() -> None:
    net, data = network(seed=3), points(50, 0)
    both = sides((Independent(Memory(data), seed=0), 50), (Independent(Memory(data), seed=0), 50))
    one, many = (validate(net, both, UNIFORM_LOSS, batch=batch, seed=0, device=CPU) for batch in (50, 7))
    assert abs(one["held_out_loss"] - many["held_out_loss"]) < 1e-6  # rounding
    assert one["held_out_loss"] == one["training_loss"]  # the same examples, noise and times


def test_validation_takes_no_more_than_its_examples() -> None:
    seen: list[int] = []

    def counting(net: VelocityField, pair: Pair, draws: Draws) -> Losses:
        seen.append(len(pair.x0))
        return UNIFORM_LOSS(net, pair, draws)

    side = Independent(Memory(points(EXAMPLES + 88, 0)), seed=0)
    validate(network(), {"held_out_loss": (side, EXAMPLES + 88)}, counting, batch=100, seed=0, device=CPU)
    assert seen == [100] * 5 + [EXAMPLES - 500]


def test_without_held_out_examples_there_is_nothing_to_tell() -> None:
    side = Independent(Memory(points(5, 0)), seed=0)
    assert sides((side, 5), (side, 0)) == {}


def test_the_log_tells_both_losses_at_the_interval_asked_for_and_at_the_end(
    reflow: Command, tmp_path: Path
) -> None:
    rhythm = ("--set", "train.log_every=5", "--set", "train.validate_every=12")
    assert reflow("train", TINY, "--out", tmp_path / "base", *rhythm).code == 0
    lines = [json.loads(line) for line in (tmp_path / "base" / "log.jsonl").read_text().splitlines()]
    told = [line["step"] for line in lines if "held_out_loss" in line and "training_loss" in line]
    assert told == [15, 25, 30]
    assert all(len(line["loss_by_quarter"]) == 4 for line in lines)


def test_training_on_pairs_holds_some_out(chain: Path) -> None:
    for stage in ("reflow", "distill"):
        last = json.loads((chain / stage / "log.jsonl").read_text().splitlines()[-1])
        assert {"held_out_loss", "training_loss"} <= last.keys()


STAGES = {
    "train": ("train", TINY),
    "reflow": ("train", "--init", "base", "--pairs", "pairs"),
    "distill": ("distill", "base", "--pairs", "pairs"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_held_out_is_never_trained_on(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    couplings: dict[str, tuple[Coupling, int]] = {}
    advance = Fit.advance

    def noted(self: Fit) -> None:
        couplings["fit"] = self.coupling, 0
        advance(self)

    def kept(model: object, sides: Mapping[str, Side], *given: object, **named: object) -> dict[str, float]:  # noqa: ARG001
        couplings.update(sides)
        return {}

    monkeypatch.setattr(Fit, "advance", noted)
    monkeypatch.setattr(session, "validate", kept)
    words = [chain / word if word in ("base", "pairs") else word for word in STAGES[stage]]
    assert not reflow(*words, "--out", tmp_path / "out", "--set", f"{stage}.steps=1").code

    def images(name: str, count: int) -> set[bytes]:
        chosen = draws(CPU, count, seed=0, stream="test")
        return {x1.numpy().tobytes() for x1 in couplings[name][0].draw(np.arange(count), chosen).x1}

    count = couplings["training_loss"][1]
    trained, held_out = images("fit", count), images("held_out_loss", couplings["held_out_loss"][1])
    assert len(held_out) == couplings["held_out_loss"][1]
    assert not trained & held_out
    assert images("training_loss", count) == trained
