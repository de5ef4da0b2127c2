"""evaluate: distances to held-out data per NFE, and straightness, of one or several models."""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.artifacts import prepare, write_atomically
from reflow.config import with_source
from reflow.data import DataSet
from reflow.devices import choose_device
from reflow.distributed import World, gathered, joined, world
from reflow.errors import ReflowError
from reflow.generation import fixed_method, generate, source_of, usual_method
from reflow.lineage import real_data, recipe_of
from reflow.metrics.classifier import Extractor, train_classifier
from reflow.metrics.frechet import frechet_distance
from reflow.metrics.sliced import sliced_wasserstein
from reflow.metrics.straightness import straightness
from reflow.models import Model, load_model
from reflow.noise import draw_seed
from reflow.reporting.progress import Meter, open_data_watched, say
from reflow.settings import EvaluateSettings, Recipe, SolverSettings

SCHEMA = 1  # of the JSON
FLOOR = "real (floor)"  # training data against held-out data
STREAM = "evaluate"


@dataclass(frozen=True)
class _Yardstick:
    """What every model is measured against, with the same random directions and features."""

    real: NDArray[np.float32]
    features: NDArray[np.float32] | None
    extractor: Extractor | None
    settings: EvaluateSettings
    seed: int

    def distances(self, samples: Tensor) -> dict[str, float]:
        """Return the distances of samples (N, *event) to the held-out data."""
        rng = np.random.default_rng(draw_seed(self.seed, "projections"))
        flat = samples.flatten(1).numpy()
        found = {
            "sliced_wasserstein": sliced_wasserstein(
                flat, self.real, projections=self.settings.projections, rng=rng
            )
        }
        if self.extractor is not None and self.features is not None:
            found["frechet_classifier"] = frechet_distance(self.extractor.features(samples), self.features)
        return found


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
        yardstick = _yardstick(recipe, training, held_out) if here.leads else None
        found = [_evaluate(model, path, yardstick, crew) for path, model in zip(paths, models, strict=True)]
    if yardstick is None:
        return None
    reference = _reference(yardstick, training, held_out)
    result = {"schema": SCHEMA, "seed": recipe.seed, **reference, "models": found}
    write_atomically(out, (to_json(result) + "\n").encode())
    return result


def to_json(result: dict[str, Any]) -> str:
    """Return the result as it is written."""
    return json.dumps(result, indent=1)


def to_table(result: dict[str, Any]) -> str:
    """Return the figures as lines for a terminal."""
    floor = result["floor"]
    names = [name for name in ("frechet_classifier", "sliced_wasserstein") if name in floor]
    width = max(len(name) for name in (FLOOR, *(model["path"] for model in result["models"]))) + 2

    def row(model: str, nfe: str, solver: str, figures: dict[str, float]) -> str:
        columns = "".join(f"{figures[name]:>20.4g}" for name in names)
        return f"{model:<{width}}{nfe:>8}  {solver:<10}{columns}"

    lines = [f"{'model':<{width}}{'NFE':>8}  {'solver':<10}" + "".join(f"{n:>20}" for n in names)]
    for model in result["models"]:
        for figure in model["figures"]:
            lines.append(row(model["path"], f"{figure['nfe']:.4g}", figure["solver"], figure))
    lines.append(row(FLOOR, "", "", floor))
    for model in result["models"]:
        if model["straightness"] is not None:
            lines.append(f"straightness of {model['path']}: {model['straightness']:.4g}")
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
    labels: list[int] = held_out.labels[_spread(len(held_out), count)].tolist()
    return labels


def _yardstick(recipe: Recipe, training: DataSet, held_out: DataSet) -> _Yardstick:
    real, _ = held_out.take(np.arange(len(held_out)))
    extractor = features = None
    if training.labels is not None and len(training.event) == 3:
        colours, height, width = training.event
        extractor = train_classifier(
            training,
            held_out,
            (colours, height, width),
            len(training.class_names),
            steps=recipe.evaluate.classifier_steps,
            seed=draw_seed(recipe.seed, "classifier"),
        )
        features = extractor.features(real)
        say(f"features: classifier, {extractor.accuracy:.1%} of held-out labels right")
    return _Yardstick(real.flatten(1).numpy(), features, extractor, recipe.evaluate, recipe.seed)


def _reference(yardstick: _Yardstick, training: DataSet, held_out: DataSet) -> dict[str, Any]:
    """Return what the figures refer to, and the distance of real data from real data."""
    wanted, extractor = yardstick.settings.samples, yardstick.extractor
    real, _ = training.take(_spread(len(training), min(wanted, len(training))))
    return {
        "samples": wanted,
        "held_out": len(held_out),
        "data": held_out.digest(),
        "features": None
        if extractor is None
        else {"name": "classifier", "sha256": extractor.digest, "accuracy": extractor.accuracy},
        "floor": {"samples": len(real), **yardstick.distances(real)},
    }


def _evaluate(model: Model, path: Path, yardstick: _Yardstick | None, crew: _Crew) -> dict[str, Any]:
    """Return the figures of a model; without a yardstick only help to generate the samples."""
    methods = _methods(model, crew.recipe.evaluate)
    figures = []
    with contextlib.ExitStack() as stack:
        title, total = f"evaluate {path}", len(methods)
        meter = None if yardstick is None else stack.enter_context(Meter(title, total, "settings"))
        for done, method in enumerate(methods):
            samples = crew.samples(model, method)
            if samples is not None and yardstick is not None and meter is not None:
                x1, nfe = samples
                figures.append(
                    {
                        "nfe": float(nfe.double().mean()),
                        "solver": method.solver,
                        "tolerance": method.tolerance,
                        **yardstick.distances(x1),
                    }
                )
                meter.update(done + 1)
    return {
        "path": str(path),
        "sha256": model.digest,
        "stage": model.header.stage,
        "rectification": model.header.rectification,
        "student_steps": model.student_steps,
        "figures": figures,
        "straightness": None if model.student_steps else crew.straightness(model),
    }


def _methods(model: Model, settings: EvaluateSettings) -> list[SolverSettings]:
    if model.student_steps is not None and not model.spans:
        return [usual_method(model)]
    if model.spans:
        return [fixed_method(model, nfe) for nfe in settings.nfe]
    fixed = [fixed_method(model, nfe, settings.solver) for nfe in settings.nfe]
    return [*fixed, usual_method(model)]


def _spread(available: int, wanted: int) -> NDArray[np.int64]:
    """Return `wanted` row numbers spread evenly over what there is, repeating when it is fewer."""
    return np.arange(wanted) * available // wanted
