"""What a flow does between noise and data: one trajectory per sample, looked at from several sides.

Rows are per sample, so that processes can share the samples and put their rows together; figures are
means over them. All are per dimension and for one model's own trajectories.

Shapes: x0, x1 (B, *event); straightness (B, M) at the midpoints of `metrics.trajectories`; curvature,
crossing, nfe (B,); divergence (B, M, K) for K probes, or K = 1 for the exact trace; label (B,), zeros
where the model has no classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reflow.flow import Pair, VelocityField
from reflow.guidance import evaluations_per_call
from reflow.metrics.divergence import velocity_and_divergence
from reflow.metrics.standard_errors import estimate
from reflow.metrics.trajectories import (
    NODES,
    acceleration,
    coupling_cost,
    crossing,
    independent_cost,
    midpoints,
    optimal_cost,
)
from reflow.objectives.distances import squared
from reflow.solvers import trajectory

MOST = 1000  # pairs whose optimal coupling is looked for: its time grows with their cube


class FlowRows(NamedTuple):
    """What is known of each trajectory; nfe is what solving it took."""

    x0: Tensor
    x1: Tensor
    label: Tensor
    straightness: Tensor
    curvature: Tensor
    divergence: Tensor
    crossing: Tensor
    nfe: Tensor


@dataclass(frozen=True)
class FlowFigures:
    """The figures of a flow, as they are written.

    straightness, curvature, crossing: means, whose standard errors are in `errors`.
    divergence_spread_over_t: standard deviation between samples, without what the probes add; None where
    it cannot be told. transport_cost: of the model's pairs, of independent ones and of the optimal ones.
    """

    samples: int
    times: list[float]
    straightness: float
    straightness_over_t: list[float]
    divergence_over_t: list[float]
    divergence_spread_over_t: list[float] | None
    trace: str
    probes: int | None
    curvature: float
    transport_cost: dict[str, float | int]
    crossing: float
    errors: dict[str, float | None]
    nfe: float


@torch.no_grad()
def flow_rows(
    field: VelocityField,
    x0: Tensor,
    label: Tensor | None = None,
    *,
    tolerance: float,
    probes: Tensor | None,
) -> FlowRows:
    """Follow the noise to the data, to the tolerance, and look at the flow on the way.

    probes: (B, K, *event) for the divergence, None for the exact trace. Beside the solver's evaluations it
    takes 4 at each of the midpoints, and a way back for every probe or, for the exact trace, dimension.
    """
    times = midpoints(x0)
    states, solution = trajectory(field, x0, times, tolerance=tolerance, label=label)
    pair = Pair(x0, solution.x1, label)
    straight, accelerations, divergences = [], [], []
    for time, state in zip(times, states, strict=True):
        t = time.expand(len(x0))
        velocity, divergence = velocity_and_divergence(field, state, t, label, probes)
        straight.append(squared(pair.x1 - x0, velocity))
        change = acceleration(field, state, t, velocity, label)
        accelerations.append(change.square().flatten(1).mean(1))
        divergences.append(divergence / x0[0].numel())
    return FlowRows(
        x0,
        pair.x1,
        torch.zeros_like(solution.nfe) if label is None else label,
        torch.stack(straight, 1),
        torch.stack(accelerations).mean(0),
        torch.stack(divergences, 1),
        crossing(field, pair),
        solution.nfe * evaluations_per_call(field),
    )


def no_flow_rows(event: tuple[int, ...], columns: int) -> FlowRows:
    """Return the rows of no trajectory, for `columns` probes (1 for the exact trace), on the CPU."""
    none, ends = torch.empty(0), torch.empty(0, *event)
    numbers = torch.empty(0, dtype=torch.int64)
    over_t, traces = torch.empty(0, NODES), torch.empty(0, NODES, columns)
    return FlowRows(ends, ends, numbers, over_t, none, traces, none, numbers)


def flow_figures(rows: FlowRows, *, exact: bool) -> FlowFigures:
    """Return the figures of rows on the CPU, two or more; exact: the divergence is not of probes."""
    each = {
        "straightness": estimate(rows.straightness.mean(1)),
        "curvature": estimate(rows.curvature),
        "crossing": estimate(rows.crossing),
    }
    pair = Pair(rows.x0[:MOST], rows.x1[:MOST], rows.label[:MOST])
    return FlowFigures(
        samples=len(rows.x0),
        times=midpoints(rows.x0.double()).tolist(),
        straightness=each["straightness"].mean,
        straightness_over_t=rows.straightness.double().mean(0).tolist(),
        divergence_over_t=rows.divergence.double().mean((0, 2)).tolist(),
        divergence_spread_over_t=_spread(rows.divergence.double(), exact=exact),
        trace="exact" if exact else "hutchinson",
        probes=None if exact else rows.divergence.shape[2],
        curvature=each["curvature"].mean,
        transport_cost={
            "model": coupling_cost(pair),
            "independent": independent_cost(pair),
            "optimal": optimal_cost(pair),
            "samples": len(pair.x0),
        },
        crossing=each["crossing"].mean,
        errors={name: found.error for name, found in each.items()},
        nfe=float(rows.nfe.double().mean()),
    )


def _spread(divergence: Tensor, *, exact: bool) -> list[float] | None:
    """Return the standard deviation between samples (M,) of what the probes estimate."""
    probes = divergence.shape[2]
    if not exact and probes == 1:
        return None
    variance = divergence.mean(2).var(0)
    if not exact:
        variance = variance - divergence.var(2).mean(0) / probes
    spread: list[float] = variance.clamp(min=0).sqrt().tolist()
    return spread
