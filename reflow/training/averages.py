"""Averages of the weights: exponential by half-life, and power functions from which widths are rebuilt.

The half-life of the exponential average ramps up with the steps done, so that early averages forget the
initial weights (the rule of Karras et al. 2022, arXiv:2206.00364, there counted in images).

In a power-function average after n steps the weights of step k count in proportion to k^gamma. Relative to
the length of the training run it is as wide at the end as at any earlier step; its *width* is the standard
deviation of the profile as a share of the steps done. Averages of a few widths, stored now and then, span
averages of other widths, so that the width is chosen after training. Karras et al. 2024
(arXiv:2312.02696).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.errors import ReflowError

WIDTHS = (0.05, 0.10)  # tracked in training
WIDEST = 12**-0.5  # the plain mean of all steps: gamma = 0
RAMP = 0.05  # the half-life is at most this share of the steps done


class Profile(NamedTuple):
    """The average with exponent gamma after `step` steps: its density at s is in proportion to s^gamma."""

    gamma: float
    step: int


def gamma_of(width: float) -> float:
    """Return the exponent of the profile of this width.

    The variance of a power profile is (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) of the length squared: a
    cubic in gamma.

    Raises ReflowError for a width that no such profile has.
    """
    if not 0 < width < WIDEST:
        raise ReflowError(
            f"--width {width:g}: it lies between 0 (the last weights alone) and {WIDEST:.4f} (the plain "
            "mean of all steps); choose a number between them, such as 0.1"
        )
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


@torch.no_grad()
def update_ema(average: Iterable[Tensor], weights: Iterable[Tensor], step: int, halflife: float) -> None:
    """Move the average towards the weights after optimiser step number `step` (from 1)."""
    effective = min(halflife, RAMP * step)
    torch._foreach_lerp_(list(average), list(weights), 1 - 0.5 ** (1 / effective))


@torch.no_grad()
def update_power(averages: Iterable[Tensor], weights: Iterable[Tensor], step: int, gamma: float) -> None:
    """Move the averages towards the weights after optimiser step number `step` (from 1; it copies them)."""
    torch._foreach_lerp_(list(averages), list(weights), 1 - (1 - 1 / step) ** (gamma + 1))


def coefficients(stored: Sequence[Profile], wanted: Profile) -> NDArray[np.float64]:
    """Return what to multiply the stored averages by, so that their sum comes closest to the wanted one.

    The factors (len(stored),) add up to 1 and minimise the square of the difference of the profiles,
    integrated over the steps. For an average that is stored it is that one alone.
    """
    if wanted in stored:
        return np.array([float(profile == wanted) for profile in stored]) / stored.count(wanted)
    products = _products(stored, stored)
    size = np.sqrt(np.diag(products))
    cosines = products / np.outer(size, size)
    sides = np.stack([_products(stored, [wanted])[:, 0] / size, 1 / size], axis=1)
    # Neighbours are nearly parallel: what rounding has eaten of the spectrum is left out.
    best, shift = np.linalg.lstsq(cosines, sides, rcond=None)[0].T
    scaled = best + shift * (1 - (best / size).sum()) / (shift / size).sum()  # Lagrange: adding up to 1
    return np.asarray(scaled / size, dtype=np.float64)


def mismatch(stored: Sequence[Profile], wanted: Profile, factors: NDArray[np.float64]) -> float:
    """Return how far the sum of stored profiles times factors is from the wanted one, relative to it (L2).

    It is the relative error of the average of weights that are pure noise from step to step; weights that
    move steadily err less.
    """
    square = _products([wanted], [wanted])[0, 0]
    overlap = _products(stored, [wanted])[:, 0] @ factors
    difference = square - 2 * overlap + factors @ _products(stored, stored) @ factors
    return float(np.sqrt(max(difference, 0.0) / square))


def _products(these: Sequence[Profile], those: Sequence[Profile]) -> NDArray[np.float64]:
    """Return the integrals of the products of densities, (len(these), len(those))."""
    gamma, step = (column[:, None] for column in np.array(these, dtype=np.float64).T)
    other_gamma, other_step = np.array(those, dtype=np.float64).T
    longer = np.maximum(step, other_step)
    exponent = np.where(step < other_step, other_gamma, gamma)  # that of the longer one
    shrunk = (np.minimum(step, other_step) / longer) ** exponent
    factor = (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1)
    return np.asarray(factor * shrunk / longer)
