"""What samples are measured by: held-out data, their features, and the training data not to be copied."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reflow.data.dataset import DataSet
from reflow.metrics.classifier import Extractor, train_classifier
from reflow.metrics.frechet import frechet_distance
from reflow.metrics.manifold import Manifold, manifold, nearest_distances, precision_recall, spread_ratio
from reflow.metrics.sliced import sliced_wasserstein
from reflow.noise import draw_seed
from reflow.settings import EvaluateSettings, Recipe

MOST_TRAINING = 60_000  # training samples among which the nearest is looked for, spread evenly over all
PART = 4096  # of them in memory at a time


@dataclass(frozen=True)
class Yardstick:
    """What every model is measured against, with the same random directions and features.

    manifold: of as many held-out samples as all sides have, by their features where there are.
    """

    real: NDArray[np.float32]
    features: NDArray[np.float32] | None
    extractor: Extractor | None
    manifold: Manifold
    training: DataSet
    settings: EvaluateSettings
    seed: int

    def figures(self, samples: Tensor) -> dict[str, float]:
        """Return the distances of samples (N, *event) to the held-out data, and how they cover it."""
        rng = np.random.default_rng(draw_seed(self.seed, "projections"))
        flat = samples.flatten(1).numpy()
        wanted = self.settings.projections
        found = {"sliced_wasserstein": sliced_wasserstein(flat, self.real, projections=wanted, rng=rng)}
        seen = flat
        if self.extractor is not None and self.features is not None:
            seen = self.extractor.features(samples)
            found["frechet_classifier"] = frechet_distance(seen, self.features)
        precision, recall = precision_recall(seen[evenly(len(seen), len(self.manifold))], self.manifold)
        return found | {
            "precision": precision,
            "recall": recall,
            "spread": spread_ratio(flat, self.real),
        }

    def nearest_training(self, samples: Tensor) -> dict[str, float]:
        """Return how far samples are from the nearest training sample, RMS per dimension."""
        found = nearest_distances(samples.flatten(1).numpy(), self._training())
        low, median = np.percentile(found, [5, 50])
        return {"median": float(median), "fifth_percentile": float(low)}

    def reference(self, held_out: DataSet) -> dict[str, Any]:
        """Return what the figures refer to, and those of real data against real data."""
        wanted, extractor = self.settings.samples, self.extractor
        real, _ = self.training.take(evenly(len(self.training), min(wanted, len(self.training))))
        unseen, _ = held_out.take(evenly(len(held_out), min(wanted, len(held_out))))
        return {
            "samples": wanted,
            "held_out": len(held_out),
            "data": held_out.digest(),
            "features": None
            if extractor is None
            else {"name": "classifier", "sha256": extractor.digest, "accuracy": extractor.accuracy},
            "coverage": {
                "on": "samples" if extractor is None else "classifier",
                "samples": len(self.manifold),
            },
            "nearest_training": {
                "training": min(len(self.training), MOST_TRAINING),
                "held_out": self.nearest_training(unseen),
            },
            "floor": {"samples": len(real), **self.figures(real)},
        }

    def _training(self) -> Iterator[NDArray[np.float32]]:
        """Yield the training samples, flat, a part at a time."""
        rows = evenly(len(self.training), min(len(self.training), MOST_TRAINING))
        for first in range(0, len(rows), PART):
            part, _ = self.training.take(rows[first : first + PART])
            yield part.flatten(1).numpy()


def yardstick(recipe: Recipe, training: DataSet, held_out: DataSet) -> Yardstick:
    """Return the measure of a recipe's models; images with labels are seen by a classifier, too."""
    real, _ = held_out.take(np.arange(len(held_out)))
    settings, extractor, features = recipe.evaluate, None, None
    if training.labels is not None and len(training.event) == 3:
        colours, height, width = training.event
        extractor = train_classifier(
            training,
            held_out,
            (colours, height, width),
            len(training.class_names),
            steps=settings.classifier_steps,
            seed=draw_seed(recipe.seed, "classifier"),
        )
        features = extractor.features(real)
    flat = real.flatten(1).numpy()
    seen = flat if features is None else features
    covered = manifold(seen[evenly(len(seen), min(settings.samples, len(training), len(seen)))])
    return Yardstick(flat, features, extractor, covered, training, settings, recipe.seed)


def evenly(available: int, wanted: int) -> NDArray[np.int64]:
    """Return `wanted` row numbers spread evenly over what there is, repeating when it is fewer."""
    return np.arange(wanted) * available // wanted
