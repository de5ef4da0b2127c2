"""Whether the images of a later round still cover those of the first one, or have collapsed.

A model that is trained again and again on images of its own loses some each time: rare ones first, then
the variance (arXiv:2412.08175). Up to MOST images of the new pairs are compared with as many of the first
round's, and so are as many others of the first round, which says what full coverage looks like at that
number. They have the numbers of the new ones, hence their noise: what differs is due to the rounds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reflow.artifacts import PAIRS, Header, file_digest
from reflow.artifacts.facts import pair_facts
from reflow.errors import ReflowError
from reflow.metrics.precision_recall import manifold, spread_ratio
from reflow.pairs.store import PairStore, read_index
from reflow.pairs.writer import ShardSet
from reflow.randomness import draw_seed
from reflow.recipes.recipe import CoupleSettings

ROLE = "first-pairs"  # of the first round's pairs among the parents of later ones
MOST, LEAST = 2000, 16  # images of a side
SAME = ("seed", "couple.labels")  # settings that both rounds share, for the same noise and labels


@dataclass(frozen=True)
class First:
    """The pairs of the first round: where they are and the digest of their index."""

    path: Path
    digest: str


@dataclass(frozen=True)
class Coverage:
    """Recall and spread of new images and, `own`, of the first round's, both against others of the first.

    samples: images of each.
    """

    samples: int
    recall: float
    own_recall: float
    spread: float
    own_spread: float

    def facts(self) -> dict[str, float]:
        """Return the figures as they are recorded."""
        return {key: round(value, 6) for key, value in asdict(self).items()}

    def kept(self) -> dict[str, float]:
        """Return which share of recall and spread is left; of nothing, nothing is lost."""
        return {
            "recall": self.recall / self.own_recall if self.own_recall else 1.0,
            "spread": self.spread / self.own_spread if self.own_spread else 1.0,
        }

    def told(self) -> str:
        """Return the figures in words."""
        return (
            f"of {self.samples} images of the first round, recall {self.recall:.3g} "
            f"(by its own others {self.own_recall:.3g}) and spread {self.spread:.3g} "
            f"(its own {self.own_spread:.3g})"
        )


def first_pairs(path: Path, new: Header) -> First:
    """Return the pairs in `path`; refuse those that the ones with this header are not compared with.

    These are others than the first round's, of other samples, noise or labels, or too few on a side.
    """
    found, _ = read_index(path / PAIRS)
    facts, wanted = pair_facts(found.facts), pair_facts(new.facts)
    if (facts.event, facts.classes) != (wanted.event, wanted.classes):
        raise ReflowError(
            f"--against {path} holds samples of {facts.event} with {facts.classes or 'no'} classes, but "
            f"the model makes {wanted.event} with {wanted.classes or 'no'}; give the first round's pairs"
        )
    if found.rectification != 1 or facts.inverted:
        what = "real images" if facts.inverted else f"pairs of round {found.rectification}"
        raise ReflowError(f"--against {path} holds {what}; give the pairs that the base model generated")
    for setting, theirs, ours in zip(SAME, _draws(found), _draws(new), strict=True):
        if theirs != ours:
            raise ReflowError(
                f"--against {path} has {setting} = {theirs}, and these pairs have {ours}, so noise or "
                f"labels differ; make both with the same {setting}"
            )
    counts = facts.count or 0, new.recipe["couple"]["count"]
    if min(counts) < 2 * LEAST:
        raise ReflowError(
            f"--against needs {2 * LEAST} pairs on both sides, and there are {counts[0]} and {counts[1]}; "
            "leave it out"
        )
    return First(path, file_digest(path / PAIRS))


def _draws(header: Header) -> tuple[object, object]:
    """Return what noise and labels of pairs by number depend on: the settings SAME."""
    return header.recipe.get("seed"), header.recipe.get("couple", {}).get("labels") or "all"


def coverage_of(first: PairStore, new: ShardSet, seed: int) -> Coverage:
    """Return how new pairs, whose shards are all there, cover the first ones; the seed chooses them."""
    common = min(len(first), new.items)
    count = min(MOST, common // 2)
    rng = np.random.Generator(np.random.Philox(draw_seed(seed, "against")))
    rows = rng.permutation(common)
    reference, own = (
        first.take(part).x1.flatten(1).numpy() for part in (rows[:count], rows[count:][:count])
    )
    images = new.images(rows[count:][:count]).flatten(1).numpy()
    return Coverage(
        count,
        float(manifold(images).covers(reference).mean()),
        float(manifold(own).covers(reference).mean()),
        spread_ratio(images, reference),
        spread_ratio(own, reference),
    )


def recorded(facts: Mapping[str, Any]) -> Coverage:
    """Return the comparison that the facts of an index tell of."""
    return Coverage(**(pair_facts(facts).against or {}))


def require_coverage(found: Coverage, settings: CoupleSettings, out: Path, rounds: int) -> None:
    """Refuse images that cover too little of the first round's; `rounds` is the number of theirs."""
    kept, least = found.kept(), {"recall": settings.least_recall, "spread": settings.least_spread}
    lost = [name for name in kept if kept[name] < least[name]]
    if not lost:
        return
    what = " and ".join(
        f"{kept[name]:.2g} of the {name} is left (couple.least_{name} = {least[name]:g})" for name in lost
    )
    raise ReflowError(
        f"{out}: collapse: {what}; stop at round {rounds - 1}, or retrain the model of these pairs with "
        "real ones mixed in (couple --invert, then --pairs generated --pairs inverted --weights 0.8,0.2); "
        f"to use them all the same, lower {' and '.join(f'couple.least_{name}' for name in lost)} with "
        "--set: the shards are kept"
    )
