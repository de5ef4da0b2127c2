"""distill: fit a k-step generator on pairs, starting from a model's averaged weights."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch

from reflow.artifacts import Header
from reflow.errors import ReflowError
from reflow.flow import Distance, VelocityField
from reflow.guidance import guided
from reflow.inputs import copy_of, open_pairs_watched, recipe_of, require_velocity_field, say_unread
from reflow.models import Model, load_model
from reflow.objectives.distances import DISTANCES, added
from reflow.objectives.distillation import STUDENTS, Student
from reflow.objectives.lpips import Perceptual, load_perceptual, parents_of
from reflow.pairs.mixing import mix
from reflow.pairs.store import PairStore
from reflow.precision import in_precision
from reflow.recipes.read import Overrides
from reflow.recipes.recipe import GuidanceSettings, Recipe
from reflow.recipes.training import DistillSettings
from reflow.terminal import say
from reflow.training.job import Job
from reflow.training.session import Machine, Task, machine, train_model
from reflow.training.validation import sides


def run(
    model: Path,
    pairs_paths: Sequence[Path],
    weights: Sequence[Fraction] | None,
    overrides: Overrides,
    perceptual_weights: Path | None,
    job: Job,
) -> None:
    """Distill the model at `model` on pairs that it made or learned from."""
    where = machine(job)
    teacher = load_model(model)
    require_velocity_field(teacher, model)
    recipe = recipe_of(teacher, overrides)
    say_unread(overrides, "distill")
    settings = recipe.distill
    _say_brought(teacher.recipe.distill, settings)
    stores = [open_pairs_watched(path) for path in pairs_paths]
    pairs = mix(stores, pairs_paths, weights, teacher, model, or_learned=True)
    training, held_out = pairs.split(settings.held_out, recipe.seed)
    student = STUDENTS[settings.objective]
    perceptual = load_perceptual(perceptual_weights, settings, teacher.event, where.device)
    _refuse(student, recipe, where, perceptual)
    facts = replace(
        pairs.facts(teacher, settings.held_out),
        steps=settings.steps,
        student_steps=settings.student_steps,
        spans=student.spans,
    )
    header = Header(
        kind="model",
        stage="distill",
        rectification=teacher.header.rectification,
        recipe=recipe.model_dump(mode="json"),
        parents={"model": teacher.digest, **pairs.parents(), **parents_of(perceptual)},
        facts=facts.to_json(),
    )
    net = copy_of(teacher, recipe.model, spans=student.spans)
    velocity = _velocity(teacher, stores, settings, where.device) if student.follows else teacher
    objective = student.objective(settings, velocity, _distance(settings, perceptual))
    task = Task(net, training[0], objective, settings, recipe, header, sides(training, held_out))
    train_model(task, where, job, inputs=(model, *pairs_paths))


def _say_brought(before: DistillSettings, after: DistillSettings) -> None:
    """Say with what another objective than the recipe's is fitted, as it leaves the recipe's behind."""
    if after.objective != before.objective:
        say(
            f"note: [distill] of the recipe is for objective = {before.objective}; {after.objective} is "
            f"fitted with lr = {after.lr:g} and distance = {after.distance} (--set distill.lr=... wins)"
        )


def _refuse(student: Student, recipe: Recipe, where: Machine, perceptual: Perceptual | None) -> None:
    """Raise ReflowError for what an objective that follows the teacher cannot have."""
    if not student.follows:
        return
    what = f"objective = {recipe.distill.objective}"
    if perceptual is not None:
        raise ReflowError(
            f"--perceptual compares images, and {what} velocities; leave it out, or set "
            "distill.objective=regress"
        )
    if where.compiled and recipe.model.dropout:
        raise ReflowError(
            f"{what} draws the same dropout twice, which compiled code does not; give --no-compile, or "
            "--set model.dropout=0.0"
        )


def _distance(settings: DistillSettings, perceptual: Perceptual | None) -> Distance:
    """Return what compares student and target, with the perceptual distance where there is one."""
    distance = DISTANCES[settings.distance]
    return distance if perceptual is None else added(distance, perceptual)


def _velocity(
    teacher: Model, stores: Sequence[PairStore], settings: DistillSettings, device: torch.device
) -> VelocityField:
    """Return the teacher's velocity, guided as it was when it made the pairs, on the device.

    Raises ReflowError where it made some with other guidance than others.
    """
    made = [store for store in stores if store.header.parents.get("model") == teacher.digest]
    ways = {_guidance(store) for store in made} or {GuidanceSettings()}
    if len(ways) > 1:
        raise ReflowError(
            "the pairs were made with different guidance; distill on pairs of one guidance, or set "
            "distill.objective=regress"
        )
    return in_precision(guided(teacher.to(device), ways.pop()), settings.precision, device)


def _guidance(pairs: PairStore) -> GuidanceSettings:
    couple = pairs.recipe.couple
    return GuidanceSettings(guidance=couple.guidance, guidance_interval=couple.guidance_interval)
