"""A mean over samples with what it may be off by.

Shapes: values (N, K), a row per sample and a column per probe, or (N,).
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, of other samples and all else that differs between them.

    probe_error: the part of it that other probes would make, where there are several.
    """

    mean: float
    error: float | None
    probe_error: float | None = None


def estimate(values: Tensor) -> Estimate:
    """Return the mean over samples and probes; one sample has no error that could be told."""
    table = values.double().reshape(len(values), -1)
    each, (n, k) = table.mean(1), table.shape
    error = float(each.std() / n**0.5) if n > 1 else None
    noise = float((table.var(1).sum() / k).sqrt() / n) if k > 1 else None
    return Estimate(float(each.mean()), error, noise)
