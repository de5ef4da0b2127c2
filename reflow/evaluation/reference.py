"""What samples are measured by: held-out data, their features, and the training data not to be copied."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.data.dataset import DataSet
from reflow.evaluation.floor import floor
from reflow.evaluation.scores import Scores, evenly, scores_against
from reflow.metrics.features.cache import Cached, cached
from reflow.metrics.features.classifier import ClassifierFeatures, cached_classifier
from reflow.metrics.features.extractor import UNPREPARED, Extractor, Features
from reflow.metrics.precision_recall import nearest_distances
from reflow.metrics.standard_errors import RowNumbers
from reflow.randomness import draw_seed
from reflow.recipes.recipe import Recipe

MOST_TRAINING = 60_000  # training samples among which the nearest is looked for, spread evenly over all
PART = 4096  # of them in memory at a time


@dataclass(frozen=True)
class Reference:
    """What every model is measured against.

    extractor: gives the features that are compared; classifier: tells the classes of samples.
    """

    against: Scores
    extractor: Extractor | None
    classifier: ClassifierFeatures | None
    training: DataSet
    held_out: DataSet

    @np.errstate(over="ignore", invalid="ignore")  # of samples far out: what overflows is no figure
    def figures(self, samples: Tensor, labels: RowNumbers | None = None) -> dict[str, Any]:
        """Return the figures of samples (N, *event) against held-out data, and their noise.

        labels: (N,), those that the samples were drawn with, if any.
        """
        return self.against.of(samples, labels)

    def classes(self, samples: Tensor) -> dict[str, float] | None:
        """Return the share of samples in each class, by name, as the classifier sees them."""
        if self.classifier is None:
            return None
        names = self.training.class_names
        counts = np.bincount(self.classifier.classes(samples), minlength=len(names))
        return {name: int(count) / len(samples) for name, count in zip(names, counts, strict=True)}

    @np.errstate(over="ignore", invalid="ignore")
    def nearest_training(self, samples: Tensor) -> dict[str, float]:
        """Return how far samples are from the nearest training sample, RMS per dimension."""
        found = nearest_distances(samples.flatten(1).numpy(), self._training())
        low, median = np.percentile(found, [5, 50])
        return {"median": float(median), "fifth_percentile": float(low)}

    def features_told(self) -> dict[str, Any] | None:
        """Return which network the features are of."""
        found = self.extractor
        if found is None:
            return None
        told = {"name": found.name, "sha256": found.digest, "size": found.size}
        return told | ({"accuracy": found.accuracy} if isinstance(found, ClassifierFeatures) else {})

    def protocol(self) -> dict[str, Any]:
        """Return how figures are made of samples: all that they depend on beside these."""
        against, extractor = self.against, self.extractor
        settings = against.settings
        prepared = UNPREPARED if extractor is None else extractor.preparation
        kernel: dict[str, float] = {"subsets": settings.kernel_subsets, "size": against.kernel_size}
        kernel |= {} if against.seen is None else {"unit": against.seen.unit}
        return {
            "samples": settings.samples,
            "held_out": {"samples": len(self.held_out), "sha256": self.held_out.digest()},
            **prepared._asdict(),
            "kernel": None if against.seen is None else kernel,
            "neighbours": {
                "on": "samples" if extractor is None else extractor.name,
                "samples": len(against.balls),
                "precision_recall": against.balls.neighbours,
                "density_coverage": against.crowd.neighbours,
            },
            "projections": settings.projections,
        }

    def reference(self, labels: Sequence[int] | None = None) -> dict[str, Any]:
        """Return what the figures refer to, and those of real data against real data.

        labels: those of the samples, where they are given any.
        """
        wanted = self.against.settings.samples
        unseen, _ = self.held_out.take(evenly(len(self.held_out), min(wanted, len(self.held_out))))
        rng = np.random.default_rng(draw_seed(self.against.seed, "floor"))
        return {
            "samples": wanted,
            "held_out": len(self.held_out),
            "data": self.held_out.digest(),
            "nearest_training": {
                "training": min(len(self.training), MOST_TRAINING),
                "held_out": self.nearest_training(unseen),
            },
            "classes": self.classes(unseen),
            "floor": floor(self.figures, self.training, wanted, labels, rng),
        }

    def _training(self) -> Iterator[NDArray[np.float32]]:
        """Yield the training samples, flat, a part at a time."""
        rows = evenly(len(self.training), min(len(self.training), MOST_TRAINING))
        for first in range(0, len(rows), PART):
            part, _ = self.training.take(rows[first : first + PART])
            yield part.flatten(1).numpy()


def reference_of(
    recipe: Recipe,
    training: DataSet,
    held_out: DataSet,
    split: Mapping[str, Any],
    extractor: Extractor | None = None,
) -> Reference:
    """Return what a recipe's models are measured against.

    split: what decides which samples are held out. extractor: gives the features; without one, images with
    labels are seen by a classifier.
    """
    settings, classifier = recipe.evaluate, None
    if training.labels is not None and len(training.event) == 3:
        seed = draw_seed(recipe.seed, "classifier")
        classifier = cached_classifier(
            training, held_out, split, steps=settings.classifier_steps, seed=seed
        )
    chosen = extractor or classifier
    real, _ = held_out.take(np.arange(len(held_out)))
    against = scores_against(
        real,
        chosen,
        None if chosen is None else _cached_features(chosen, held_out, real),
        settings,
        fewest=min(settings.samples, len(training), len(held_out)),
        seed=recipe.seed,
    )
    return Reference(against, chosen, classifier, training, held_out)


def _cached_features(extractor: Extractor, data: DataSet, samples: Tensor) -> Features:
    """Return the features (M, F) of all samples of data, computed unless the user's cache has them."""
    found = cached(
        "features",
        parents={"data": data.digest(), "extractor": extractor.digest},
        settings={"name": extractor.name, **extractor.preparation._asdict()},
        make=lambda: Cached({"features": torch.from_numpy(extractor.features(samples))}, {}),
    )
    features: NDArray[np.float32] = found.tensors["features"].numpy()
    return features
