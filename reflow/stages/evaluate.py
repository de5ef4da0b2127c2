"""evaluate: distances to held-out data per NFE and coverage of it, flow, copies and likelihood."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from reflow.artifacts import finite
from reflow.artifacts.files import output_file, write_atomically
from reflow.data import DataSet
from reflow.devices import choose_device
from reflow.distributed import joined, world
from reflow.errors import ReflowError, UsageError
from reflow.evaluation.reference import Reference, reference_of
from reflow.evaluation.results import SCHEMA, times_beside, to_json
from reflow.evaluation.resume import partial_results_of
from reflow.evaluation.samplers import STREAM, Samplers
from reflow.evaluation.scores import evenly
from reflow.evaluation.sweep import Measurement, Sweep
from reflow.inputs import open_data_watched, real_data, recipe_of, split_of
from reflow.metrics.features.files import open_extractor
from reflow.models import Model, load_model
from reflow.recipes.read import Overrides, with_source
from reflow.recipes.recipe import EvaluateSettings, Recipe, SolverSettings
from reflow.sampling.methods import fixed_method, tolerant_method, usual_method
from reflow.terminal import say

TIMES_SCHEMA = 1  # of the file with the times
OF_FLOWS = ("solver", "tolerances", "likelihood")  # ways to draw and looks that students do not have
NUMBERING = "sample i has noise i: Philox, key (seed, stream), counter i"

Result = dict[str, Any]


def run(
    paths: list[Path],
    overrides: Overrides,
    *,
    source: str | None,
    features: Path | None,
    out: Path,
    device: str,
) -> Result | None:
    """Evaluate the models, write the JSON to `out` and return it; times go into a file beside it.

    Processes of torchrun share the generation; the first one measures, writes and returns, the others
    return None. What is finished is kept beside `out` until all is.
    """
    here = world()
    where = choose_device(device, here.local_rank)
    if out.suffix.lower() != ".json":  # another ending would be that of a model or a picture
        raise UsageError(f"--out {out}: give a name that ends in .json")
    with contextlib.ExitStack() as stack:
        if here.leads:  # which writes
            for path in (out, times_beside(out)):
                stack.enter_context(output_file(path))
        models = [load_model(path).to(where) for path in paths]
        recipe = _recipe(models[0], overrides, source)
        _require_comparable(models, paths, recipe.evaluate)
        if here.leads:
            _say_left_out(models, paths, overrides, recipe.evaluate)
        parts = real_data(recipe, models[0], open_data_watched)
        _require_samples(parts[1])
        labels = _labels(models[0], parts[1], recipe.evaluate.samples)
        samplers = Samplers(recipe, labels, where, here)
        return _evaluated(samplers, models, paths, parts, features, out)


def _evaluated(
    samplers: Samplers,
    models: Sequence[Model],
    paths: Sequence[Path],
    parts: tuple[DataSet, DataSet],
    features: Path | None,
    out: Path,
) -> Result | None:
    """Measure what is not finished yet and write both files; return what the first one holds."""
    leads, recipe = samplers.world.leads, samplers.recipe
    finished = partial_results_of(out)
    with joined(samplers.device):
        measure = _measure(samplers, models[0], parts, features) if leads else None
        told = None if measure is None else _told(measure, samplers)
        tasks = [_tasks(model, recipe.evaluate) for model in models]
        sweep = Sweep(samplers, measure, finished, told, parts[1])
        found = iter(sweep.run([task for some in tasks for task in some]))
    if measure is None or told is None:
        return None
    by_model = [[next(found) for _ in some] for some in tasks]
    result = {"schema": SCHEMA, "seed": recipe.seed, **measure.reference(samplers.labels), **told}
    result["models"] = list(map(_model, paths, models, tasks, by_model))
    result = dict(finite(result))
    _write(times_beside(out), _times(samplers, paths, models, by_model))
    _write(out, result)
    finished.clear()
    return result


def _recipe(model: Model, overrides: Overrides, source: str | None) -> Recipe:
    """Return the recipe of the first model, changed as the command line says."""
    recipe = recipe_of(model, overrides)
    return recipe if source is None else with_source(recipe, source)


def _require_comparable(models: list[Model], paths: list[Path], settings: EvaluateSettings) -> None:
    """Refuse models that were trained on other data, and methods that one of them does not have."""
    for path, model in zip(paths, models, strict=True):
        if _split_of(model) != _split_of(models[0]):
            raise ReflowError(
                f"{path} and {paths[0]} were trained on other data, split or classes; evaluate them apart"
            )
        _methods(model, settings)


def _say_left_out(
    models: list[Model], paths: list[Path], overrides: Overrides, settings: EvaluateSettings
) -> None:
    """Say what was asked for but changes nothing for students: they draw in Euler steps, without a flow."""
    usual = {name: EvaluateSettings.model_fields[name].default for name in OF_FLOWS}
    unused = [
        f"evaluate.{name}"
        for name in OF_FLOWS
        if f"evaluate.{name}" in overrides and getattr(settings, name) != usual[name]
    ]
    for path, model in zip(paths, models, strict=True):
        own = model.student_steps
        if own is None:
            continue
        if "evaluate.nfe" in overrides and not model.spans and set(settings.nfe) != {own}:
            count = f"{own} evaluation{'' if own == 1 else 's'}"
            say(f"note: {path} was distilled to draw in {count}; other --nfe values are skipped")
        if unused:
            say(
                f"note: {path} is a student and draws in Euler steps only, so {' and '.join(unused)} "
                "changed nothing for it; evaluate the model that it came from"
            )


def _require_samples(held_out: DataSet) -> None:
    """Refuse held-out data that tell nothing of a distribution."""
    if len(held_out) < 2:
        raise ReflowError(
            f"the model was trained with {len(held_out)} samples held out, and figures compare with two or "
            "more; train one with a larger --set data.held_out"
        )


def _split_of(model: Model) -> tuple[Any, ...]:
    """Return what decides which samples are held out, and what is generated."""
    return split_of(model), model.event, model.classes


def _write(path: Path, content: Result) -> None:
    write_atomically(path, (to_json(content) + "\n").encode())


def _labels(model: Model, held_out: DataSet, count: int) -> list[int] | None:
    """Return the labels of the samples: those of the held-out data, if the model knows labels."""
    if model.classes is None or held_out.labels is None:
        return None
    labels: list[int] = held_out.labels[evenly(len(held_out), count)].tolist()
    return labels


def _measure(
    samplers: Samplers, model: Model, parts: tuple[DataSet, DataSet], features: Path | None
) -> Reference:
    """Return what samples are measured by, and say which networks look at them."""
    extractor = None if features is None else open_extractor(features, model.event, samplers.device)
    measure = reference_of(samplers.recipe, *parts, asdict(split_of(model)), extractor)
    if extractor is not None:
        say(f"features: {extractor.name}, {extractor.size} of them, {features}")
    if measure.classifier is not None:
        say(f"classifier: {measure.classifier.accuracy:.1%} of held-out labels right")
    return measure


def _told(measure: Reference, samplers: Samplers) -> Result:
    """Return the protocol: what results follow from, beside model and method."""
    noise = {"seed": samplers.recipe.seed, "stream": STREAM, "numbering": NUMBERING}
    labels = None if samplers.labels is None else "of held-out data, evenly"
    return {
        "features": measure.features_told(),
        "protocol": {**measure.protocol(), "noise": noise, "labels": labels},
    }


def _methods(model: Model, settings: EvaluateSettings) -> list[SolverSettings]:
    """Return how samples of a model are drawn, each way once."""
    if model.spans:
        return [fixed_method(model, nfe) for nfe in sorted({model.student_steps or 1, *settings.nfe})]
    if model.student_steps is not None:
        return [usual_method(model)]
    fixed = [fixed_method(model, nfe, settings.solver) for nfe in settings.nfe]
    tolerant = [tolerant_method(model, tolerance) for tolerance in settings.tolerances]
    return list(dict.fromkeys([*fixed, usual_method(model), *tolerant]))


def _tasks(model: Model, settings: EvaluateSettings) -> list[Measurement]:
    """Return what is to be done for a model; a student has no flow to look at."""
    tasks = [Measurement(model, method) for method in _methods(model, settings)]
    if model.student_steps:
        return tasks
    return [
        *tasks,
        Measurement(model, "flow"),
        *([Measurement(model, "likelihood")] if settings.likelihood else []),
    ]


def _model(
    path: Path, model: Model, tasks: Sequence[Measurement], found: Sequence[Mapping[str, Any]]
) -> Result:
    """Return what is told of a model."""
    usual = found[[task.what for task in tasks].index(usual_method(model))]
    flow = next((one["flow"] for one in found if "flow" in one), None)
    return {
        "path": str(path),
        "sha256": model.digest,
        "stage": model.header.stage,
        "rectification": model.header.rectification,
        "student_steps": model.student_steps,
        "figures": [one["figure"] for one in found if "figure" in one],
        "straightness": None if flow is None else flow["straightness"],
        "flow": flow,
        "likelihood": next((one["likelihood"] for one in found if "likelihood" in one), None),
        "nearest_training": usual["nearest_training"],
        "classes": usual["classes"],
    }


def _times(
    samplers: Samplers,
    paths: Sequence[Path],
    models: Sequence[Model],
    found: Sequence[Sequence[Mapping[str, Any]]],
) -> Result:
    """Return the seconds that samples took, per image, and their figures."""
    return {
        "schema": TIMES_SCHEMA,
        "device": str(samplers.device),
        "processes": samplers.world.size,
        "threads": torch.get_num_threads(),
        "models": [
            {
                "path": str(path),
                "sha256": model.digest,
                "figures": [one["times"] for one in results if "times" in one],
            }
            for path, model, results in zip(paths, models, found, strict=True)
        ],
    }
