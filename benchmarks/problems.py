"""What the benchmark solves, and the true answers.

Trained models and fields in closed form; x0, x1 (N, *event). The truth is our own solver at a tight
tolerance in float32, checked against torchdiffeq in float64.
"""

import copy
import runpy
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torchdiffeq
from torch import Tensor

from reflow import integrate, load_model
from reflow.flow import VelocityField

TRUTH = 2e-6  # tolerance of the truth; its measured error is about as large
CHECKED, CHECK_TOLERANCE = 16, 1e-8  # samples whose truth is checked, and how
UNCERTAIN = 2.5e-5  # a truth this far from the other library's answer is none


class Problem(NamedTuple):
    """A field to solve: as users have it, in float32, and the same in float64 to check the truth."""

    name: str
    event: tuple[int, ...]
    field: VelocityField
    exact: VelocityField


class Counted:
    """A field that counts the rows it is asked for and takes the time as a scalar too."""

    def __init__(self, field: VelocityField) -> None:
        self.field = field
        self.rows = 0

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.rows += len(x)
        time = torch.as_tensor(t).to(device=x.device, dtype=x.dtype)
        return self.field(x, time.expand(len(x)), label)


def rms_errors(x1: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return the error over all samples and that of the worst one."""
    square = (x1.double() - truth.double()).square().flatten(1).mean(1)
    return float(square.mean().sqrt()), float(square.max().sqrt())


def true_ends(problem: Problem, x0: Tensor, batch: int) -> tuple[Tensor, str]:
    """Return x1 and in words what it rests on; refuse an answer too far from another library's."""
    solutions = [integrate(problem.field, part, tolerance=TRUTH) for part in x0.split(batch)]
    x1 = torch.cat([solution.x1 for solution in solutions])
    nfe = torch.cat([solution.nfe for solution in solutions]).double().mean()
    exact, start = Counted(problem.exact), x0[:CHECKED].double()
    other = torchdiffeq.odeint(
        lambda t, x: exact(x, t),
        start,
        torch.tensor([0.0, 1.0]).to(start),
        method="dopri5",
        rtol=CHECK_TOLERANCE,
        atol=CHECK_TOLERANCE,
    )[-1]
    rms, worst = rms_errors(x1[: len(start)], other)
    if not rms < UNCERTAIN:
        raise SystemExit(f"the truth is {rms:.1e} off torchdiffeq's answer; at most {UNCERTAIN:g} will do")
    return x1, (
        f"{nfe:.0f} NFE; on {len(start)} samples {rms:.1e} off (worst {worst:.1e}) torchdiffeq's dopri5 "
        f"at {CHECK_TOLERANCE:g} in float64"
    )


def trained(path: Path, device: torch.device) -> Problem:
    """Return the field of a trained model."""
    model = load_model(path).to(device)
    if model.classes is not None:
        raise SystemExit(f"{path} is conditioned on labels; this benchmark takes models without")
    return Problem(str(path), model.event, model, copy.deepcopy(model).double())


def analytic(name: str, device: torch.device) -> Problem:
    """Return a field in closed form: noise to data of 64 independent numbers, or of 10 clusters."""
    make = runpy.run_path(str(Path(__file__).parents[1] / "tests/fields.py"))[name]
    rng = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=rng, dtype=torch.float64)
    if name == "gaussian":
        law = [0.5 * draw(64), torch.linspace(0.1, 1.0, 64, dtype=torch.float64)]
    else:
        law = [
            torch.softmax(draw(10), 0),
            0.5 * draw(10, 64),
            torch.linspace(0.1, 0.3, 10, dtype=torch.float64),
        ]
    exact, single = ([part.to(device, dtype) for part in law] for dtype in (torch.float64, torch.float32))
    return Problem(name, (64,), make(*single), make(*exact))
