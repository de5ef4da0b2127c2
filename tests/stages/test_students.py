"""Students: what they start from, how they are told what to learn, and how they draw afterwards."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import Command, one_line
from fits import network, rng
from networks import awake, either, kinds
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from reflow import load_model
from reflow.errors import ReflowError
from reflow.flow import Distance, Objective, Pair, VelocityField
from reflow.guidance import Guided
from reflow.objectives.distances import squared
from reflow.objectives.distillation import STUDENTS, mean_flow_objective, same_dropout
from reflow.recipes.training import DistillSettings
from reflow.solvers import integrate


@kinds
def test_a_fresh_student_of_averages_is_its_teacher(kind: str) -> None:
    plain, x = either(kind)
    awake(plain)
    student, _ = either(kind, spans=True)
    student.load_state_dict(student.state_dict() | plain.state_dict())
    t, end_time = torch.tensor([0.0, 0.3, 0.6, 0.9]).double(), torch.ones(4).double()
    assert torch.equal(student(x, t, None, end_time), plain(x, t))
    awake(student)
    assert not torch.equal(student(x, t, None, end_time), student(x, t))
    assert torch.equal(student(x, t, None, t), student(x, t))  # no span says nothing, whatever is learned


@kinds
def test_the_derivative_along_a_trajectory_is_that_of_finite_differences(kind: str) -> None:
    student, x = either(kind, spans=True)
    awake(student)
    t, end_time = torch.full((4,), 0.4).double(), torch.full((4,), 0.9).double()

    def zero(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return torch.ones_like(x)

    seen = {}

    def keeping(a: Tensor, b: Tensor) -> Tensor:
        seen["target"] = b
        return squared(a, b)

    class Fixed:
        """Draws that make t = 0.4 and `end_time` = 0.9."""

        batch = 4

        def places(self) -> Tensor:
            return torch.zeros(4)

        def uniform(self) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return torch.full((4,), 1.6 if self.calls == 1 else 5 / 6, dtype=torch.float64)

    objective = mean_flow_objective(zero, 0.0, keeping)
    objective(student, Pair(x, x), Fixed())  # type: ignore[arg-type]
    h = 1e-5
    ahead, behind = (student(x + s * h, t + s * h, None, end_time) for s in (1, -1))
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
    assert message in one_line(reflow(*command), code=2)
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
    t, end_time = torch.full((4,), 0.4).double(), torch.full((4,), 0.9).double()
    with torch.no_grad():
        with same_dropout(x.device), sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            moving = forward_ad.make_dual(x, torch.ones_like(x))
            derived = forward_ad.unpack_dual(student(moving, t, None, end_time)).primal
        torch.testing.assert_close(derived, student(x, t, None, end_time), rtol=0, atol=1e-10)  # rounding


def test_what_compiled_code_would_do_wrong_is_refused(reflow: Command, chain: Path, tmp_path: Path) -> None:
    command = ("distill", chain / "reflow", "--pairs", chain / "pairs", "--out", tmp_path / "x")
    words = ("--objective", "consistency", "--set", "model.dropout=0.1", "--compile")
    assert "--no-compile" in one_line(reflow(*command, *words))
    assert not (tmp_path / "x").exists()
