"""What a stage takes in, opened and checked: the recipe and weights of a model, its data, its pairs."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from reflow.artifacts import PAIRS, Header
from reflow.artifacts.facts import Split
from reflow.artifacts.stage_directory import require_same
from reflow.data import DataSet, Watch, open_data, split
from reflow.errors import ReflowError
from reflow.models import Model, build
from reflow.models.preconditioning import Preconditioned
from reflow.pairs.store import PairStore, open_pairs, read_index
from reflow.recipes.read import Overrides, override, unread
from reflow.recipes.recipe import DataSettings, ModelSettings, Recipe
from reflow.terminal import Meter, say

PATIENCE_SECONDS = 2.0  # what takes less than this shows nothing


def recipe_of(model: Model, overrides: Overrides) -> Recipe:
    """Return the recipe that travels in a model's header, with some settings changed."""
    return override(model.recipe, overrides)


def copy_of(model: Model, settings: ModelSettings, *, spans: bool = False) -> Preconditioned:
    """Return a network of these settings with the model's averaged weights, to be trained on.

    With `spans` it has a second time, which changes nothing at first.
    """
    own = model.recipe.model
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


def split_of(model: Model) -> Split:
    """Return how the data of the model's base was divided."""
    if model.facts.split is None:
        raise ReflowError(
            "this model does not say which data it was trained on; train it with reflow train"
        )
    return model.facts.split


def real_data(
    recipe: Recipe, model: Model, opened: Callable[[DataSettings, int], DataSet] = open_data
) -> tuple[DataSet, DataSet]:
    """Return training and held-out data as the base model's training split them.

    opened: opens the data of these settings and seed; it may show its progress.

    Raises ReflowError for other data: nobody could tell which of its samples the model has seen.
    """
    how = split_of(model)
    data = opened(recipe.data, how.seed)
    if data.digest() != how.data:
        shapes = f" (samples of {data.event}, the model works on {model.event})"
        raise ReflowError(
            f"--data {recipe.data.source} is not the data that the model was trained on"
            f"{'' if data.event == model.event else shapes}; give that data"
        )
    return split(data, how.held_out, how.seed)


def say_unread(overrides: Overrides, section: str) -> None:
    """Say which training settings a stage does not read, as it reads those of its own section."""
    for name in unread(overrides, section):
        say(f"note: --set {name} changes nothing here; this stage reads [{section}]")


def open_pairs_watched(directory: Path) -> PairStore:
    """Return the pairs in a directory, showing how far the check of all bytes is when it takes a while."""
    with _patient() as show:
        return open_pairs(
            directory,
            lambda done, total: show(f"check {directory}", done // 10**6, total // 10**6, "MB"),
        )


def open_data_watched(settings: DataSettings, seed: int) -> DataSet:
    """Return the data of these settings, showing how far it is decoded when that takes a while."""
    with _patient() as show:
        return open_data(settings, seed, Watch(show, say))


def already_complete(out: Path, header: Header) -> bool:
    """Return whether `out` holds the complete pairs that are wanted, checked, and say so."""
    if not (out / PAIRS).exists():
        return False
    found, _ = read_index(out / PAIRS)
    require_same(out / PAIRS, found, header)
    open_pairs_watched(out)
    say(f"{out} is complete; nothing to do (--fresh starts over)")
    return True


@contextlib.contextmanager
def _patient() -> Iterator[Callable[[str, int, int, str], None]]:
    """Yield what takes (what, done, total, unit) and shows a meter once PATIENCE_SECONDS have passed."""
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        meters: dict[str, Meter] = {}

        def show(what: str, done: int, total: int, unit: str) -> None:
            if what not in meters and time.monotonic() - begin > PATIENCE_SECONDS:
                stack.close()  # the meter of what came before
                meters[what] = stack.enter_context(Meter(what, total, unit, done=done))
            if what in meters:
                meters[what].update(done)

        yield show
