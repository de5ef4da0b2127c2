"""Generating samples by number: noise i, label i, and the solver's end point, batch by batch."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from reflow.config import SolverSettings, solver_settings
from reflow.errors import ReflowError
from reflow.flow import Pair
from reflow.models import Model
from reflow.noise import noise
from reflow.solvers import SOLVERS, integrate, steps_for


class Batch(NamedTuple):
    """Noise and images (B, *event) on the CPU, and the evaluations (B,) they took."""

    pair: Pair
    nfe: Tensor


def balanced_labels(indices: range, classes: int | None) -> Tensor | None:
    """Return label i mod classes for every index, or None without classes."""
    return None if classes is None else torch.arange(indices.start, indices.stop) % classes


def generate(
    model: Model,
    indices: range,
    *,
    method: SolverSettings,
    seed: int,
    stream: str,
    batch: int,
    device: torch.device,
    labels: Tensor | None = None,
) -> Iterator[Batch]:
    """Yield the samples of these numbers in order; `labels` (n,) replaces balanced classes."""
    if labels is None:
        labels = balanced_labels(indices, model.classes)
    for start in range(0, len(indices), batch):
        chosen = indices[start : start + batch]
        label = None if labels is None else labels[start : start + len(chosen)]
        x0 = noise(seed, stream, chosen, model.event)
        solution = integrate(
            model,
            x0.to(device),
            solver=method.solver,
            steps=method.steps,
            tolerance=method.tolerance,
            label=None if label is None else label.to(device),
        )
        yield Batch(Pair(x0, solution.x1.cpu(), label), solution.nfe.cpu())


def fixed_method(model: Model, nfe: int, solver: str = "euler") -> SolverSettings:
    """Return the fixed grid that spends `nfe` evaluations; refuse what a student was not made for."""
    if model.student_steps is not None and (nfe, solver) != (model.student_steps, "euler"):
        raise ReflowError(
            f"this model was distilled for {model.student_steps} Euler steps and draws nothing else; "
            f"use --nfe {model.student_steps}, or the model it came from"
        )
    return solver_settings(solver, steps=steps_for(solver, nfe), tolerance=None)


def usual_method(model: Model) -> SolverSettings:
    """Return how a model is sampled when nothing else is asked for: by its recipe's [couple]."""
    if model.student_steps is not None:
        return fixed_method(model, model.student_steps)
    couple = model.recipe["couple"]
    return solver_settings(couple["solver"], steps=couple["steps"], tolerance=couple["tolerance"])


def adaptive_method(model: Model, tolerance: float, solver: str | None = None) -> SolverSettings:
    """Return the adaptive solver at a tolerance; refuse it to a student."""
    if model.student_steps is not None:
        raise ReflowError(
            f"this model was distilled for {model.student_steps} Euler steps and takes no tolerance"
        )
    name = solver or "dopri5"
    if name in SOLVERS and SOLVERS[name].error is None:
        raise ReflowError(f"--solver {name} takes --steps or --nfe, not --tolerance")
    return solver_settings(name, steps=None, tolerance=tolerance)
