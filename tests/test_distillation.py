"""Distillation: the exact answer is where every objective vanishes, and students draw as they learnt."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Command, one_line
from fields import batch_of, gaussian, gaussian_average, reflowed_gaussian
from fits import network, rng
from networks import awake, either, kinds
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from reflow import load_model
from reflow.distances import squared
from reflow.distillation import (
    STUDENTS,
    AverageVelocity,
    consistency_objective,
    heun_velocity,
    mean_flow_objective,
    regression_objective,
    same_dropout,
)
from reflow.errors import ReflowError
from reflow.flow import Distance, Objective, Pair, VelocityField, interpolate
from reflow.guidance import Guided
from reflow.hyperparameters import DistillSettings
from reflow.solvers import integrate

MEAN = torch.tensor([0.7, -1.0, 0.0], dtype=torch.float64)
STD = torch.tensor([0.2, 0.6, 1.5], dtype=torch.float64)
CURVED, STRAIGHT = gaussian(MEAN, STD), reflowed_gaussian(MEAN, STD)
N = 400


def made_pairs() -> Pair:
    """Return pairs of the flow: (x0, m + s x0)."""
    x0 = torch.randn(N, 3, generator=rng(), dtype=torch.float64)
    return Pair(x0, MEAN + STD * x0)


def off(field: AverageVelocity) -> AverageVelocity:
    """Return the field and a little more."""

    def more(x: Tensor, t: Tensor, label: Tensor | None = None, *until: Tensor) -> Tensor:
        return field(x, t, label, *until) + 0.1 * torch.sin(x)

    return more


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_exact_averages_regress_to_nothing(steps: int) -> None:
    """The flow's own pairs, whose ends are reached exactly in any number of steps."""
    average = gaussian_average(MEAN, STD, steps)
    objective = regression_objective(steps, squared)
    assert float(objective(average, made_pairs(), batch_of(N, rng())).each.max()) < 1e-28  # rounding
    assert float(objective(off(average), made_pairs(), batch_of(N, rng())).each.mean()) > 1e-4


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_exact_averages_are_consistent(steps: int) -> None:
    """On straight trajectories without error, on curved ones but for the error of Heun's steps."""

    def average(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return STRAIGHT(x, t, label)  # a straight trajectory's velocity is its average

    straight = consistency_objective(STRAIGHT, steps, 4, squared)
    assert float(straight(average, made_pairs(), batch_of(N, rng())).each.max()) < 1e-28
    assert float(straight(off(average), made_pairs(), batch_of(N, rng())).each.mean()) > 1e-6

    def error(intervals: int) -> float:
        curved = consistency_objective(CURVED, steps, intervals, squared)
        pair = Pair(made_pairs().x0, made_pairs().x1.flip(0))
        exact = gaussian_average(MEAN, STD, steps)
        return float(curved(exact, pair, batch_of(N, rng())).each.mean().sqrt())

    assert error(512 // steps) < 1e-6
    # A step's error is of order three; over what is left of the window, of two near its end.
    assert 3.5 < error(16) / error(32) < 10


def test_exact_averages_are_a_mean_flow() -> None:
    """Any points will do: the identity holds along every trajectory."""
    pair = Pair(made_pairs().x0, 3 * made_pairs().x1.flip(0))
    exact = gaussian_average(MEAN, STD)
    objective = mean_flow_objective(CURVED, 0.25, squared)
    losses = objective(exact, pair, batch_of(N, rng()))
    assert float(losses.each.max()) < 1e-26  # rounding, through a derivative
    assert losses.t is not None
    assert float(losses.t.min()) < 0.01 < 0.99 < float(losses.t.max())
    assert float(objective(off(exact), pair, batch_of(N, rng())).each.mean()) > 1e-4
    elsewhere = mean_flow_objective(STRAIGHT, 0.25, squared)
    assert float(elsewhere(exact, pair, batch_of(N, rng())).each.mean()) > 1e-3


def test_without_span_the_velocity_itself_is_learnt() -> None:
    seen: list[Tensor] = []

    def watched(x: Tensor, t: Tensor, label: Tensor | None = None, until: Tensor | None = None) -> Tensor:
        assert until is not None
        seen.append((until - t).detach())
        return gaussian_average(MEAN, STD)(x, t, label, until)

    n = 4000
    x0 = torch.randn(n, 3, generator=rng(), dtype=torch.float64)
    mean_flow_objective(CURVED, 0.25, squared)(watched, Pair(x0, x0), batch_of(n, rng()))
    share = float((seen[-1] == 0).double().mean())
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5
    assert float(seen[-1].max()) > 0.95


def test_one_step_of_the_exact_average_is_exact() -> None:
    pair = made_pairs()
    average = gaussian_average(MEAN, STD)
    for steps in (1, 3):

        def field(x: Tensor, t: Tensor, label: Tensor | None = None, steps: int = steps) -> Tensor:
            return average(x, t, label, t + 1 / steps)

        end = integrate(field, pair.x0, solver="euler", steps=steps).x1
        torch.testing.assert_close(end, pair.x1, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["consistency", "meanflow"])
def test_targets_take_no_gradient(name: str) -> None:
    """A linear student u = a x: the gradient is that with the target held."""
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def student(x: Tensor, t: Tensor, label: Tensor | None = None, *until: Tensor) -> Tensor:  # noqa: ARG001
        return a * x

    pair = made_pairs()
    t = (torch.arange(N) + torch.rand(N, generator=rng(1)).double()) / N
    xt = interpolate(*pair[:2], t)
    if name == "consistency":
        objective = consistency_objective(STRAIGHT, 1, 4, squared)
        later = (t + 0.25).clamp(max=1)
        velocity = heun_velocity(STRAIGHT, xt, t, later, None)
        moved = xt + (later - t)[:, None] * velocity
        done = ((later - t) / (1 - t))[:, None]
        target = done * velocity + (1 - done) * 0.6 * moved
    else:
        objective = mean_flow_objective(STRAIGHT, 0.0, squared)
        velocity = STRAIGHT(xt, t)
        source = rng(1)
        torch.rand(N, generator=source)
        share = torch.rand(N, generator=source).double()
        target = velocity + ((1 - t) * share)[:, None] * 0.6 * velocity  # du/dt = a v
    objective(student, pair, batch_of(N, rng(1))).each.mean().backward()
    wanted = (2 * (0.6 * xt - target) * xt).mean()
    assert a.grad is not None
    torch.testing.assert_close(a.grad, wanted, rtol=1e-5, atol=0)  # times are drawn in float32


def test_a_student_of_windows_does_not_look_past_their_ends() -> None:
    times: list[Tensor] = []

    def watched(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        times.append(t)
        return STRAIGHT(x, t, label)

    objective = consistency_objective(watched, 2, 4, squared)
    objective(STRAIGHT, made_pairs(), batch_of(N, rng()))
    first, later = times
    assert bool((later > first).all())
    assert float((later - first).max()) <= 1 / 8 + 1e-7
    assert not bool(((first < 0.5) & (later > 0.5)).any())
    assert float(later.max()) <= 1


def test_both_passes_silence_the_same_units() -> None:
    """Dropout moves a consistent student's target as it moves the student: nothing is left between them."""
    dropout = nn.Dropout(0.5)
    x = torch.ones(2000)
    with same_dropout(x.device):
        inside = dropout(x)
    assert torch.equal(dropout(x), inside)
    assert not torch.equal(dropout(x), inside)  # the block does not stop the stream

    class Silenced(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None, *until: Tensor) -> Tensor:  # noqa: ARG002
            return dropout(torch.ones_like(x))

    def teacher(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return torch.zeros_like(x)

    zeros = torch.zeros(N, 3)
    late = consistency_objective(teacher, 1, 10**6, squared)  # steps so short that it is the pass itself
    losses = late(Silenced(), Pair(zeros, zeros), batch_of(N, rng()))
    assert float(losses.each[: N - 8].max()) < 1e-3


@kinds
def test_a_fresh_student_of_averages_is_its_teacher(kind: str) -> None:
    plain, x = either(kind)
    awake(plain)
    student, _ = either(kind, spans=True)
    student.load_state_dict(student.state_dict() | plain.state_dict())
    t, until = torch.tensor([0.0, 0.3, 0.6, 0.9]).double(), torch.ones(4).double()
    assert torch.equal(student(x, t, None, until), plain(x, t))
    awake(student)
    assert not torch.equal(student(x, t, None, until), student(x, t))
    assert torch.equal(student(x, t, None, t), student(x, t))  # no span says nothing, whatever is learnt


@kinds
def test_the_derivative_along_a_trajectory_is_that_of_finite_differences(kind: str) -> None:
    student, x = either(kind, spans=True)
    awake(student)
    t, until = torch.full((4,), 0.4).double(), torch.full((4,), 0.9).double()

    def zero(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return torch.ones_like(x)

    seen = {}

    def keeping(a: Tensor, b: Tensor) -> Tensor:
        seen["target"] = b
        return squared(a, b)

    class Fixed:
        """Draws that make t = 0.4 and `until` = 0.9."""

        batch = 4

        def places(self) -> Tensor:
            return torch.zeros(4)

        def uniform(self) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return torch.full((4,), 1.6 if self.calls == 1 else 5 / 6, dtype=torch.float64)

    objective = mean_flow_objective(zero, 0.0, keeping)
    objective(student, Pair(x, x), Fixed())  # type: ignore[arg-type]
    h = 1e-5
    ahead, behind = (student(x + s * h, t + s * h, None, until) for s in (1, -1))
    slope = (ahead - behind) / (2 * h)
    torch.testing.assert_close(seen["target"], 1 + 0.5 * slope, rtol=0, atol=1e-7)


@pytest.mark.parametrize("objective", ["regress", "consistency", "meanflow"])
def test_students_of_every_objective_come_through_the_command_line(
    reflow: Command, chain: Path, tmp_path: Path, objective: str
) -> None:
    out = tmp_path / objective
    command = ("distill", chain / "reflow", "--pairs", chain / "pairs", "--out", out)
    assert reflow(*command, "--objective", objective).code == 0
    student = load_model(out)
    assert (student.student_steps, student.spans) == (1, objective == "meanflow")
    assert reflow("sample", out, "--count", 4, "--out", tmp_path / "one.npz").code == 0
    more = reflow("sample", out, "--count", 4, "--nfe", 3, "--out", tmp_path / "three.npz")
    if objective == "meanflow":
        assert more.code == 0
        assert "NFE 3" in more.err
        x0 = torch.randn(5, *student.event, generator=rng())
        ends = [
            integrate(field, x0, solver="euler", steps=1).x1 for field in (student, student.in_steps(1))
        ]
        assert torch.equal(*ends)  # used as any student is, it draws in one step
        assert not torch.equal(ends[0], x0 + student.net(x0, torch.zeros(5)))  # which is no velocity
    else:
        assert "--nfe 1" in one_line(more)
        with pytest.raises(ReflowError, match="call this model itself"):
            student.in_steps(3)
    assert "Euler" in one_line(
        reflow("sample", out, "--nfe", 2, "--solver", "heun", "--out", tmp_path / "x.npz")
    )
    result = tmp_path / "evaluation.json"
    assert reflow("evaluate", out, "--nfe", "1,2", "--out", result).code == 0
    counted = [figure["nfe"] for figure in json.loads(result.read_text())["models"][0]["figures"]]
    assert counted == ([1, 2] if objective == "meanflow" else [1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("objective=mean-flow",), "distill.objective"),
        (("intervals=4",), "intervals is for objective = consistency"),
        (("instant=0.5",), "instant is for objective = meanflow"),
        (("objective=meanflow", "student_steps=2"), "draws in any number of steps"),
        (("objective=meanflow", "sharded=true"), "forward-mode"),
    ],
)
def test_settings_of_another_objective_are_refused(
    reflow: Command, chain: Path, tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    words = [word for change in changes for word in ("--set", f"distill.{change}")]
    command = ("distill", chain / "reflow", "--pairs", chain / "pairs", "--out", tmp_path / "x", *words)
    assert message in one_line(reflow(*command))
    assert not (tmp_path / "x").exists()


def test_networks_without_spans_take_no_second_time() -> None:
    net = network("mlp")
    with pytest.raises(AssertionError):
        net(torch.zeros(2, 2), torch.zeros(2), None, torch.ones(2))


def test_the_teachers_velocity_is_guided_as_its_pairs_were(
    reflow: Command, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[VelocityField] = []
    student = STUDENTS["consistency"]

    def watched(settings: DistillSettings, velocity: VelocityField, distance: Distance) -> Objective:
        seen.append(velocity)
        return student.objective(settings, velocity, distance)

    monkeypatch.setitem(STUDENTS, "consistency", replace(student, objective=watched))
    for name, words in (("plain", ()), ("guided", ("--guidance", 2.0))):
        assert reflow("couple", labelled, "--count", 16, "--out", tmp_path / name, *words).code == 0
    quick = [f"distill.{change}" for change in ("objective=consistency", "steps=1", "batch=8")]
    changes = [word for change in quick for word in ("--set", change)]
    for name in ("plain", "guided"):
        pairs = ("--pairs", tmp_path / name, "--out", tmp_path / f"from {name}")
        assert reflow("distill", labelled, *pairs, *changes).code == 0
    plain, followed = seen
    assert not isinstance(plain, Guided)
    assert isinstance(followed, Guided)
    assert followed.scale == 2
    both = ("--pairs", tmp_path / "plain", "--pairs", tmp_path / "guided", "--out", tmp_path / "both")
    assert "different guidance" in one_line(reflow("distill", labelled, *both, *changes))
    assert reflow("distill", labelled, *both, *changes[2:]).code == 0  # regress follows nobody


@kinds
def test_the_derivative_silences_the_units_that_the_student_does(kind: str) -> None:
    """Dropout goes through memory in order, so layouts have to agree, too."""
    student, x = either(kind, spans=True, dropout=0.5)
    awake(student).train()
    t, until = torch.full((4,), 0.4).double(), torch.full((4,), 0.9).double()
    with torch.no_grad():
        with same_dropout(x.device), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            moving = forward_ad.make_dual(x, torch.ones_like(x))
            derived = forward_ad.unpack_dual(student(moving, t, None, until)).primal
        torch.testing.assert_close(derived, student(x, t, None, until), rtol=0, atol=1e-10)  # rounding


@pytest.mark.parametrize("steps", [1, 3, 49])
def test_times_at_the_ends_of_windows_are_no_case(steps: int) -> None:
    class Ends:
        """Draws that put t on the ends of windows, as rounding may."""

        batch = steps + 1

        def places(self) -> Tensor:
            return torch.arange(steps + 1)

        def uniform(self) -> Tensor:
            return torch.arange(steps + 1) / steps  # t = j / k, which is clamped at 0 and 1

    x0 = torch.zeros(steps + 1, 3, dtype=torch.float64)
    objective = consistency_objective(STRAIGHT, steps, 4, squared)
    losses = objective(STRAIGHT, Pair(x0, x0), Ends())  # type: ignore[arg-type]
    assert bool(losses.each.isfinite().all())
    assert losses.t is not None
    assert float(losses.t.max()) < 1


def test_what_compiled_code_would_do_wrong_is_refused(reflow: Command, chain: Path, tmp_path: Path) -> None:
    command = ("distill", chain / "reflow", "--pairs", chain / "pairs", "--out", tmp_path / "x")
    words = ("--objective", "consistency", "--set", "model.dropout=0.1", "--compile")
    assert "--no-compile" in one_line(reflow(*command, *words))
    assert not (tmp_path / "x").exists()
