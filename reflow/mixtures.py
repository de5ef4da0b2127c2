"""The pairs that a stage trains on: one set or several, and the share of the examples that each gives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from reflow.couplings import Coupling, Mixture, Stored
from reflow.errors import ReflowError
from reflow.lineage import pairs_role, require_related
from reflow.models import Model
from reflow.noise import draw_seed
from reflow.pairs import PairStore
from reflow.workspace import WEIGHTS


@dataclass(frozen=True)
class PairSets:
    """Opened sets of pairs and, in whole numbers, the share of each."""

    stores: Sequence[PairStore]
    shares: Sequence[int]

    def parents(self) -> dict[str, str]:
        """Return the digests by role: pairs, pairs-2, ..."""
        return {pairs_role(number): store.digest for number, store in enumerate(self.stores, 1)}

    def facts(self, model: Model) -> dict[str, Any]:
        """Return the facts of a model trained on these pairs, beside its steps; others are its parent's."""
        facts = model.header.facts | {"training_samples": sum(len(store) for store in self.stores)}
        facts.pop(WEIGHTS, None)
        if len(self.stores) > 1:
            facts[WEIGHTS] = [share / sum(self.shares) for share in self.shares]
        return facts

    def coupling(self, seed: int) -> Coupling:
        """Return the coupling that draws from them, each in an order of its own."""
        stored = [
            Stored(store, draw_seed(seed, pairs_role(number)))
            for number, store in enumerate(self.stores, 1)
        ]
        return Mixture(stored, self.shares) if len(stored) > 1 else stored[0]


def mix(
    stores: Sequence[PairStore],
    paths: Sequence[Path],
    weights: Sequence[Fraction] | None,
    model: Model,
    model_path: Path,
    *,
    or_learnt: bool,
) -> PairSets:
    """Return sets of pairs as one coupling, weighted by their numbers of pairs unless told otherwise.

    Raises ReflowError when the model did not make them (nor learn from them, where that is allowed), or
    two are the same.
    """
    seen: dict[str, Path] = {}
    for store, path in zip(stores, paths, strict=True):
        require_related(model, model_path, store, path, or_learnt=or_learnt)
        if store.digest in seen:
            raise ReflowError(
                f"--pairs {path} and --pairs {seen[store.digest]} are the same pairs; give each set once, "
                "and --weights to draw more from it"
            )
        seen[store.digest] = path
    return PairSets(stores, _shares(weights or [Fraction(len(store)) for store in stores]))


def _shares(weights: Sequence[Fraction]) -> list[int]:
    """Return the smallest whole numbers in the same proportions."""
    multiple = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * multiple) for weight in weights]
    divisor = math.gcd(*whole)
    return [number // divisor for number in whole]
