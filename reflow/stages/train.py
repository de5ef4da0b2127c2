"""train: fit the velocity on data, which gives the base model."""

import torch

from reflow.artifacts import Header
from reflow.artifacts.facts import ModelFacts, Split
from reflow.couplings import Coupling, Independent
from reflow.couplings.transport import Transported
from reflow.data import BUILT_IN, DataSet, require_taught, split
from reflow.errors import ReflowError
from reflow.inputs import open_data_watched
from reflow.models import build
from reflow.objectives import objective_of
from reflow.randomness import draw_seed
from reflow.recipes.read import with_source
from reflow.recipes.recipe import Recipe
from reflow.terminal import say
from reflow.training.job import Job
from reflow.training.session import Task, machine, train_model
from reflow.training.validation import sides


def run(recipe: Recipe, job: Job) -> None:
    """Train the base model of a recipe."""
    where = machine(job)
    data = _data(recipe)
    classes = len(data.class_names) if recipe.data.labels else None
    null_label = classes if recipe.train.label_dropout else None
    training, held_out = (
        part if classes else part.without_labels()
        for part in split(data, recipe.data.held_out, recipe.seed)
    )
    if classes and (warning := require_taught(training, held_out)):
        say(warning)
    torch.manual_seed(draw_seed(recipe.seed, "weights"))
    net = build(recipe.model, data.event, classes, unconditional=null_label is not None)
    facts = ModelFacts(
        event=data.event,
        classes=classes,
        student_steps=None,
        split=Split(data.digest(), recipe.seed, recipe.data.held_out),
        steps=recipe.train.steps,
        parameters=sum(weight.numel() for weight in net.parameters()),
        training_samples=len(training),
        held_out_samples=len(held_out),
        class_names=() if classes is None else tuple(data.class_names),
        unconditional=null_label is not None,
    )
    header = Header(
        kind="model",
        stage="train",
        rectification=1,
        recipe=_portable(recipe).model_dump(mode="json"),
        parents={"data": data.digest()},
        facts=facts.to_json(),
    )
    task = Task(
        net,
        _coupling(recipe, training, flip=recipe.data.flip),
        objective_of(recipe.train, null_label),
        recipe.train,
        recipe,
        header,
        sides(*((_coupling(recipe, part, flip=False), len(part)) for part in (training, held_out))),
    )
    train_model(task, where, job)


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
