"""Fits of small networks on few points, for the tests of training."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from reflow.couplings import Independent
from reflow.distributed import ALONE
from reflow.flow import Losses, Objective, Pair, VelocityField, velocity_objective
from reflow.models import build
from reflow.objectives.distances import squared
from reflow.objectives.times import stratified, uniform
from reflow.randomness import Draws
from reflow.recipes.recipe import MlpSettings, UnetSettings
from reflow.recipes.training import VelocityFitSettings
from reflow.training.fit import Fit

CPU = torch.device("cpu")
UNIFORM_LOSS = velocity_objective(stratified(uniform), squared)
POINTS = torch.tensor([[0.8, 0.3], [-0.6, 0.5], [0.1, -0.9]])


@dataclass
class Memory:
    """A data set in memory."""

    data: Tensor

    def __len__(self) -> int:
        return len(self.data)

    def raw(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        return self.data[torch.from_numpy(rows)], None


@dataclass
class Watched:
    """An objective that keeps its losses and weighs some steps more than others."""

    inner: Objective
    weight: Callable[[int], float] = lambda step: 1.0  # noqa: ARG005
    losses: list[float] = field(default_factory=list)

    def __call__(self, net: VelocityField, pair: Pair, draws: Draws) -> Losses:
        each, t = self.inner(net, pair, draws)
        each = self.weight(len(self.losses)) * each
        self.losses.append(float(each.detach().mean()))
        return Losses(each, t)


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def fit_settings(**chosen: object) -> VelocityFitSettings:
    usual = {"steps": 20, "batch": 16, "lr": 1e-2, "ema_halflife": 2.0}
    return VelocityFitSettings.model_validate(usual | chosen)


def network(kind: str = "mlp", dropout: float = 0.0, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "mlp":
        return build(MlpSettings(kind="mlp", width=16, blocks=2, dropout=dropout), (2,), None)
    settings = UnetSettings(kind="unet", channels=8, dropout=dropout, attention=(4,))
    return build(settings, (1, 8, 8), None)


def begin(
    settings: VelocityFitSettings,
    net: nn.Module | None = None,
    *,
    data: Tensor = POINTS,
    objective: Objective = UNIFORM_LOSS,
) -> Fit:
    net = network() if net is None else net
    return Fit(
        net,
        copy.deepcopy(net).requires_grad_(False),
        Independent(Memory(data), seed=0),
        objective,
        settings,
        seed=0,
        stream="test",
        device=CPU,
    )


def advance(fit: Fit, steps: int) -> Fit:
    for _ in range(steps):
        fit.advance()
    return fit


def loss_of(fit: Fit) -> float | None:
    return fit.means.read(ALONE).loss


def stored(fit: Fit) -> dict[str, Tensor]:
    """Return the tensors as a file would keep them: contiguous, and apart from the fit."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in fit.tensors().items()
    }
