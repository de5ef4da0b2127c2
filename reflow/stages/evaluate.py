"""evaluate: distances to held-out data and coverage of it per NFE, straightness and copies of models."""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reflow.artifacts import prepare, write_atomically
from reflow.config import with_source
from reflow.data import DataSet
from reflow.devices import choose_device
from reflow.distributed import World, gathered, joined, world
from reflow.errors import ReflowError
from reflow.generation import fixed_method, generate, source_of, usual_method
from reflow.lineage import real_data, recipe_of
from reflow.metrics.straightness import straightness
from reflow.metrics.yardstick import Yardstick, evenly, yardstick
from reflow.models import Model, load_model
from reflow.reporting.progress import Meter, open_data_watched, say
from reflow.settings import EvaluateSettings, Recipe, SolverSettings

SCHEMA = 1  # of the JSON
FLOOR = "real (floor)"  # training data against held-out data
STREAM = "evaluate"
COLUMNS = {  # of the table, with their widths
    "frechet_classifier": 20,
    "sliced_wasserstein": 20,
    "precision": 11,
    "recall": 9,
    "spread": 9,
}


@dataclass(frozen=True)
class _Crew:
    """The processes that generate, each its share of the numbers; the first one gets what all made.

    A sample depends on its number alone (to rounding), so any crew makes the same.
    """

    recipe: Recipe
    labels: list[int] | None
    device: torch.device
    world: World

    def together(self, parts: Iterable[Tensor], like: Tensor) -> Tensor | None:
        """Return the rows of all processes in order, on the first one; `like` (0, ...) is no row."""
        ranks = gathered(torch.cat([like, *parts]), self.world)
        return None if ranks is None else torch.cat(ranks)

    def samples(self, model: Model, method: SolverSettings) -> tuple[Tensor, Tensor] | None:
        """Return samples (N, *event) and what they cost (N,), on the first process."""
        settings = self.recipe.evaluate
        mine = self.world.share(settings.samples)
        batches = list(
            generate(
                model,
                len(mine),
                method=method,
                seed=self.recipe.seed,
                stream=STREAM,
                batch=settings.batch,
                device=self.device,
                labels=self.labels,
                first=mine.start,
            )
        )
        x1 = self.together((batch.pair.x1 for batch in batches), torch.empty(0, *model.event))
        nfe = self.together((batch.nfe for batch in batches), torch.empty(0, dtype=torch.int64))
        return None if x1 is None or nfe is None else (x1, nfe)

    def straightness(self, model: Model) -> float | None:
        """Return the mean over trajectories, each per dimension, on the first process."""
        settings = self.recipe.evaluate
        source = source_of(model, seed=self.recipe.seed, stream=STREAM, device=self.device)
        mine = self.world.share(settings.straightness_samples)
        values = []
        for start in range(mine.start, mine.stop, settings.batch):
            numbers = range(start, min(start + settings.batch, mine.stop))
            x0, label = source.noise(numbers).to(self.device), source.label(numbers)
            found = straightness(
                model,
                x0,
                tolerance=settings.straightness_tolerance,
                label=None if label is None else label.to(self.device),
            )
            values.append(found.cpu())
        everyone = self.together(values, torch.empty(0))
        return None if everyone is None else float(everyone.mean())


def run(
    paths: list[Path],
    overrides: list[str],
    *,
    source: str | None,
    out: Path,
    device: str,
) -> dict[str, Any] | None:
    """Evaluate the models, write the JSON to `out` and return it.

    Processes of torchrun share the generation; the first one measures, writes and returns, the others
    return None.
    """
    here = world()
    where = choose_device(device, here.local_rank)
    prepare(out)
    models = [load_model(path).to(where) for path in paths]
    recipe = recipe_of(models[0], overrides)
    if source is not None:
        recipe = with_source(recipe, source)
    _require_comparable(models, paths, recipe.evaluate)
    training, held_out = real_data(recipe, models[0], open_data_watched)
    crew = _Crew(recipe, _labels(models[0], held_out, recipe.evaluate.samples), where, here)
    with joined(where):
        measure = _measure(recipe, training, held_out) if here.leads else None
        found = [_evaluate(model, path, measure, crew) for path, model in zip(paths, models, strict=True)]
    if measure is None:
        return None
    reference = measure.reference(held_out)
    result = {"schema": SCHEMA, "seed": recipe.seed, **reference, "models": found}
    write_atomically(out, (to_json(result) + "\n").encode())
    return result


def to_json(result: dict[str, Any]) -> str:
    """Return the result as it is written."""
    return json.dumps(result, indent=1)


def to_table(result: dict[str, Any]) -> str:
    """Return the figures as lines for a terminal."""
    floor, models = result["floor"], result["models"]
    columns = [(name, width) for name, width in COLUMNS.items() if name in floor]
    width = max(len(name) for name in (FLOOR, *(model["path"] for model in models))) + 2

    def row(model: str, nfe: str, solver: str, cells: Iterable[str]) -> str:
        padded = (f"{cell:>{size}}" for cell, (_, size) in zip(cells, columns, strict=True))
        return f"{model:<{width}}{nfe:>8}  {solver:<10}" + "".join(padded)

    def figures(found: dict[str, float]) -> list[str]:
        return [f"{found[name]:.4g}" for name, _ in columns]

    lines = [row("model", "NFE", "solver", (name for name, _ in columns))]
    for model in models:
        for found in model["figures"]:
            lines.append(row(model["path"], f"{found['nfe']:.4g}", found["solver"], figures(found)))
    lines.append(row(FLOOR, "", "", figures(floor)))
    for model in models:
        if model["straightness"] is not None:
            lines.append(f"straightness of {model['path']}: {model['straightness']:.4g}")
    for name, near in (
        *((model["path"], model["nearest_training"]) for model in models),
        ("held-out data", result["nearest_training"]["held_out"]),
    ):
        lines.append(
            f"nearest training sample of {name}: RMS {near['median']:.4g} (median), "
            f"{near['fifth_percentile']:.4g} (5th percentile)"
        )
    return "\n".join(lines)


def _require_comparable(models: list[Model], paths: list[Path], settings: EvaluateSettings) -> None:
    """Refuse what cannot be done before the work begins."""
    for path, model in zip(paths, models, strict=True):
        if _split_of(model) != _split_of(models[0]):
            raise ReflowError(f"{path} and {paths[0]} were trained on other data, split or classes")
        _methods(model, settings)


def _split_of(model: Model) -> tuple[Any, ...]:
    """Return what decides which samples are held out, and what is generated."""
    return model.header.facts["split"], model.event, model.classes


def _labels(model: Model, held_out: DataSet, count: int) -> list[int] | None:
    """Return the labels of the samples: those of the held-out data, if the model knows labels."""
    if model.classes is None or held_out.labels is None:
        return None
    labels: list[int] = held_out.labels[evenly(len(held_out), count)].tolist()
    return labels


def _measure(recipe: Recipe, training: DataSet, held_out: DataSet) -> Yardstick:
    measure = yardstick(recipe, training, held_out)
    if measure.extractor is not None:
        say(f"features: classifier, {measure.extractor.accuracy:.1%} of held-out labels right")
    return measure


def _evaluate(model: Model, path: Path, measure: Yardstick | None, crew: _Crew) -> dict[str, Any]:
    """Return the figures of a model; without a yardstick only help to generate the samples."""
    methods = _methods(model, crew.recipe.evaluate)
    figures, near = [], None
    with contextlib.ExitStack() as stack:
        title, total = f"evaluate {path}", len(methods)
        meter = None if measure is None else stack.enter_context(Meter(title, total, "settings"))
        for done, method in enumerate(methods, 1):
            samples = crew.samples(model, method)
            if samples is None or measure is None or meter is None:
                continue
            x1, nfe = samples
            how: dict[str, Any] = {
                "nfe": float(nfe.double().mean()),
                "solver": method.solver,
                "tolerance": method.tolerance,
            }
            figures.append(how | measure.figures(x1))
            if method == usual_method(model):  # the samples that a user gets
                near = measure.nearest_training(x1)
            meter.update(done)
    return {
        "path": str(path),
        "sha256": model.digest,
        "stage": model.header.stage,
        "rectification": model.header.rectification,
        "student_steps": model.student_steps,
        "figures": figures,
        "straightness": None if model.student_steps else crew.straightness(model),
        "nearest_training": near,
    }


def _methods(model: Model, settings: EvaluateSettings) -> list[SolverSettings]:
    if model.spans:
        return [fixed_method(model, nfe) for nfe in sorted({model.student_steps or 1, *settings.nfe})]
    if model.student_steps is not None:
        return [usual_method(model)]
    fixed = [fixed_method(model, nfe, settings.solver) for nfe in settings.nfe]
    return [*fixed, usual_method(model)]
