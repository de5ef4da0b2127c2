"""Divergence of a velocity field: exactly, or estimated by probes (Hutchinson 1990).

The divergence is the trace of the Jacobian J = dv/dx. The exact one is the sum of e_i^T J e_i over all d
directions; with random signs p the mean of p^T J p is the same, whatever J. Either way a direction costs
one way back through the network, after one way there that also gives v. (Forward mode goes there and
along for every direction, needs attention without its fast kernels, and does not know sharded or compiled
networks.) The field must treat the samples of a batch apart, as all of ours do.

Shapes: x, v (B, *event); t (B,); label (B,) or None; probes (B, K, *event) or None for the exact trace;
divergences (B, K), K = 1 for the exact one.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from reflow.flow import VelocityField
from reflow.randomness import uniform


def is_exact(count: int, event: tuple[int, ...]) -> bool:
    """Return whether the exact trace needs no more directions than there would be probes."""
    return torch.Size(event).numel() <= count


def probes_for(
    seed: int, stream: str, numbers: Sequence[int], count: int, event: tuple[int, ...]
) -> Tensor | None:
    """Return `count` probes of random signs for each of these sample numbers, float32.

    It is None, which asks for the exact trace, where there are no more directions than that. The first
    probes of a sample are the same whatever the count, the batch and the process.
    """
    if is_exact(count, event):
        return None
    return 1 - 2 * (uniform(seed, stream, numbers, (count, *event)) < 0.5).float()


def velocity_and_divergence(
    field: VelocityField, x: Tensor, t: Tensor, label: Tensor | None, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return v and, for every probe, its estimate of the divergence, from one evaluation of the field."""
    with torch.enable_grad():
        place = x.detach().requires_grad_()
        velocity = field(place, t, label)
        traces = _exact(velocity, place) if probes is None else _estimated(velocity, place, probes)
    return velocity.detach(), traces


def _exact(velocity: Tensor, place: Tensor) -> Tensor:
    rows = _pulled_back(velocity, place, _directions(velocity))
    diagonal = [row.flatten(1)[:, index] for index, row in enumerate(rows)]
    return torch.stack(diagonal).sum(0)[:, None]


def _estimated(velocity: Tensor, place: Tensor, probes: Tensor) -> Tensor:
    signs = probes.to(velocity).unbind(1)
    rows = _pulled_back(velocity, place, signs)
    return torch.stack([(row * sign).flatten(1).sum(1) for row, sign in zip(rows, signs, strict=True)], 1)


def _directions(velocity: Tensor) -> Iterator[Tensor]:
    """Yield the unit vectors (B, *event)."""
    for index in range(velocity[0].numel()):
        direction = torch.zeros_like(velocity).flatten(1)
        direction[:, index] = 1
        yield direction.reshape(velocity.shape)


def _pulled_back(velocity: Tensor, place: Tensor, directions: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield p^T J (B, *event) for every direction p (B, *event)."""
    for direction in directions:
        (row,) = torch.autograd.grad(velocity, place, direction, retain_graph=True)
        yield row
