"""The floor: what figures of real data are against other real data, with as many samples as models draw.

One draw of training samples may be off by chance, in its classes above all. So the floor is the mean of
several, as different as the training set allows, with as many of each class as the samples that models
draw where these are given their labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from reflow.data.dataset import DataSet
from reflow.metrics.standard_errors import RowNumbers

DRAWS = 4  # at most


class Measuring(Protocol):
    """What measures samples."""

    def __call__(self, samples: Tensor, labels: RowNumbers | None) -> Mapping[str, Any]:
        """Return figures by name, and their standard errors under "noise"."""
        ...


def floor(
    figures: Measuring,
    training: DataSet,
    wanted: int,
    labels: Sequence[int] | None,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Return the mean figures of draws of training samples, and their noise.

    wanted: samples a draw, if there are as many. labels: those of the samples that models draw, or None.
    """
    groups = strata(training, wanted, labels)
    drawn = draws(groups, rng)
    classes = training.labels if len(groups) > 1 else None  # of which every draw has as many
    each = [figures(training.take(rows)[0], None if classes is None else classes[rows]) for rows in drawn]
    used = np.bincount(np.concatenate(drawn))
    left = np.square(used).sum() / (len(drawn) * used.sum())  # of a draw's variance, in the mean of all
    noise = {
        name: float(np.sqrt(left * np.mean([one["noise"][name] ** 2 for one in each])))
        for name in each[0]["noise"]
    }
    means = {name: float(np.mean([one[name] for one in each])) for name in each[0] if name != "noise"}
    return {"samples": len(drawn[0]), "draws": len(drawn), **means, "noise": noise}


def strata(training: DataSet, wanted: int, labels: Sequence[int] | None) -> list[tuple[RowNumbers, int]]:
    """Return the rows of training samples to draw from and how many to draw, of each class with labels.

    Classes do not count where the training set has too few of one.
    """
    everything = [(np.arange(len(training)), min(wanted, len(training)))]
    if labels is None or training.labels is None:
        return everything
    classes, counts = np.unique(labels, return_counts=True)
    found = [
        (np.flatnonzero(training.labels == label), int(count))
        for label, count in zip(classes, counts, strict=True)
    ]
    return found if all(count <= len(rows) for rows, count in found) else everything


def draws(groups: Sequence[tuple[RowNumbers, int]], rng: np.random.Generator) -> list[RowNumbers]:
    """Return the rows of each draw, in order: so many of each group, none twice in a draw.

    There are as many draws as any group has room for, up to DRAWS; samples are used again only when all
    of their group have been.
    """
    shuffled = [(rng.permutation(rows), count) for rows, count in groups]
    number = min(DRAWS, max(-(-len(rows) // count) for rows, count in shuffled))
    return [
        np.sort(
            np.concatenate(
                [np.take(rows, k * count + np.arange(count), mode="wrap") for rows, count in shuffled]
            )
        )
        for k in range(number)
    ]
