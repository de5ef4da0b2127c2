"""train: fit the velocity on data (the base model) or on pairs (reflow)."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from reflow.artifacts import Header
from reflow.config import with_source
from reflow.couplings import Coupling, Independent
from reflow.data import BUILT_IN, DataSet, split
from reflow.distances import DISTANCES
from reflow.errors import ReflowError
from reflow.flow import Distance, Objective, perceptual_objective, velocity_objective
from reflow.guidance import drop_labels, require_null_label
from reflow.hyperparameters import VelocityFitSettings
from reflow.lineage import copy_of, recipe_of, require_velocity_field
from reflow.mixtures import mix
from reflow.models import build, load_model
from reflow.noise import draw_seed
from reflow.perceptual import load_perceptual, parents_of
from reflow.reporting.progress import open_data_watched, open_pairs_watched, say_unread
from reflow.settings import Recipe
from reflow.times import LAWS, stratified
from reflow.training import Task, machine, train_model
from reflow.transport import Transported
from reflow.validation import sides


def run(
    recipe: Recipe, *, out: Path, device: str, compiled: bool | None, trackers: Sequence[str], fresh: bool
) -> None:
    """Train the base model of a recipe into `out`."""
    where = machine(device, compiled=compiled, trackers=trackers)
    data = _data(recipe)
    classes = len(data.class_names) if recipe.data.labels else None
    null_label = classes if recipe.train.label_dropout else None
    training, held_out = (
        part if classes else part.without_labels()
        for part in split(data, recipe.data.held_out, recipe.seed)
    )
    torch.manual_seed(draw_seed(recipe.seed, "weights"))
    net = build(recipe.model, data.event, classes, unconditional=null_label is not None)
    facts: dict[str, Any] = {
        "event": list(data.event),
        "classes": classes,
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "training_samples": len(training),
        "held_out_samples": len(held_out),
    }
    facts |= {} if null_label is None else {"unconditional": True}
    facts |= {} if classes is None else {"class_names": list(data.class_names)}
    task = Task(
        net,
        _coupling(recipe, training, flip=recipe.data.flip),
        objective_of(recipe.train, null_label),
        recipe.train,
        _header(recipe, data.digest(), facts),
        sides(*((_coupling(recipe, part, flip=False), len(part)) for part in (training, held_out))),
    )
    train_model(task, where, out=out, fresh=fresh)


def run_reflow(
    init: Path,
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
    """Retrain a model on the sets of pairs that it made, starting from its averaged weights."""
    where = machine(device, compiled=compiled, trackers=trackers)
    teacher = load_model(init)
    require_velocity_field(teacher, init)
    recipe = recipe_of(teacher, overrides)
    perceptual = load_perceptual(perceptual_weights, recipe.reflow, teacher.event, where.device)
    objective = objective_of(recipe.reflow, teacher.null_label, perceptual)
    stores = [open_pairs_watched(path) for path in pairs_paths]
    pairs = mix(stores, pairs_paths, weights, teacher, init, or_learnt=False)
    training, held_out = pairs.split(recipe.reflow.held_out, recipe.seed)
    header = Header(
        kind="model",
        stage="reflow",
        rectification=teacher.header.rectification + 1,
        recipe=recipe.model_dump(mode="json"),
        parents={"init": teacher.digest, **pairs.parents(), **parents_of(perceptual)},
        facts=pairs.facts(teacher, recipe.reflow.held_out) | {"steps": recipe.reflow.steps},
    )
    say_unread(overrides, "reflow")
    net = copy_of(teacher, recipe.model)
    task = Task(net, training[0], objective, recipe.reflow, header, sides(training, held_out))
    train_model(task, where, out=out, inputs=(init, *pairs_paths), fresh=fresh)


def objective_of(
    settings: VelocityFitSettings, null_label: int | None, perceptual: Distance | None = None
) -> Objective:
    """Return the objective that a [train] or [reflow] section describes.

    perceptual: distance by which images are compared beside the velocities.

    Raises ReflowError when labels are to be dropped and the model has no null label.
    """
    times = stratified(LAWS[settings.times](settings))
    distance = DISTANCES[settings.distance]
    objective = velocity_objective(times, distance)
    if perceptual is not None:
        objective = perceptual_objective(times, distance, perceptual)
    share = settings.label_dropout
    if not share:
        return objective
    return drop_labels(objective, share, require_null_label(null_label, f"label_dropout = {share:g}"))


def _header(recipe: Recipe, digest: str, facts: dict[str, Any]) -> Header:
    """Return the header of the base model of this recipe on data with this digest."""
    return Header(
        kind="model",
        stage="train",
        rectification=1,
        recipe=_portable(recipe).model_dump(mode="json"),
        parents={"data": digest},
        facts=facts
        | {
            "steps": recipe.train.steps,
            "student_steps": None,
            "split": {"data": digest, "seed": recipe.seed, "held_out": recipe.data.held_out},
        },
    )


def _coupling(recipe: Recipe, data: DataSet, *, flip: bool) -> Coupling:
    """Return data with noise as [train] wants them joined."""
    independent = Independent(data, draw_seed(recipe.seed, "data"), flip=flip)
    group = recipe.train.transport
    return independent if group is None else Transported(independent, group)


def _data(recipe: Recipe) -> DataSet:
    data = open_data_watched(recipe.data, recipe.seed)
    if recipe.data.labels and data.labels is None:
        raise ReflowError(
            "data.labels = true, but the data has no labels; "
            "put each class in its own sub-folder, or add labels"
        )
    if recipe.data.flip and len(data.event) != 3:
        raise ReflowError("data.flip = true is for images, and this data is vectors; remove it")
    return data


def _portable(recipe: Recipe) -> Recipe:
    """Return the recipe for a header: a path of the user's own becomes 'files'."""
    return recipe if recipe.data.source in BUILT_IN else with_source(recipe, "files")
