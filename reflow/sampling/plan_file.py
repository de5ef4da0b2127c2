"""The plan of a set of pairs: found once by a pilot, kept in `plan.json` for all jobs and restarts.

Processes that fill one directory must follow one plan, and a plan found again on another machine could
differ by a step. So the first one finds it while the others wait, and whoever comes later reads it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from reflow.artifacts import PLAN, Header, parse_header
from reflow.artifacts.files import held, write_atomically
from reflow.artifacts.stage_directory import require_same
from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.recipes.recipe import SolverSettings
from reflow.solvers.pilot import Accuracy, Pilot, calibrate, gauge
from reflow.solvers.plan import Plan, fixed_plan, require_way

LOCK = ".plan.lock"
ROUGHLY = 1e-3  # error to which trajectories are known when a grid of given length is cut


@dataclass(frozen=True)
class MeasuredPlan:
    """A plan, and what a pilot saw of its accuracy."""

    plan: Plan
    accuracy: Accuracy

    def facts(self) -> dict[str, Any]:
        """Return the plan and its accuracy as JSON, without what is not set."""
        plan = {key: value for key, value in asdict(self.plan).items() if value not in (None, ())}
        return {"plan": _rounded(plan), "pilot": _rounded(asdict(self.accuracy))}


def measure_plan(
    field: VelocityField,
    x0: Tensor,
    label: Tensor | None,
    settings: SolverSettings,
    *,
    cost: int = 1,
    t0: float = 0.0,
    t1: float = 1.0,
    batch: int | None = None,
    reference: VelocityField | None = None,
) -> MeasuredPlan:
    """Return the plan of the settings and what a pilot from the noise x0 (P, *event) says of it.

    cost: network evaluations per sample in one call of the field; batch: samples evaluated at once;
    reference: the field that errors are measured against, if this one is a coarser copy of it.
    """
    require_way(settings.solver, t0, t1)
    pilot = Pilot(field, x0, label, t0=t0, t1=t1, batch=batch, reference=reference)
    found = _measured(pilot, settings)
    return replace(found, accuracy=replace(found.accuracy, evaluations=cost * found.accuracy.evaluations))


def _measured(pilot: Pilot, settings: SolverSettings) -> MeasuredPlan:
    if settings.steps is None:
        assert settings.tolerance is not None
        return MeasuredPlan(*calibrate(pilot, settings.solver, settings.tolerance))
    if settings.grid == "calibrated":
        pilot.find_truth(ROUGHLY, strict=False)
        nodes = pilot.grid(settings.steps, spread=0.0)
        plan = Plan(settings.solver, tuple(nodes.tolist()))
    else:
        forwards = fixed_plan(settings.solver, settings.steps, settings.grid)
        plan = forwards if pilot.span[0] < pilot.span[1] else forwards.reversed()
    return MeasuredPlan(plan, gauge(pilot, plan))


def agreed_plan(out: Path, header: Header, find: Callable[[], MeasuredPlan]) -> MeasuredPlan:
    """Return the plan stored in `out`, or find it and store it.

    Raises ReflowError when the one there is damaged or was found for other settings.
    """
    path = out / PLAN
    with held(out / LOCK):
        if not path.exists():
            found = find()
            stored = replace(header, facts=header.facts | found.facts())
            write_atomically(path, (stored.to_json(payload=_digest(stored)) + "\n").encode())
        return _read(path, header)


def pilot_line(plan: Plan, pilot: Accuracy, wanted: float | None) -> str:
    """Return in one line what a pilot found."""
    how = f"{len(plan.nodes) - 1} steps" if plan.nodes else f"tolerance {plan.local_tolerance:.2g} per step"
    if plan.finer:
        how += f" ({' or '.join(str(len(nodes) - 1) for nodes in plan.finer)} for the few that need them)"
    target = "" if wanted is None else f" (target {wanted:g})"
    spent = f"{pilot.evaluations / pilot.samples:.0f} evaluations per sample"
    return (
        f"pilot: {plan.solver}, {how}; RMS error {pilot.rms:.2g} on {pilot.samples} samples{target}, "
        f"max {pilot.worst:.2g}; {spent}"
    )


def _read(path: Path, header: Header) -> MeasuredPlan:
    try:
        content = json.loads(path.read_bytes())
        stored = parse_header(content, path)
        require_same(path, stored, header)
        if content.get("payload") != _digest(stored):
            raise _damaged(path, "its contents do not match its digest")
        plan = dict(stored.facts["plan"])
        for key in ("nodes", "finer"):
            if key in plan:
                plan[key] = _tuples(plan[key])
        return MeasuredPlan(Plan(**plan), Accuracy(**stored.facts["pilot"]))
    except ReflowError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"it is not a plan ({error})") from error


def _damaged(path: Path, what: str) -> ReflowError:
    return ReflowError(f"{path} is damaged: {what}; delete it, then run the same command again")


def _digest(stored: Header) -> str:
    return hashlib.sha256(stored.to_json().encode()).hexdigest()


def _tuples(values: Any) -> Any:
    return tuple(_tuples(value) for value in values) if isinstance(values, list) else values


def _rounded(content: Any) -> Any:
    """Return the content with numbers of nine digits: enough for any step, and short."""
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, tuple | list):
        return [_rounded(value) for value in content]
    return float(f"{content:.9g}") if isinstance(content, float) else content
