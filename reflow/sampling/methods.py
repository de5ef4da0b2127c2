"""By which method a model is sampled: the one asked for, or the usual one of its kind."""

from reflow.errors import ReflowError
from reflow.models import Model
from reflow.recipes.read import solver_settings
from reflow.recipes.recipe import SolverSettings
from reflow.solvers import USUAL
from reflow.solvers.plan import CALIBRATED, PER_SAMPLE, Plan, fixed_plan, per_sample_plan, steps_for


def plan_without_pilot(method: SolverSettings) -> Plan:
    """Return the plan for a few samples, which do not pay for a pilot.

    With a tolerance, that is a step size per sample, which bounds the order of the error only.
    """
    if method.steps is not None:
        grid = None if method.grid == "calibrated" else method.grid
        return fixed_plan(method.solver, method.steps, grid)
    return per_sample_plan(USUAL if method.solver == CALIBRATED else method.solver, method.tolerance)


def fixed_method(model: Model, nfe: int, solver: str = "euler") -> SolverSettings:
    """Return the fixed grid that spends `nfe` evaluations; refuse what a student was not made for."""
    if model.spans and solver != "euler":
        raise ReflowError(
            f"this model was distilled for Euler steps, in any number; leave out --solver {solver}"
        )
    own = model.student_steps
    if own is not None and not model.spans and (nfe, solver) != (own, "euler"):
        raise ReflowError(
            f"this model was distilled to draw in {_steps(own)} and draws nothing else; "
            f"use --nfe {model.student_steps}, or the model it came from"
        )
    return solver_settings(solver, steps=steps_for(solver, nfe), tolerance=None)


def usual_method(model: Model) -> SolverSettings:
    """Return how a model is sampled when nothing else is asked for: by its recipe's [couple]."""
    if model.student_steps is not None:
        return fixed_method(model, model.student_steps)
    couple = model.recipe.couple
    return solver_settings(couple.solver, steps=couple.steps, tolerance=couple.tolerance, grid=couple.grid)


def tolerant_method(model: Model, tolerance: float, solver: str | None = None) -> SolverSettings:
    """Return a solver at a tolerance; refuse it to a student."""
    if model.spans:
        raise ReflowError(
            "this model was distilled for Euler steps, in any number; give it --nfe, not --tolerance"
        )
    if model.student_steps is not None:
        raise ReflowError(
            f"this model was distilled to draw in {_steps(model.student_steps)} and takes no tolerance"
        )
    if solver is not None and solver not in {*PER_SAMPLE, CALIBRATED}:
        raise ReflowError(f"--solver {solver} takes --nfe, not --tolerance")
    return solver_settings(solver or CALIBRATED, steps=None, tolerance=tolerance)


def _steps(count: int) -> str:
    return f"{count} Euler step{'' if count == 1 else 's'}"
