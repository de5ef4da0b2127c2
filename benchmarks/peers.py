"""The solvers that users would otherwise take, from PyPI, one small function each.

A solver here maps (field, x0) to x1 and says nothing about its cost: the field it is given counts. The
field takes x (B, *event) and a time, scalar or (B,). PEERS lists for each method its settings from
coarse to fine, in the libraries' own defaults unless the name says otherwise. torchcfm is missing because
it has no solver of its own.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torchdiffeq
import torchode
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from flow_matching.solver import ODESolver
from scipy.integrate import solve_ivp
from torch import Tensor

from reflow.flow import VelocityField

Solve = Callable[[VelocityField, Tensor], Tensor]
Grid = Callable[[int], Tensor]  # steps -> times (steps + 1,) from 0 to 1, float64

TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6, 3e-7)
STEPS = (8, 16, 24, 32, 48, 64, 96, 128, 192)  # of one evaluation
DOUBLE_STEPS = (4, 8, 16, 32, 64, 128)  # of two


def uniform(steps: int) -> Tensor:
    """Return evenly spaced times."""
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def cosine(steps: int) -> Tensor:
    """Return times that crowd at both ends: no library's default, but a user's obvious second try."""
    return (1 - torch.cos(math.pi * uniform(steps))) / 2


def scipy_rk45(field: VelocityField, x0: Tensor, *, tolerance: float) -> Tensor:
    """Solve the batch as one long vector: the official recipe of rectified flow, with tolerance 1e-5."""

    def slope(t: float, y: Any) -> Any:
        x = torch.from_numpy(y).to(x0).view_as(x0)
        return field(x, torch.tensor(t).to(x0)).flatten().double().cpu().numpy()

    y0 = x0.flatten().double().cpu().numpy()
    solution = solve_ivp(slope, (0.0, 1.0), y0, method="RK45", rtol=tolerance, atol=tolerance)
    return torch.from_numpy(solution.y[:, -1]).to(x0).view_as(x0)


def torchdiffeq_adaptive(field: VelocityField, x0: Tensor, *, method: str, tolerance: float) -> Tensor:
    """Solve with one step size for the whole batch."""
    ends = torch.tensor([0.0, 1.0]).to(x0)
    states = torchdiffeq.odeint(
        lambda t, x: field(x, t), x0, ends, method=method, rtol=tolerance, atol=tolerance
    )
    return states[-1]


def torchode_adaptive(field: VelocityField, x0: Tensor, *, method: str, tolerance: float) -> Tensor:
    """Solve with a step size per sample; the whole batch is evaluated until its last sample arrives."""
    term = torchode.ODETerm(lambda t, y: field(y.view_as(x0), t).flatten(1))
    stepper = {"dopri5": torchode.Dopri5, "tsit5": torchode.Tsit5}[method](term=term)
    controller = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
    times = torch.tensor([0.0, 1.0]).to(x0).repeat(len(x0), 1)
    problem = torchode.InitialValueProblem(y0=x0.flatten(1), t_eval=times)
    solution = torchode.AutoDiffAdjoint(stepper, controller).solve(problem)
    if solution.status.any():
        raise RuntimeError(f"torchode gave up at tolerance {tolerance:g}")
    return solution.ys[:, -1].view_as(x0)


def flow_matching_fixed(field: VelocityField, x0: Tensor, *, method: str, grid: Grid, steps: int) -> Tensor:
    """Solve on a fixed grid."""
    times = grid(steps).to(x0)
    return ODESolver(field).sample(x0, step_size=None, method=method, time_grid=times)


def flow_matching_adaptive(field: VelocityField, x0: Tensor, *, method: str, tolerance: float) -> Tensor:
    """Solve with torchdiffeq through flow_matching."""
    return ODESolver(field).sample(x0, step_size=None, method=method, atol=tolerance, rtol=tolerance)


def unipc(field: VelocityField, x0: Tensor, *, order: int, steps: int, grid: Grid | None = None) -> Tensor:
    """Solve with UniPC on diffusers' flow grid, or on another that a user hands over as sigmas.

    diffusers runs from sigma = 1 (noise) to 0 (data) and wants dx/dsigma. Its own timesteps are whole
    numbers of thousandths, which shifts t by up to 0.001; the field is given the exact t = 1 - sigma.
    """
    scheduler = UniPCMultistepScheduler(
        solver_order=order, prediction_type="flow_prediction", use_flow_sigmas=True
    )
    if grid is None:
        scheduler.set_timesteps(steps, device=x0.device)
    else:
        scheduler.set_timesteps(sigmas=(1 - grid(steps)[:-1]).numpy(), device=x0.device)  # not a list
    return _denoise(scheduler, field, x0, 1 - scheduler.sigmas[:-1])


def flow_match(field: VelocityField, x0: Tensor, *, kind: type[Any], steps: int) -> Tensor:
    """Solve with one of diffusers' schedulers for flow matching, whose timesteps are not rounded."""
    scheduler = kind()
    scheduler.set_timesteps(steps, device=x0.device)
    return _denoise(scheduler, field, x0, 1 - scheduler.timesteps / 1000)


def _denoise(scheduler: Any, field: VelocityField, x0: Tensor, times: Tensor) -> Tensor:
    scheduler.set_begin_index(0)
    x = x0
    for timestep, t in zip(scheduler.timesteps, times.to(x0), strict=True):
        x = scheduler.step(-field(x, t), timestep, x).prev_sample
    return x


def by_tolerance(solve: Callable[..., Tensor], **settings: Any) -> dict[str, Solve]:
    """Return a method's settings: one per tolerance."""
    return {f"{value:g}": partial(solve, tolerance=value, **settings) for value in TOLERANCES}


def by_steps(solve: Callable[..., Tensor], counts: Iterable[int], **settings: Any) -> dict[str, Solve]:
    """Return a method's settings: one per number of steps."""
    return {f"{value} steps": partial(solve, steps=value, **settings) for value in counts}


PEERS: dict[str, dict[str, Solve]] = {
    "scipy RK45 (official)": by_tolerance(scipy_rk45),
    "torchdiffeq dopri5": by_tolerance(torchdiffeq_adaptive, method="dopri5"),
    "torchdiffeq bosh3": by_tolerance(torchdiffeq_adaptive, method="bosh3"),
    "torchode dopri5": by_tolerance(torchode_adaptive, method="dopri5"),
    "torchode tsit5": by_tolerance(torchode_adaptive, method="tsit5"),
    "flow_matching dopri5": by_tolerance(flow_matching_adaptive, method="dopri5"),
    "flow_matching midpoint": by_steps(flow_matching_fixed, DOUBLE_STEPS, method="midpoint", grid=uniform),
    "flow_matching midpoint, cosine grid": by_steps(
        flow_matching_fixed, DOUBLE_STEPS, method="midpoint", grid=cosine
    ),
    "diffusers UniPC 3": by_steps(unipc, STEPS, order=3),
    "diffusers UniPC 3, cosine grid": by_steps(unipc, STEPS, order=3, grid=cosine),
    "diffusers UniPC 2, cosine grid": by_steps(unipc, STEPS, order=2, grid=cosine),
    "diffusers Heun": by_steps(flow_match, DOUBLE_STEPS, kind=FlowMatchHeunDiscreteScheduler),
    "diffusers Euler": by_steps(flow_match, STEPS, kind=FlowMatchEulerDiscreteScheduler),
}
