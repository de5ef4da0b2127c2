"""Likelihood by the continuity equation: what the flow's density is at a sample.

Along a trajectory the logarithm of the density falls at the rate of the divergence of the velocity,
d log p / dt = -div v, so

    log p1(x1) = log N(x0; 0, I) - integral of div v dt,

where x0 is the noise that the sample comes from. Both are found by solving backward from t = 1 the system
of x and of one such integral for each probe; see `metrics.divergence` for probes. Chen et al. 2018
(arXiv:1806.07366), Grathwohl et al. 2018 (arXiv:1810.01367).

Shapes: x1 (B, *event); label (B,) or None; probes (B, K, *event) or None for the exact trace; nats (B, K),
K = 1 for the exact one; nfe (B,).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reflow.devices import most_precise
from reflow.flow import VelocityField
from reflow.guidance import evaluations_per_call
from reflow.metrics.divergence import velocity_and_divergence
from reflow.metrics.standard_errors import Estimate, estimate
from reflow.pixels import LEVEL
from reflow.solvers import integrate


class Likelihood(NamedTuple):
    """What is known of each sample: log p1 by every probe, in nats, and what it cost.

    nfe counts evaluations of the network; each is followed by a way back through it for every probe or,
    where the trace is exact, for every direction.
    """

    nats: Tensor
    nfe: Tensor


@dataclass(frozen=True)
class LikelihoodFigures:
    """The likelihood of a set, as it is written.

    trace: exact, or hutchinson with `probes` for each sample. bits_per_dimension and dequantisation: of
    images only. nfe: mean evaluations of a sample.
    """

    samples: int
    trace: str
    probes: int | None
    nats: Estimate
    bits_per_dimension: Estimate | None
    dequantisation: str | None
    nfe: float


def log_likelihood(
    field: VelocityField,
    x1: Tensor,
    *,
    tolerance: float,
    label: Tensor | None = None,
    probes: Tensor | None = None,
) -> Likelihood:
    """Return log p1 of the samples under the flow of the field.

    tolerance: the order of the RMS error of x0 in data units and of log p1 in nats per dimension. Samples
    and probes keep together however the solver orders the batch.

    Raises ReflowError as `integrate` does.
    """
    columns = 1 if probes is None else probes.shape[1]
    system = _Augmented(field, tuple(x1.shape[1:]), columns, label, probes)
    number = torch.arange(len(x1), device=x1.device)
    start = torch.cat([x1.flatten(1), x1.new_zeros(len(x1), columns)], dim=1)
    found = integrate(system, start, tolerance=tolerance, t0=1.0, t1=0.0, label=number)
    ends = found.x1.to(most_precise(x1.device))
    x0, fallen = ends[:, : system.dimensions], ends[:, system.dimensions :]
    at_noise = -0.5 * (x0.square() + math.log(2 * math.pi)).sum(1, keepdim=True)
    return Likelihood(at_noise + fallen / system.scale, found.nfe * evaluations_per_call(field))


def no_likelihood(columns: int) -> Likelihood:
    """Return what is known of no sample, for `columns` probes (1 for the exact trace), on the CPU."""
    return Likelihood(torch.empty(0, columns), torch.empty(0, dtype=torch.int64))


def likelihood_figures(
    found: Likelihood, event: tuple[int, ...], *, exact: bool, dequantised: bool
) -> LikelihoodFigures:
    """Return the figures of a set of samples of this shape, known on the CPU.

    exact: the divergence was not of probes. dequantised: the samples are pixels of 256 levels, each spread
    evenly over its width. The mean of -log2(p1 times the volume of a cell of levels) is then at least that
    of -log2 of the probability of the levels, as Jensen's inequality says: an upper bound on their bits.
    Theis et al. 2015 (arXiv:1511.01844).
    """
    dimensions = torch.Size(event).numel()
    bits = -(found.nats + dimensions * math.log(LEVEL)) / (dimensions * math.log(2))
    return LikelihoodFigures(
        samples=len(found.nats),
        trace="exact" if exact else "hutchinson",
        probes=None if exact else found.nats.shape[1],
        nats=estimate(found.nats),
        bits_per_dimension=estimate(bits) if dequantised else None,
        dequantisation="uniform" if dequantised else None,
        nfe=float(found.nfe.double().mean()),
    )


@dataclass(frozen=True)
class _Augmented:
    """The field of (x, integrals of the divergence) as rows (B, D + K).

    The solver knows a sample by its number alone, given as its label. The integrals are scaled so that the
    mean square over a row counts x per dimension once, and nats per dimension, averaged over probes, once.
    """

    field: VelocityField
    event: tuple[int, ...]
    columns: int
    label: Tensor | None
    probes: Tensor | None

    @property
    def dimensions(self) -> int:
        return torch.Size(self.event).numel()

    @property
    def scale(self) -> float:
        return math.sqrt((self.dimensions + self.columns) / self.columns) / self.dimensions

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        place = x[:, : self.dimensions].reshape(-1, *self.event)
        own = None if self.label is None else self.label[label]
        signs = None if self.probes is None else self.probes[label]
        velocity, divergence = velocity_and_divergence(self.field, place, t, own, signs)
        return torch.cat([velocity.flatten(1), self.scale * divergence.to(velocity)], dim=1)
