"""Validation losses tell what a model knows by heart."""

import json
from pathlib import Path

import torch
from conftest import TINY, Command
from test_fit import UNIFORM_LOSS, Memory, advance, begin, fit_settings, network, rng

from reflow.couplings import Independent
from reflow.validation import sides, validate

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
