"""The figures of a set of samples: distances to held-out data and coverage of it, each with its noise."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reflow.metrics.features.extractor import INCEPTION, Extractor, Features, names_of
from reflow.metrics.frechet import Moments, frechet_distance, moments
from reflow.metrics.kernel import kernel_distance
from reflow.metrics.precision_recall import (
    DENSITY_NEIGHBOURS,
    Manifold,
    manifold,
    precision_recall,
    spread_ratio,
)
from reflow.metrics.sliced import Shadows, shadows
from reflow.metrics.standard_errors import Measure, RowNumbers, WithNoise, with_noise
from reflow.randomness import draw_seed
from reflow.recipes.recipe import EvaluateSettings

NEUTRAL = ("sliced_wasserstein", "precision", "recall", "density", "coverage", "spread")  # need no features


@dataclass(frozen=True)
class Seen:
    """Held-out samples by an extractor's features (M, F), and their moments.

    unit: what features are divided by before the kernel, which no factor leaves alone; of KID 1.
    """

    extractor: Extractor
    features: Features
    moments: Moments
    unit: float


@dataclass(frozen=True)
class Scores:
    """Held-out samples (M, D) as all others are measured against them.

    balls, crowd: of as many of them as all sides have, by their features where there are.
    kernel_size: samples of a subset of the kernel distance.
    """

    flat: NDArray[np.float32]
    shadows: Shadows
    seen: Seen | None
    balls: Manifold
    crowd: Manifold
    settings: EvaluateSettings
    kernel_size: int
    seed: int

    def names(self) -> list[str]:
        """Return the names of the figures in the order in which they are told."""
        if self.seen is None:
            return list(NEUTRAL)
        frechet, kernel = names_of(self.seen.extractor)
        return [frechet, kernel, f"{kernel}_spread", *NEUTRAL]

    def of(self, samples: Tensor, labels: RowNumbers | None = None) -> dict[str, Any]:
        """Return the figures of samples (N, *event) by name, and their standard errors under "noise".

        labels: (N,), those that the samples were drawn with, if any.
        """
        flat = samples.flatten(1).numpy()
        features = flat if self.seen is None else self.seen.extractor.features(samples)
        few = evenly(len(features), len(self.balls))
        chosen, classes = features[few], None if labels is None else labels[few]
        parts = [
            self._kernel(features),
            with_noise(len(flat), self._distances(flat, features), self._rng("halves"), labels),
            with_noise(len(chosen), self._coverage(chosen), self._rng("halves of coverage"), classes),
        ]
        values = {name: value for part in parts for name, value in part.values.items()}
        noise = {name: value for part in parts for name, value in part.noise.items()}
        return {**{name: values[name] for name in self.names()}, "noise": noise}

    def _kernel(self, features: Features) -> WithNoise:
        if self.seen is None:
            return WithNoise({}, {})
        found = kernel_distance(
            features / self.seen.unit,
            self.seen.features / self.seen.unit,
            subsets=self.settings.kernel_subsets,
            size=self.kernel_size,
            rng=self._rng("kernel"),
        )
        name = names_of(self.seen.extractor).kernel
        noise = {} if found.error is None else {name: found.error}
        return WithNoise({name: found.mean, f"{name}_spread": found.spread}, noise)

    def _distances(self, flat: Features, features: Features) -> Measure:
        """Return what measures some of all samples."""
        cast = self.shadows.cast(flat)

        def measure(rows: NDArray[np.int64]) -> dict[str, float]:
            found = {
                "sliced_wasserstein": self.shadows.distance(cast[rows]),
                "spread": spread_ratio(flat[rows], self.flat),
            }
            if self.seen is not None:
                name = names_of(self.seen.extractor).frechet
                found[name] = frechet_distance(features[rows], self.seen.moments)
            return found

        return measure

    def _coverage(self, chosen: Features) -> Measure:
        """Return what measures some of as many samples as all sides have."""

        def measure(rows: NDArray[np.int64]) -> dict[str, float]:
            precision, recall = precision_recall(chosen[rows], self.balls)
            density, coverage = self.crowd.density_coverage(chosen[rows])
            return {"precision": precision, "recall": recall, "density": density, "coverage": coverage}

        return measure

    def _rng(self, stream: str) -> np.random.Generator:
        return np.random.default_rng(draw_seed(self.seed, stream))


def scores_against(
    real: Tensor,
    extractor: Extractor | None,
    features: Features | None,
    settings: EvaluateSettings,
    *,
    fewest: int,
    seed: int,
) -> Scores:
    """Return the figures against held-out samples (M, *event), whose features (M, F) these are.

    fewest: samples that all sides have.
    """
    flat = real.flatten(1).numpy()
    compared = flat if features is None else features
    chosen = compared[evenly(len(compared), fewest)]
    rng = np.random.default_rng(draw_seed(seed, "projections"))
    return Scores(
        flat,
        shadows(flat, projections=settings.projections, rng=rng),
        None if extractor is None or features is None else _seen(extractor, features),
        manifold(chosen),
        manifold(chosen, DENSITY_NEIGHBOURS),
        settings,
        max(2, min(settings.kernel_size, fewest // 2)),  # subsets of more would be nearly all alike
        seed,
    )


def _seen(extractor: Extractor, features: Features) -> Seen:
    rms = float(np.sqrt(np.square(features, dtype=np.float64).mean()))
    unit = 1.0 if extractor.name == INCEPTION or rms == 0 else rms
    return Seen(extractor, features, moments(features), unit)


def evenly(available: int, wanted: int) -> NDArray[np.int64]:
    """Return `wanted` row numbers spread evenly over what there is, repeating when it is fewer."""
    return np.arange(wanted) * available // wanted
