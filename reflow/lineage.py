"""Which artifact came from which: what a later stage takes over from a model, and what it refuses."""

from collections.abc import Callable, Iterable
from pathlib import Path

from reflow.config import override, parse_recipe
from reflow.data import DataSet, open_data, split
from reflow.errors import ReflowError
from reflow.models import Model, build
from reflow.models.preconditioning import Preconditioned
from reflow.pairs import PairStore
from reflow.settings import DataSettings, ModelSettings, Recipe


def recipe_of(model: Model, overrides: Iterable[str]) -> Recipe:
    """Return the recipe that travels in a model's header, with `section.key=value` applied."""
    return override(parse_recipe(model.recipe, origin="the model's recipe"), overrides)


def copy_of(model: Model, settings: ModelSettings, *, spans: bool = False) -> Preconditioned:
    """Return a network of these settings with the model's averaged weights, to be trained on.

    With `spans` it has a second time, which changes nothing at first.
    """
    own = parse_recipe(model.recipe).model
    if settings.model_copy(update={"dropout": own.dropout}) != own:
        raise ReflowError(
            "training starts from the model's weights, so [model] stays as it is; "
            "leave out --set model... (model.dropout may change)"
        )
    unconditional = model.null_label is not None
    net = build(settings, model.event, model.classes, unconditional=unconditional, spans=spans)
    net.load_state_dict(net.state_dict() | model.net.state_dict())
    return net


def require_velocity_field(model: Model, path: Path) -> None:
    """Refuse a distilled student where an ODE has to be solved or fitted."""
    if model.student_steps is not None:
        raise ReflowError(
            f"{path} is a distilled generator, not a velocity field; give the model that it was "
            "distilled from"
        )


def require_related(
    model: Model, model_path: Path, pairs: PairStore, pairs_path: Path, *, or_learnt: bool
) -> None:
    """Refuse pairs of another shape, or that the model did not make (nor learn from, where allowed)."""
    if pairs.event != model.event or pairs.header.facts["classes"] != model.classes:
        raise ReflowError(
            f"{pairs_path} holds samples of {pairs.event} with "
            f"{pairs.header.facts['classes'] or 'no'} classes, but {model_path} works on "
            f"{model.event} with {model.classes or 'no'} classes; give pairs that this model made"
        )
    made = pairs.header.parents.get("model") == model.digest
    learnt = or_learnt and pairs.digest in _learnt(model)
    if not made and not learnt:
        raise ReflowError(
            f"{pairs_path} was made by another model than {model_path}; "
            "run reflow couple with this model, or give the model that made these pairs"
        )


def pairs_role(number: int) -> str:
    """Return the role among the parents of set `number` of the pairs, counted from 1."""
    return "pairs" if number == 1 else f"pairs-{number}"


def _learnt(model: Model) -> list[str]:
    """Return the digests of the pairs that a model was trained on."""
    parents = model.header.parents
    return [
        parents[role] for number in range(1, len(parents) + 1) if (role := pairs_role(number)) in parents
    ]


def real_data(
    recipe: Recipe, model: Model, opened: Callable[[DataSettings, int], DataSet] = open_data
) -> tuple[DataSet, DataSet]:
    """Return training and held-out data as the base model's training split them.

    opened: opens the data of these settings and seed; it may show its progress.

    Raises ReflowError for other data: nobody could tell which of its samples the model has seen.
    """
    how = model.header.facts["split"]
    data = opened(recipe.data, how["seed"])
    if data.digest() != how["data"]:
        shapes = f" (samples of {data.event}, the model works on {model.event})"
        raise ReflowError(
            f"--data {recipe.data.source} is not the data that the model was trained on"
            f"{'' if data.event == model.event else shapes}; give that data"
        )
    return split(data, how["held_out"], how["seed"])
