"""reflow: retrain a model on the pairs that it made, from its own weights."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from reflow.artifacts import Header
from reflow.inputs import copy_of, open_pairs_watched, recipe_of, require_velocity_field, say_unread
from reflow.models import load_model
from reflow.objectives import objective_of
from reflow.objectives.lpips import load_perceptual, parents_of
from reflow.pairs.mixing import mix
from reflow.recipes.read import Overrides
from reflow.training.job import Job
from reflow.training.session import Task, machine, train_model
from reflow.training.validation import sides


def run(
    init: Path,
    pairs_paths: Sequence[Path],
    weights: Sequence[Fraction] | None,
    overrides: Overrides,
    perceptual_weights: Path | None,
    job: Job,
) -> None:
    """Retrain a model on the sets of pairs that it made, starting from its averaged weights."""
    where = machine(job)
    teacher = load_model(init)
    require_velocity_field(teacher, init)
    recipe = recipe_of(teacher, overrides)
    perceptual = load_perceptual(perceptual_weights, recipe.reflow, teacher.event, where.device)
    objective = objective_of(recipe.reflow, teacher.null_label, perceptual)
    stores = [open_pairs_watched(path) for path in pairs_paths]
    pairs = mix(stores, pairs_paths, weights, teacher, init, or_learned=False)
    training, held_out = pairs.split(recipe.reflow.held_out, recipe.seed)
    facts = pairs.facts(teacher, recipe.reflow.held_out)
    header = Header(
        kind="model",
        stage="reflow",
        rectification=teacher.header.rectification + 1,
        recipe=recipe.model_dump(mode="json"),
        parents={"init": teacher.digest, **pairs.parents(), **parents_of(perceptual)},
        facts=replace(facts, steps=recipe.reflow.steps).to_json(),
    )
    say_unread(overrides, "reflow")
    net = copy_of(teacher, recipe.model)
    task = Task(net, training[0], objective, recipe.reflow, recipe, header, sides(training, held_out))
    train_model(task, where, job, inputs=(init, *pairs_paths))
