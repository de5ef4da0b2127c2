"""The pairs that a stage trains on: one set or several, and the share of the examples that each gives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from reflow.artifacts.facts import ModelFacts
from reflow.couplings import Coupling, Drawn, Mixture, Stored
from reflow.errors import ReflowError
from reflow.models import Model
from reflow.pairs.store import PairStore
from reflow.randomness import draw_seed

Side = tuple[Coupling, int]  # with its number of examples


@dataclass(frozen=True)
class PairSets:
    """Opened sets of pairs and, in whole numbers, the share of each."""

    stores: Sequence[PairStore]
    shares: Sequence[int]

    def parents(self) -> dict[str, str]:
        """Return the digests by role: pairs, pairs-2, ..."""
        return {pairs_role(number): store.digest for number, store in enumerate(self.stores, 1)}

    def facts(self, model: Model, held_out: float) -> ModelFacts:
        """Return the facts of a model trained on these pairs, beside its steps; others are its parent's."""
        trained_on = sum(len(store) - _held_out(store, held_out) for store in self.stores)
        several = len(self.stores) > 1
        weights = tuple(share / sum(self.shares) for share in self.shares) if several else ()
        return replace(model.facts, training_samples=trained_on, weights=weights)

    def split(self, held_out: float, seed: int) -> tuple[Side, Side]:
        """Return the couplings to train on and to validate on, which has this share of each set's pairs.

        Each set is drawn from in an order of its own.
        """
        return self._side(held_out, seed, kept=False), self._side(held_out, seed, kept=True)

    def _side(self, held_out: float, seed: int, *, kept: bool) -> Side:
        stored, shares, count = [], [], 0
        for number, store in enumerate(self.stores, 1):
            own, limit = draw_seed(seed, pairs_role(number)), _held_out(store, held_out)
            part = Drawn(store, own, 0, limit) if kept else Drawn(store, own, limit, len(store))
            if len(part) or not kept:
                stored.append(Stored(part, own))
                shares.append(self.shares[number - 1])
                count += len(part)
        return Mixture(stored, shares) if len(stored) != 1 else stored[0], count


def _held_out(store: PairStore, share: float) -> int:
    """Return how many pairs of a set are kept from training: not all, and none of a very small set."""
    return min(round(len(store) * share), len(store) - 1)


def mix(
    stores: Sequence[PairStore],
    paths: Sequence[Path],
    weights: Sequence[Fraction] | None,
    model: Model,
    model_path: Path,
    *,
    or_learned: bool,
) -> PairSets:
    """Return sets of pairs as one coupling, weighted by their numbers of pairs unless told otherwise.

    Raises ReflowError when the model did not make them (nor learn from them, where that is allowed), or
    two are the same.
    """
    seen: dict[str, Path] = {}
    for store, path in zip(stores, paths, strict=True):
        require_related(model, model_path, store, path, or_learned=or_learned)
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


def require_related(
    model: Model, model_path: Path, pairs: PairStore, pairs_path: Path, *, or_learned: bool
) -> None:
    """Refuse pairs of another shape, or that the model did not make (nor learn from, where allowed)."""
    if pairs.event != model.event or pairs.facts.classes != model.classes:
        raise ReflowError(
            f"{pairs_path} holds samples of {pairs.event} with "
            f"{pairs.facts.classes or 'no'} classes, but {model_path} works on "
            f"{model.event} with {model.classes or 'no'} classes; give pairs that this model made"
        )
    made = pairs.header.parents.get("model") == model.digest
    learned = or_learned and pairs.digest in _learned(model)
    if not made and not learned:
        raise ReflowError(
            f"{pairs_path} was made by another model than {model_path}; "
            "run reflow couple with this model, or give the model that made these pairs"
        )


def pairs_role(number: int) -> str:
    """Return the role among the parents of set `number` of the pairs, counted from 1."""
    return "pairs" if number == 1 else f"pairs-{number}"


def _learned(model: Model) -> list[str]:
    """Return the digests of the pairs that a model was trained on."""
    parents = model.header.parents
    return [
        parents[role] for number in range(1, len(parents) + 1) if (role := pairs_role(number)) in parents
    ]
