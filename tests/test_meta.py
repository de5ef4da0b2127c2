"""Everything that should follow its input's device does, shown without a GPU.

Torch's `meta` device has shapes and no values, and refuses to work together with tensors of one or more
dimensions on the CPU; one that was left there is found. What reads values cannot run on it: the engine
that lets samples leave (which have arrived?), and the refusals of step control.
"""

from collections.abc import Callable

import pytest
import torch
from networks import awake, either, kinds
from torch import Tensor

from reflow.distances import DISTANCES
from reflow.flow import Pair, regression_objective
from reflow.guidance import Guided
from reflow.models.checkpointing import checkpoint_activations
from reflow.models.preconditioning import Preconditioned
from reflow.solvers import embedded, variable
from reflow.solvers.engine import Method
from reflow.solvers.plan import PER_SAMPLE, fixed_plan, per_sample_plan
from reflow.solvers.rows import METHODS

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
    objective(net, Pair(x, torch.empty_like(x), label), torch.Generator()).mean().backward()
    require_gradients(net)


@kinds
@pytest.mark.parametrize("solver", METHODS)
def test_steps_on_a_fixed_grid(kind: str, solver: str) -> None:
    net, x, label = on_meta(kind)
    with torch.no_grad():
        step(fixed_plan(solver, 3).method(x), net, x, label)


@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_steps_of_a_size_per_sample(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (embedded, variable):
        monkeypatch.setattr(module, "require_progress", lambda *values: None)  # noqa: ARG005  (reads them)
    net, x, label = on_meta("mlp")
    with torch.no_grad():
        step(per_sample_plan(solver, 1e-2).method(x), net, x, label)
