"""distill: fit a k-step generator on pairs, starting from a model's averaged weights."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from reflow.artifacts import Header
from reflow.config import parse_recipe
from reflow.devices import in_precision
from reflow.distillation import STUDENTS
from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.guidance import guided
from reflow.lineage import copy_of, recipe_of, require_velocity_field
from reflow.mixtures import mix
from reflow.models import SPANS, Model, load_model
from reflow.pairs import PairStore
from reflow.reporting.progress import open_pairs_watched, say_unread
from reflow.settings import GuidanceSettings
from reflow.training import Task, machine, train_model
from reflow.validation import sides


def run(
    model: Path,
    pairs_paths: Sequence[Path],
    weights: Sequence[Fraction] | None,
    overrides: list[str],
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
    stores = [open_pairs_watched(path) for path in pairs_paths]
    pairs = mix(stores, pairs_paths, weights, teacher, model, or_learnt=True)
    training, held_out = pairs.split(settings.held_out, recipe.seed)
    student = STUDENTS[settings.objective]
    velocity: VelocityField = teacher
    if student.follows:
        velocity = _velocity(teacher.to(where.device), stores)
        velocity = in_precision(velocity, settings.precision, where.device)
    header = Header(
        kind="model",
        stage="distill",
        rectification=teacher.header.rectification,
        recipe=recipe.model_dump(mode="json"),
        parents={"model": teacher.digest, **pairs.parents()},
        facts=pairs.facts(teacher, settings.held_out)
        | {"steps": settings.steps, "student_steps": settings.student_steps}
        | ({SPANS: True} if student.spans else {}),
    )
    task = Task(
        copy_of(teacher, recipe.model, spans=student.spans),
        training[0],
        student.objective(settings, velocity),
        settings,
        header,
        sides(training, held_out),
    )
    train_model(task, where, out=out, inputs=(model, *pairs_paths), fresh=fresh)


def _velocity(teacher: Model, stores: Sequence[PairStore]) -> VelocityField:
    """Return the teacher's velocity, guided as it was when it made the pairs.

    Raises ReflowError where it made some with other guidance than others.
    """
    made = [store for store in stores if store.header.parents.get("model") == teacher.digest]
    ways = {_guidance(store) for store in made} or {GuidanceSettings()}
    if len(ways) > 1:
        raise ReflowError(
            "the pairs were made with different guidance; distill on pairs of one guidance, or set "
            "distill.objective=regress"
        )
    return guided(teacher, ways.pop())


def _guidance(pairs: PairStore) -> GuidanceSettings:
    couple = parse_recipe(pairs.header.recipe).couple
    return GuidanceSettings(guidance=couple.guidance, guidance_interval=couple.guidance_interval)
