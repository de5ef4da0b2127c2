"""The command line: one short function per command. Stages and torch are imported inside them."""

from typing import Annotated

import typer

from reflow import __version__
from reflow.cli import parameters
from reflow.cli.overrides import changes_of, interval_of, solver_changes, sweep_changes, weights_of
from reflow.cli.usage import Command
from reflow.errors import UsageError
from reflow.training.job import Job

app = typer.Typer(
    name="reflow",
    help="From data to a generator that needs one network evaluation per sample, by rectified flow.\n\n"
    "The stages, in order: train, couple, train --pairs, distill; then sample, evaluate and report.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"reflow {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options before the command; __main__ has read --debug already."""
    del debug, version


@app.command(cls=Command)
def train(
    out: parameters.Out,
    recipe: parameters.RecipeName = None,
    data: parameters.TrainingData = None,
    pairs: parameters.ReflowPairs = None,
    weights: parameters.Weights = None,
    init: parameters.Teacher = None,
    perceptual: parameters.PerceptualWeights = None,
    settings: parameters.Set = None,
    seed: parameters.Seed = None,
    device: parameters.Device = "auto",
    compiled: parameters.Compiled = None,
    track: parameters.Track = None,
    fresh: parameters.Fresh = False,
) -> None:
    """Train a model on data, or retrain it on its pairs (reflow).

    With --pairs and --init, the settings come from the [reflow] section of the model's recipe.
    """
    from reflow.recipes.read import read_recipe, with_source
    from reflow.stages import reflow as retraining
    from reflow.stages import train as stage

    job = Job(out, device, compiled, tuple(track or ()), fresh)
    overrides = changes_of(settings, seed)
    shares = weights_of(weights, pairs or [])
    if (not pairs) != (init is None):
        raise UsageError("reflow needs both --pairs and --init; training on data needs neither")
    if pairs and init is not None:
        if recipe is not None or data is not None:
            raise UsageError("with --pairs the recipe comes from --init; leave out RECIPE and --data")
        retraining.run(init, pairs, shares, overrides, perceptual, job)
        return
    if perceptual is not None:
        raise UsageError("--perceptual compares the images of pairs; it goes with --pairs and --init")
    if recipe is None:
        raise UsageError(
            "give a RECIPE: digits, fashion-mnist or another built-in one, or the path of a .toml file"
        )
    chosen = read_recipe(recipe, overrides)
    if data is not None:
        chosen = with_source(chosen, data)
    stage.run(chosen, job)


@app.command(cls=Command)
def couple(
    model: parameters.ModelPath,
    out: parameters.Out,
    count: parameters.Count = None,
    tolerance: parameters.PairTolerance = None,
    solver: parameters.Solver = None,
    steps: parameters.FixedSteps = None,
    grid: parameters.Grid = None,
    labels: parameters.Labels = None,
    guidance: parameters.BakedGuidance = None,
    guidance_interval: parameters.GuidanceInterval = None,
    against: parameters.FirstPairs = None,
    invert: parameters.Invert = False,
    data: parameters.InvertedData = None,
    part: parameters.PartOf = None,
    precision: parameters.Precision = None,
    compiled: parameters.CoupleCompiled = False,
    settings: parameters.Set = None,
    seed: parameters.Seed = None,
    device: parameters.Device = "auto",
    fresh: parameters.Fresh = False,
) -> None:
    """Solve the ODE from noise and store the pairs."""
    from reflow.stages import couple as stage
    from reflow.stages import invert as inversion

    job = Job(out, device, compiled, fresh=fresh)
    chosen = {
        "couple.count": count,
        "couple.precision": precision,
        "couple.guidance": guidance,
        "couple.guidance_interval": interval_of(guidance_interval),
    }
    overrides = changes_of(settings, seed, chosen) | solver_changes(solver, steps, tolerance, grid)
    if not invert:
        if data is not None:
            raise UsageError("--data is for --invert; other pairs start from noise")
        stage.run(model, overrides, labels=labels, against=against, part=part, job=job)
        return
    if compiled or any(option is not None for option in (part, labels, count, against)):
        raise UsageError(
            "--invert takes all training images in one job, uncompiled; "
            "leave out --part, --labels, --count, --against and --compile"
        )
    inversion.run(model, overrides, source=data, job=job)


@app.command(cls=Command)
def average(
    folder: parameters.SnapshotFolder,
    out: parameters.Out,
    width: parameters.Width,
    step: parameters.AverageStep = None,
    fresh: parameters.Fresh = False,
) -> None:
    """Rebuild a model with another width of weight averaging."""
    from reflow.stages import average as stage

    stage.run(folder, width=width, step=step, out=out, fresh=fresh)


@app.command(cls=Command)
def distill(
    model: parameters.ModelPath,
    pairs: parameters.StudentPairs,
    out: parameters.Out,
    weights: parameters.Weights = None,
    perceptual: parameters.PerceptualWeights = None,
    objective: parameters.StudentObjective = None,
    steps: parameters.StudentSteps = None,
    settings: parameters.Set = None,
    seed: parameters.Seed = None,
    device: parameters.Device = "auto",
    compiled: parameters.Compiled = None,
    track: parameters.Track = None,
    fresh: parameters.Fresh = False,
) -> None:
    """Fit a generator that needs one network evaluation."""
    from reflow.stages import distill as stage

    overrides = changes_of(settings, seed, {"distill.objective": objective, "distill.student_steps": steps})
    shares = weights_of(weights, pairs)
    job = Job(out, device, compiled, tuple(track or ()), fresh)
    stage.run(model, pairs, shares, overrides, perceptual, job)


@app.command(cls=Command)
def evaluate(
    models: parameters.Evaluated,
    out: parameters.EvaluationOut,
    data: parameters.EvaluatedData = None,
    nfe: parameters.SweptNfe = None,
    solver: parameters.SweptSolver = None,
    tolerance: parameters.SweptTolerances = None,
    features: parameters.FeatureFile = None,
    likelihood: parameters.WithLikelihood = False,
    settings: parameters.Set = None,
    seed: parameters.Seed = None,
    device: parameters.Device = "auto",
    as_json: parameters.Json = False,
) -> None:
    """Compare samples of models with real data.

    Per number of network evaluations: distances to held-out data, precision, recall, density, coverage and
    spread; per model: straightness, and how near samples are to their nearest training samples. To resume
    after an interruption, run the same command again.
    """
    from reflow.evaluation import results
    from reflow.stages import evaluate as stage
    from reflow.terminal import answer

    overrides = changes_of(settings, seed) | sweep_changes(nfe, solver, tolerance, likelihood)
    result = stage.run(models, overrides, source=data, features=features, out=out, device=device)
    if result is not None:  # under torchrun the first process has it
        answer(results.to_json(result) if as_json else results.to_table(result))


@app.command(cls=Command)
def compare(
    first: parameters.EvaluationFile,
    second: parameters.EvaluationFile,
    as_json: parameters.Json = False,
) -> None:
    """Show how two evaluations differ, beside sampling noise."""
    from reflow.stages import compare as stage
    from reflow.terminal import answer

    answer(stage.run(first, second, as_json=as_json))


@app.command(cls=Command)
def sample(
    model: parameters.ModelPath,
    out: parameters.SampleOut,
    count: parameters.SampleCount = 64,
    nfe: parameters.SampleNfe = None,
    tolerance: parameters.SampleTolerance = None,
    solver: parameters.SampleSolver = None,
    seed: parameters.SampleSeed = 0,
    label: parameters.SampleLabel = None,
    guidance: parameters.SampleGuidance = None,
    guidance_interval: parameters.GuidanceInterval = None,
    batch: parameters.SampleBatch = 500,
    device: parameters.Device = "auto",
) -> None:
    """Draw samples into a file or folder.

    By default a student draws in its own steps, and another model by the [couple] solver of its recipe.
    """
    from reflow.stages import sample as stage

    stage.run(
        model,
        out=out,
        count=count,
        nfe=nfe,
        tolerance=tolerance,
        solver=solver,
        seed=seed,
        label=label,
        guidance=guidance,
        interval=interval_of(guidance_interval),
        batch=batch,
        device=device,
    )


@app.command(cls=Command)
def report(
    runs: parameters.Runs,
    out: parameters.Page,
    device: parameters.Device = "auto",
) -> None:
    """Write a self-contained page about one run or several."""
    from reflow.stages import report as stage

    stage.run(runs, out=out, device=device)


@app.command(cls=Command)
def inspect(
    path: parameters.Inspected,
    settings: parameters.Set = None,
    rate: parameters.Rate = None,
    as_json: parameters.Json = False,
) -> None:
    """Show what an artifact, run or recipe is, and its health.

    Of an artifact or a run: header, lineage and health; of a recipe: settings and estimated cost.
    """
    from reflow.stages import inspect as stage
    from reflow.terminal import answer

    if rate is not None and not rate > 0:
        raise UsageError("--rate must be above 0")
    answer(stage.run(path, changes_of(settings, None), rate=rate, as_json=as_json))
