"""Features that know the data: the penultimate layer of a small classifier trained on its labels.

Distances on them are comparable within one set of weights only, so its digest goes with every score.
Images are (N, C, H, W) in [-1, 1]; features (N, 32).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reflow.artifacts import payload_digest
from reflow.data.dataset import DataSet
from reflow.metrics.features.cache import Cached, cached
from reflow.metrics.features.extractor import CHUNK, UNPREPARED, Preparation
from reflow.randomness import generator

FEATURES = 32
BATCH, RATE = 128, 2e-3
VERSION = 1  # to be raised when the same data and settings train to another classifier


class Classifier(nn.Module):
    """Three 3 x 3 convolutions and two linear layers."""

    def __init__(self, event: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        image_channels, height, width = event
        side = min(4, height // 2, width // 2)
        self.body = nn.Sequential(
            nn.Conv2d(image_channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2 * side),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(side),
            nn.Flatten(),
            nn.Linear(64 * side * side, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores (N, classes)."""
        scores: Tensor = self.head(self.body(x))
        return scores


@dataclass(frozen=True)
class ClassifierFeatures:
    """A trained classifier, its accuracy on held-out data and the digest of its weights."""

    network: Classifier
    accuracy: float
    digest: str
    name: str = "classifier"
    size: int = FEATURES
    preparation: Preparation = UNPREPARED

    @torch.no_grad()
    def features(self, images: Tensor) -> NDArray[np.float32]:
        """Return the features (N, 32) of images."""
        parts = [self.network.body(part) for part in images.split(CHUNK)]
        return np.asarray(torch.cat(parts).numpy())

    @torch.no_grad()
    def classes(self, images: Tensor) -> NDArray[np.int64]:
        """Return the class (N,) that it finds in each image."""
        parts = [self.network(part).argmax(1) for part in images.split(CHUNK)]
        return np.asarray(torch.cat(parts).numpy())


def cached_classifier(
    training: DataSet, held_out: DataSet, split: Mapping[str, Any], *, steps: int, seed: int
) -> ClassifierFeatures:
    """Return a classifier of images with labels, trained unless the user's cache has it.

    split: what decides which samples are held out, with the digest of the data under "data".
    """
    image_channels, height, width = training.event
    event, classes = (image_channels, height, width), len(training.class_names)

    def make() -> Cached:
        found = train_classifier(training, held_out, event, classes, steps=steps, seed=seed)
        return Cached(found.network.state_dict(), {"accuracy": found.accuracy})

    others = {name: value for name, value in split.items() if name != "data"}
    found = cached(
        "classifier",
        parents={"data": split["data"]},
        settings={"version": VERSION, "split": others, "steps": steps, "seed": seed},
        make=make,
    )
    network = Classifier(event, classes).eval()
    network.load_state_dict(found.tensors)
    return ClassifierFeatures(network, found.facts["accuracy"], payload_digest(found.tensors))


def train_classifier(
    training: DataSet,
    held_out: DataSet,
    event: tuple[int, int, int],
    classes: int,
    *,
    steps: int,
    seed: int,
) -> ClassifierFeatures:
    """Return a classifier trained on labelled data, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
        torch.default_generator.manual_seed(seed)
        network = Classifier(event, classes)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    rng = generator(torch.device("cpu"), seed, "classifier")
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        rows = torch.randint(len(training), (BATCH,), generator=rng)
        images, label = training.take(rows.numpy())
        assert label is not None
        loss = functional.cross_entropy(network(images), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    return ClassifierFeatures(network, _accuracy(network, held_out), payload_digest(network.state_dict()))


@torch.no_grad()
def _accuracy(network: Classifier, data: DataSet) -> float:
    right = 0
    for first in range(0, len(data), CHUNK):
        images, label = data.take(np.arange(first, min(first + CHUNK, len(data))))
        assert label is not None
        right += int(torch.eq(network(images).argmax(1), label).sum())
    return right / len(data)
