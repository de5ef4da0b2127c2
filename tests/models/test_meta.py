"""Everything that should follow its input's device does, shown without a GPU.

Torch's `meta` device has shapes and no values, and refuses to work together with tensors of one or more
dimensions on the CPU; one that was left there is found. What reads values cannot run on it: the engine
that lets samples leave (which have arrived?), and the refusals of step control.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from networks import awake, either, kinds
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import optimizer

from reflow.couplings import Independent, Mixture, Stored
from reflow.flow import Objective, Pair, velocity_objective
from reflow.guidance import Guided, drop_labels
from reflow.models.checkpointing import checkpoint_activations
from reflow.models.preconditioning import Preconditioned
from reflow.objectives.distances import DISTANCES
from reflow.objectives.distillation import regression_objective
from reflow.objectives.times import stratified, u_shaped
from reflow.randomness import draws
from reflow.recipes.training import FitSettings
from reflow.solvers import adaptive_adams, adaptive_rk
from reflow.solvers.engine import Method
from reflow.solvers.fixed_grid import METHODS
from reflow.solvers.plan import PER_SAMPLE, fixed_plan, per_sample_plan
from reflow.training.fit import Fit

META = torch.device("meta")
CLASSES = 3


def on_meta(kind: str, classes: int | None = CLASSES) -> tuple[Preconditioned, Tensor, Tensor | None]:
    """Return a network that was moved to `meta`, with samples and labels there."""
    net, x = either(kind, classes, unconditional=classes is not None, dropout=0.1)
    label = None if classes is None else torch.empty(len(x), dtype=torch.int64, device=META)
    return awake(net).float().to(META), x.float().to(META), label


def times(x: Tensor) -> Tensor:
    return torch.empty(len(x), device=META)


def require_gradients(net: Preconditioned) -> None:
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.device == META, name


def step(method: Method, field: Callable[..., Tensor], x0: Tensor, label: Tensor | None) -> None:
    """Take two evaluations: from the start, and with something remembered."""
    state = method.begin(x0)
    for _ in range(2):
        x, t = method.query(state)
        state, arrived = method.advance(state, x, t, field(x, t, label))
        assert {part.device for part in (*state, arrived)} == {META}
        assert state.x.shape == x0.shape


@kinds
@pytest.mark.parametrize("classes", [None, CLASSES], ids=["no label", "labels"])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
def test_velocity_and_gradients(kind: str, classes: int | None, checkpointed: bool) -> None:
    net, x, label = on_meta(kind, classes)
    if checkpointed:
        checkpoint_activations(net)
    velocity = net(x, times(x), label)
    assert velocity.shape == x.shape
    velocity.square().mean().backward()
    require_gradients(net)


@kinds
def test_a_scalar_time_may_come_from_anywhere(kind: str) -> None:
    net, x, label = on_meta(kind)
    for time in (0.5, torch.tensor(0.5)):
        assert net(x, time, label).device == META


@kinds
def test_what_was_left_on_the_cpu_is_found(kind: str) -> None:
    net, x, label = on_meta(kind)
    with pytest.raises(RuntimeError, match="device"):
        net(x, torch.full((len(x),), 0.5), label)
    with pytest.raises(RuntimeError, match="device"):
        net(torch.zeros(x.shape), times(x), label)


@kinds
def test_guided_velocity(kind: str) -> None:
    net, x, label = on_meta(kind)
    guided = Guided(net, null_label=CLASSES, scale=2.0, interval=(0.2, 0.8))
    assert guided(x, times(x), label).shape == x.shape


@kinds
def test_a_students_loss_and_gradients(kind: str) -> None:
    net, x, label = on_meta(kind)
    objective = regression_objective(2, DISTANCES["pseudo-huber"])
    chosen = draws(META, len(x), seed=0, stream="test")
    objective(net, Pair(x, torch.empty_like(x), label), chosen).each.mean().backward()
    require_gradients(net)


@dataclass
class Nowhere:
    """Data and pairs without values."""

    event: tuple[int, ...]

    def __len__(self) -> int:
        return 12

    def raw(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return torch.empty(len(rows), *self.event), torch.zeros(len(rows), dtype=torch.int64)


class NowherePairs(Nowhere):
    """The same, as a teacher would have made them."""

    def take(self, rows: NDArray[np.int64]) -> Pair:
        values, label = self.raw(rows)
        return Pair(values, values, label)


def objectives() -> dict[str, tuple[type[Nowhere], Objective]]:
    velocity = velocity_objective(stratified(u_shaped(4.0)), DISTANCES["pseudo-huber"])
    return {
        "train": (Nowhere, drop_labels(velocity, 0.1, CLASSES)),
        "reflow": (NowherePairs, velocity),
        "distill": (NowherePairs, regression_objective(2, DISTANCES["squared"])),
    }


@kinds
@pytest.mark.parametrize("stage", ["train", "reflow", "distill"])
def test_training_steps(kind: str, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of the whole loop: draws, objective, gradient, clipping, optimiser, averages, sums."""
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    net, x, _ = on_meta(kind)
    data, objective = objectives()[stage]
    event = tuple(x.shape[1:])
    stored = [Stored(NowherePairs(event), seed=k) for k in range(2)]
    coupling = (
        Independent(data(event), 0, flip=kind != "mlp") if stage == "train" else Mixture(stored, [2, 1])
    )
    settings = FitSettings(steps=4, batch=6, lr=1e-3, ema_halflife=2.0, micro_batch=3)
    fit = Fit(net, copy.deepcopy(net), coupling, objective, settings, seed=0, stream="test", device=META)
    for _ in range(2):
        fit.advance()
    tensors = {**fit.tensors(), "loss": fit.means.loss, "norm": fit.means.norm}
    assert {tensor.device for tensor in tensors.values()} == {META}


@kinds
@pytest.mark.parametrize("solver", METHODS)
def test_steps_on_a_fixed_grid(kind: str, solver: str) -> None:
    net, x, label = on_meta(kind)
    with torch.no_grad():
        step(fixed_plan(solver, 3).method(x), net, x, label)


@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_steps_of_a_size_per_sample(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (adaptive_rk, adaptive_adams):
        monkeypatch.setattr(module, "require_progress", lambda *values: None)  # noqa: ARG005  (reads them)
    net, x, label = on_meta("mlp")
    with torch.no_grad():
        step(per_sample_plan(solver, 1e-2).method(x), net, x, label)
