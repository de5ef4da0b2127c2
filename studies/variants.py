"""What studies/study.py measures: chains of `reflow` commands with changed settings, as data.

A stage is one command and the stages that it takes its inputs from. Its name is a digest of both, so
variants that begin alike share what they begin with. A change that a recipe has anyway is left out:
what it would compare with is the same stage.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reflow.errors import ReflowError
from reflow.objectives.distances import DISTANCES
from reflow.recipes.read import override, parse_overrides
from reflow.recipes.recipe import Recipe
from reflow.recipes.training import LEARNS_WITH

Changes = tuple[str, ...]  # section.key=value


@dataclass(frozen=True)
class Stage:
    """One command: what it does, with which model and pairs, and what it changes in the recipe.

    kind: base, pairs, inverted, reflow or distill. weights: shares of the pairs. start: which weights
    training starts from where it is not the model's average: see initial.py.
    """

    kind: str
    model: "Stage | None" = None
    pairs: tuple["Stage", ...] = ()
    changes: Changes = ()
    weights: str = ""
    start: str = ""

    def inputs(self) -> tuple["Stage", ...]:
        """Return the stages that this one reads."""
        return self.pairs if self.model is None else (self.model, *self.pairs)

    def ancestry(self) -> list["Stage"]:
        """Return what has to be run for this stage, in order, itself last."""
        before = [stage for parent in self.inputs() for stage in parent.ancestry()]
        return [*dict.fromkeys(before), self]

    def name(self, recipe: str) -> str:
        """Return the folder of this stage under a recipe (as JSON)."""
        inputs = [stage.name(recipe) for stage in self.inputs()]
        content = json.dumps([recipe, self.kind, inputs, self.changes, self.weights, self.start])
        return f"{self.kind}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Variant:
    """Models to measure, and the table that they belong to."""

    group: str
    models: tuple[Stage, ...]


@dataclass(frozen=True)
class Chain:
    """The pipeline with changes, and which of its models are measured.

    real: share of inverted real pairs in the mixture; start: as in Stage, of the reflow.
    """

    base: Changes = ()
    pairs: Changes = ()
    reflow: Changes = ()
    distill: Changes = ()
    real: float = 0.0
    start: str = ""
    measured: tuple[str, ...] = ("reflow", "distill")

    def under(self, recipe: Recipe) -> dict[str, Stage]:
        """Return its stages by kind."""
        base = Stage("base", changes=effective(recipe, self.base))
        pairs: tuple[Stage, ...] = (Stage("pairs", base, changes=effective(recipe, self.pairs)),)
        weights = ""
        if self.real:
            pairs += (Stage("inverted", base, changes=effective(recipe, self.pairs)),)
            weights = f"{1 - self.real:g},{self.real:g}"
        reflowed = Stage(
            "reflow", base, pairs, effective(recipe, self.reflow), weights=weights, start=self.start
        )
        student = Stage("distill", reflowed, pairs, effective(recipe, self.distill), weights=weights)
        return {"base": base, "pairs": pairs[0], "reflow": reflowed, "distill": student}


def effective(recipe: Recipe, changes: Sequence[str]) -> Changes:
    """Return the changes, or none if the recipe has them all."""
    try:
        return () if override(recipe, parse_overrides(changes)) == recipe else tuple(changes)
    except ReflowError:  # of a setting that this version does not know: the command itself will say so
        return tuple(changes)


def variants(recipe: Recipe) -> dict[str, Variant]:
    """Return all variants of a recipe by name, the chain that the others are compared with first."""
    found = rounds(recipe) | objectives(recipe)
    for group, chains in ablations(recipe).items():
        for name, chain in chains.items():
            stages = chain.under(recipe)
            found[name] = Variant(group, tuple(stages[kind] for kind in chain.measured))
    return found


def rounds(recipe: Recipe) -> dict[str, Variant]:
    """Return the pipeline, and those with another round of reflow."""
    chain = Chain().under(recipe)
    second = chain["reflow"]
    pairs, real = Stage("pairs", second), Stage("inverted", second)
    third = Stage("reflow", second, (pairs,))
    mixed = Stage("reflow", second, (pairs, real), weights="0.8,0.2")
    return {
        "base": Variant("rounds", (chain["base"],)),
        "2-rectified": Variant("rounds", (second, chain["distill"])),
        "3-rectified": Variant("rounds", (third, Stage("distill", third, (pairs,)))),
        "3-rectified-real": Variant("rounds", (mixed, Stage("distill", mixed, (pairs,)))),
    }


def objectives(recipe: Recipe) -> dict[str, Variant]:
    """Return the students: from the reflowed model, and from the base in the time of both stages."""
    chain = Chain().under(recipe)
    following = recipe.distill.objective != "regress"
    own = recipe.distill.steps * (2 if following else 1)  # in steps of regression, as the next one
    both = own + recipe.reflow.steps

    def student(teacher: str, name: str, steps: int, *more: str) -> Variant:
        taken = steps if name == "regress" else steps // 2  # a step of the others takes twice the time
        changes = (f"distill.objective={name}", f"distill.steps={taken}", *more)
        stage = Stage("distill", chain[teacher], (chain["pairs"],), effective(recipe, changes))
        return Variant("objectives", (stage,))

    found = {}
    for name in LEARNS_WITH:
        found[name] = student("reflow", name, own)
        found[f"{name}-from-base"] = student("base", name, both)
    for steps in (2, 4):
        found[f"regress-{steps}-steps"] = student(
            "reflow", "regress", own, f"distill.student_steps={steps}"
        )
    return found


def ablations(recipe: Recipe) -> Mapping[str, Mapping[str, Chain]]:
    """Return chains with one thing changed, by table and name."""
    return ablations_of_reflow(recipe) | ablations_of_pairs(recipe) | ablations_of_students(recipe)


def ablations_of_reflow(recipe: Recipe) -> dict[str, dict[str, Chain]]:
    """Return those that change the reflowed model, or the base before it."""
    steps = recipe.reflow.steps
    return {
        "initial weights of reflow": {"init-raw": Chain(start="raw"), "init-fresh": Chain(start="fresh")},
        "distribution of t": {
            "times-uniform": Chain(reflow=('reflow.times="uniform"',)),
            "times-logit-normal": Chain(reflow=('reflow.times="logit-normal"',)),
            "times-logit-normal-1.5": Chain(reflow=('reflow.times="logit-normal"', "reflow.logit_std=1.5")),
            "times-u4": Chain(reflow=('reflow.times="u-shaped"', "reflow.sharpness=4.0")),
            "times-u6": Chain(reflow=('reflow.times="u-shaped"', "reflow.sharpness=6.0")),
        },
        "distance": {f"distance-{name}": Chain(reflow=(f"reflow.distance={name}",)) for name in DISTANCES},
        "coupling of the base": {
            "transport-128": Chain(base=("train.transport=128",), measured=("base", "reflow", "distill"))
        },
        "steps of reflow": {
            "reflow-steps-x0.5": Chain(reflow=(f"reflow.steps={steps // 2}",)),
            "reflow-steps-x2": Chain(reflow=(f"reflow.steps={2 * steps}",)),
        },
    }


def ablations_of_pairs(recipe: Recipe) -> dict[str, dict[str, Chain]]:
    """Return those that change what reflow and distillation learn from."""
    count = recipe.couple.count
    euler = ('couple.solver="euler"', "couple.tolerance=none")
    return {
        "number of pairs": {
            f"pairs-x{share:.3g}": Chain(pairs=(f"couple.count={round(count * share)}",))
            for share in (1 / 4, 1 / 2, 10 / 3)
        },
        "real pairs in the mixture": {f"real-{share:g}": Chain(real=share) for share in (0.1, 0.3)},
        "accuracy of the pairs": {
            "tolerance-2e-2": Chain(pairs=("couple.tolerance=0.02",)),
            "tolerance-2e-3": Chain(pairs=("couple.tolerance=0.002",)),
            "euler-4": Chain(pairs=(*euler, "couple.steps=4")),
            "euler-16": Chain(pairs=(*euler, "couple.steps=16")),
        },
    }


def ablations_of_students(recipe: Recipe) -> dict[str, dict[str, Chain]]:
    """Return those that change the student alone, or the dropout that it inherits."""
    rate, steps = recipe.distill.lr, recipe.distill.steps
    dropout = ("model.dropout=0.1",)

    def student(*changes: str) -> Chain:
        return Chain(distill=changes, measured=("distill",))

    return {
        "learning rate of the student": {
            f"rate-x{share:g}": student(f"distill.lr={rate * share:.3g}") for share in (0.3, 0.6, 2, 3)
        },
        "distance of the student": {
            f"student-{name}": student(f"distill.distance={name}") for name in DISTANCES
        },
        "dropout": {"dropout-reflow": Chain(reflow=dropout), "dropout-distill": student(*dropout)},
        "steps of the student": {
            "distill-steps-x0.5": student(f"distill.steps={steps // 2}"),
            "distill-steps-x2": student(f"distill.steps={2 * steps}"),
        },
    }
