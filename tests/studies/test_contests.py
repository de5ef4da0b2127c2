"""The peers of the study: their time, their losses, and what they leave."""

from pathlib import Path

import torch
from commands import TINY
from contests import Optimisation, Phases, Problem, regression_loss, velocity_loss

from reflow.flow import Pair
from reflow.recipes.read import read_recipe

STUDIES = Path(__file__).parents[2] / "studies"


def test_peers_stop_when_their_time_is_over() -> None:
    ticks = iter(range(100))
    phases = Phases({"train": 4.0, "couple": 2.0}, lambda: float(next(ticks)))
    net = torch.nn.Linear(1, 1)
    how = Optimisation(0.1, 0, "linear", 1.0, lambda net: _Same(net))
    phases.fit(["train"], net, lambda: net(torch.ones(1, 1)).square().mean(), how)
    pairs = phases.collect(["couple"], lambda: Pair(torch.zeros(3, 2), torch.ones(3, 2)))
    assert [note.get("steps", note.get("pairs")) for note in phases.notes] == [3, 6]
    assert pairs.x1.shape == (6, 2)
    assert pairs.label is None


class _Same:
    """No average: the network itself."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.ema_model = net

    def update(self) -> None:
        """Follow."""


def test_the_losses_of_peers_vanish_for_exact_networks() -> None:
    pair = Pair(torch.randn(5, 1, 2, 2), torch.randn(5, 1, 2, 2))

    class Exact(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:  # noqa: ARG002
            return pair.x1 - pair.x0

    assert velocity_loss(Exact(), pair) == 0
    assert regression_loss(Exact(), pair) < 1e-12  # x0 + (x1 - x0) rounds
    drawn = Problem(read_recipe(str(TINY)), labelled=True).independent(4)
    assert drawn.x1.shape == drawn.x0.shape == (4, 1, 8, 8)
    assert drawn.label is not None
    assert drawn.x1.min() >= -1
    assert drawn.x1.max() <= 1
