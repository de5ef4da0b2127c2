"""train: fit the velocity on data (the base model) or on pairs (reflow)."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch

from reflow.artifacts import Header
from reflow.config import Recipe, VelocityFitSettings, with_source
from reflow.couplings import Independent
from reflow.data import BUILT_IN, DataSet, open_data, split
from reflow.devices import choose_device
from reflow.distances import DISTANCES
from reflow.errors import ReflowError
from reflow.flow import Objective, velocity_objective
from reflow.lineage import copy_of, recipe_of, require_velocity_field
from reflow.mixtures import mix
from reflow.models import build, load_model
from reflow.noise import draw_seed
from reflow.reporting.progress import open_pairs_watched
from reflow.times import LAWS, stratified
from reflow.training import finished, train_model
from reflow.workspace import claim


def run(recipe: Recipe, *, out: Path, device: str, fresh: bool) -> None:
    """Train the base model of a recipe into `out`."""
    where = choose_device(device)
    data = _data(recipe)
    classes = len(data.class_names) if recipe.data.labels else None
    digest = data.digest()
    training, held_out = split(data, recipe.data.held_out, recipe.seed)
    torch.manual_seed(draw_seed(recipe.seed, "weights"))
    net = build(recipe.model, data.event, classes)
    header = Header(
        kind="model",
        stage="train",
        rectification=1,
        recipe=_portable(recipe).model_dump(mode="json"),
        parents={"data": digest},
        facts={
            "event": list(data.event),
            "classes": classes,
            "parameters": sum(weight.numel() for weight in net.parameters()),
            "steps": recipe.train.steps,
            "student_steps": None,
            "training_samples": len(training),
            "held_out_samples": len(held_out),
            "split": {"data": digest, "seed": recipe.seed, "held_out": recipe.data.held_out},
        },
    )
    coupling = Independent(
        training if classes else training.without_labels(),
        draw_seed(recipe.seed, "data"),
        flip=recipe.data.flip,
    )
    with claim(out, "model", fresh=fresh):
        if not finished(out, header):
            train_model(
                net,
                coupling,
                objective_of(recipe.train),
                recipe.train,
                out=out,
                header=header,
                device=where,
            )


def run_reflow(
    init: Path,
    pairs_paths: Sequence[Path],
    weights: Sequence[Fraction] | None,
    overrides: list[str],
    *,
    out: Path,
    device: str,
    fresh: bool,
) -> None:
    """Retrain a model on the sets of pairs that it made, starting from its averaged weights."""
    where = choose_device(device)
    teacher = load_model(init)
    require_velocity_field(teacher, init)
    recipe = recipe_of(teacher, overrides)
    stores = [open_pairs_watched(path) for path in pairs_paths]
    pairs = mix(stores, pairs_paths, weights, teacher, init, or_learnt=False)
    header = Header(
        kind="model",
        stage="reflow",
        rectification=teacher.header.rectification + 1,
        recipe=recipe.model_dump(mode="json"),
        parents={"init": teacher.digest, **pairs.parents()},
        facts=pairs.facts(teacher) | {"steps": recipe.reflow.steps},
    )
    with claim(out, "model", inputs=(init, *pairs_paths), fresh=fresh):
        if not finished(out, header):
            train_model(
                copy_of(teacher, recipe.model),
                pairs.coupling(recipe.seed),
                objective_of(recipe.reflow),
                recipe.reflow,
                out=out,
                header=header,
                device=where,
            )


def objective_of(settings: VelocityFitSettings) -> Objective:
    """Return the objective that a [train] or [reflow] section describes."""
    times = stratified(LAWS[settings.times](settings))
    return velocity_objective(times, DISTANCES[settings.distance])


def _data(recipe: Recipe) -> DataSet:
    data = open_data(recipe.data, recipe.seed)
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
