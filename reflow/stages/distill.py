"""distill: fit a k-step generator on pairs, starting from a model's averaged weights."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from reflow.artifacts import Header
from reflow.distances import DISTANCES, total
from reflow.flow import regression_objective
from reflow.lineage import copy_of, recipe_of, require_velocity_field
from reflow.mixtures import mix
from reflow.models import load_model
from reflow.perceptual import load_perceptual, parents_of
from reflow.reporting.progress import open_pairs_watched, say_unread
from reflow.training import Task, machine, train_model
from reflow.validation import sides


def run(
    model: Path,
    pairs_paths: Sequence[Path],
    weights: Sequence[Fraction] | None,
    overrides: list[str],
    perceptual_weights: Path | None,
    *,
    out: Path,
    device: str,
    compiled: bool | None,
    trackers: Sequence[str],
    fresh: bool,
) -> None:
    """Distill the model at `model` on pairs that it made or learnt from, into `out`."""
    where = machine(device, compiled=compiled, trackers=trackers)
    teacher = load_model(model)
    require_velocity_field(teacher, model)
    recipe = recipe_of(teacher, overrides)
    say_unread(overrides, "distill")
    settings = recipe.distill
    perceptual = load_perceptual(perceptual_weights, settings, teacher.event, where.device)
    distance = DISTANCES[settings.distance]
    if perceptual is not None:
        distance = total(distance, perceptual)
    stores = [open_pairs_watched(path) for path in pairs_paths]
    pairs = mix(stores, pairs_paths, weights, teacher, model, or_learnt=True)
    training, held_out = pairs.split(settings.held_out, recipe.seed)
    header = Header(
        kind="model",
        stage="distill",
        rectification=teacher.header.rectification,
        recipe=recipe.model_dump(mode="json"),
        parents={"model": teacher.digest, **pairs.parents(), **parents_of(perceptual)},
        facts=pairs.facts(teacher, settings.held_out)
        | {"steps": settings.steps, "student_steps": settings.student_steps},
    )
    task = Task(
        copy_of(teacher, recipe.model),
        training[0],
        regression_objective(settings.student_steps, distance),
        settings,
        header,
        sides(training, held_out),
    )
    train_model(task, where, out=out, inputs=(model, *pairs_paths), fresh=fresh)
