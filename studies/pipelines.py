"""Pipelines that users would otherwise run, given the network, the data and the time that ours took.

    .venv-bench/bin/python studies/pipelines.py --recipe digits --out runs/study --seeds 0,1,2
    ... --seconds 134,18,81,38      (of train, couple, reflow, distill; else what the study noted in OUT)

A peer may take as long as our stages took, phase by phase or several together; with --share-base it starts
from the study's base where its own would be trained alike. Its models become artifacts of ours in
OUT/seed-S/peer-NAME, which `reflow evaluate` measures with the noise, the classifier and the held-out data
of that seed; `study.py --table` shows them. Peers that are not told their optimiser's settings have those
of the recipe's stages.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from contests import (
    STAGES,
    Optimisation,
    Phases,
    Problem,
    Solve,
    drawn,
    optimisation_of,
    plain_base,
    regression_loss,
    velocity_loss,
)
from ema_pytorch import EMA
from findings import seconds_of  # first: it lets the modules of benchmarks/ be found
from loops import Swapped, rectified_flow_pytorch
from peers import flow_matching_fixed, scipy_rk45, uniform
from rounds import CLOCKS
from study import NFE, Study, beside, parser_of, study_of
from torch import Tensor, nn
from variants import Chain

from reflow.artifacts import MODEL, Header, write_artifact
from reflow.data import open_data
from reflow.errors import ReflowError
from reflow.flow import Pair
from reflow.recipes.read import override, parse_overrides
from reflow.recipes.recipe import Recipe
from reflow.recipes.training import BaseFitSettings

FIELDS = {"wall": "seconds", "cpu": "processor"}  # of the study's notes, by clock
SOLVED = 100  # noises solved together
Models = Mapping[str, nn.Module]  # by the stage of ours that they stand for
Peer = Callable[[Problem, Phases], Models]

RK45: Solve = partial(scipy_rk45, tolerance=1e-5)
MIDPOINT: Solve = partial(flow_matching_fixed, method="midpoint", grid=uniform, steps=16)


class Reflow(rectified_flow_pytorch.Reflow):  # type: ignore[misc]
    """The package's wrapper; in 0.14.0 its `device` is a method, which its own call of torch refuses."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def regressing(recipe: Recipe) -> Optimisation:
    """Return the optimisation that regression trains best with, whatever the recipe distills by."""
    return optimisation_of(override(recipe, parse_overrides(["distill.objective=regress"])).distill)


def base_with_pairs(problem: Problem, phases: Phases, solve: Solve) -> tuple[nn.Module, nn.Module, Pair]:
    """Train a base; return its network, the average of that, and the pairs that the average makes."""
    net = problem.net()
    base = plain_base(problem, phases, net)
    return net, base, phases.collect(["couple"], lambda: problem.solved(base, solve, SOLVED))


def official(problem: Problem, phases: Phases, solve: Solve) -> Models:
    """The recipe of gnobitab/RectifiedFlow: pairs from the averaged weights (there by RK45 at 1e-5), reflow
    and distillation from the raw ones, uniform times, squared errors."""
    recipe = problem.recipe
    net, base, pairs = base_with_pairs(problem, phases, solve)
    reflowed = phases.fit(
        ["reflow"],
        net,
        lambda: velocity_loss(net, drawn(pairs, recipe.reflow.batch)),
        optimisation_of(recipe.reflow),
    )
    student = phases.fit(
        ["distill"],
        net,
        lambda: regression_loss(net, drawn(pairs, recipe.distill.batch)),
        regressing(recipe),
    )
    return {"train": base, "reflow": reflowed, "distill": student}


def lucidrains(problem: Problem, phases: Phases, own: bool) -> Models:
    """rectified-flow-pytorch as its README has it: its loss, then its Reflow around the trained model,
    which makes new pairs at every step, for all the time that is left. It has no distillation.

    own: with the optimiser and the average of its Trainer.
    """
    recipe = problem.recipe
    library = Optimisation(lr=3e-4, warmup=0, schedule="constant", clip=0.5, average=EMA)
    net = problem.net()
    flow = rectified_flow_pytorch.RectifiedFlow(Swapped(net), data_shape=problem.parts[0].event)

    def loss() -> Tensor:
        return flow((problem.independent(recipe.train.batch).x1 + 1) / 2)  # type: ignore[no-any-return]  # it takes [0, 1]

    base = phases.fit(["train"], net, loss, library) if own else plain_base(problem, phases, net, loss)
    net.load_state_dict(base.state_dict())
    wrapper = Reflow(flow, batch_size=recipe.reflow.batch)
    second = library if own else optimisation_of(recipe.reflow)
    reflowed = phases.fit(["couple", "reflow", "distill"], net, wrapper, second)
    return {"train": base, "reflow": reflowed}


def regression(problem: Problem, phases: Phases, scratch: bool) -> Models:
    """A one-step student fitted to the base's pairs, without reflow, from its weights or from scratch."""
    recipe = problem.recipe
    net, base, pairs = base_with_pairs(problem, phases, MIDPOINT)
    net.load_state_dict((problem.net() if scratch else base).state_dict())
    student = phases.fit(
        ["reflow", "distill"],
        net,
        lambda: regression_loss(net, drawn(pairs, recipe.distill.batch)),
        optimisation_of(recipe.train) if scratch else regressing(recipe),
    )
    return {"train": base, "distill": student}


PEERS: dict[str, Peer] = {
    "lucidrains": partial(lucidrains, own=True),
    "lucidrains-our-optimiser": partial(lucidrains, own=False),
    "official-recipe": partial(official, solve=RK45),
    "official-recipe-midpoint": partial(official, solve=MIDPOINT),  # a fifth of the evaluations
    "regression-from-base": partial(regression, scratch=False),
    "regression-from-scratch": partial(regression, scratch=True),
}
UNLABELLED = ("lucidrains", "lucidrains-our-optimiser")  # its Reflow takes no condition
OWN_BASE = ("lucidrains",)  # trained by its own optimiser


def publish(folder: Path, models: Models, problem: Problem) -> list[Path]:
    """Write the models as artifacts of ours and return their folders."""
    recipe, (training, _) = problem.recipe, problem.parts
    digest = open_data(recipe.data, recipe.seed).digest()
    facts = {
        "event": list(training.event),
        "classes": problem.classes,
        "training_samples": len(training),
        "split": {"data": digest, "seed": recipe.seed, "held_out": recipe.data.held_out},
    }
    facts |= {"unconditional": True} if problem.unconditional else {}
    made = {stage: net for stage, net in models.items() if stage != "train" or problem.base is None}
    for stage, net in made.items():
        own = {"steps": 0, "student_steps": 1 if stage == "distill" else None}
        header = Header("model", stage, 1, recipe.model_dump(mode="json"), {"data": digest}, facts | own)
        (folder / stage).mkdir(parents=True, exist_ok=True)
        write_artifact(folder / stage / MODEL, net.state_dict(), header)
    return [folder / stage for stage in made]


def seconds_spent(study: Study, seed: int, clock: str) -> dict[str, float]:
    """Return the seconds that the recipe's own chain took in a study, by stage."""
    chain = Chain().under(study.settings)
    found = {}
    for stage, kind in zip(STAGES, ("base", "pairs", "reflow", "distill"), strict=True):
        noted = beside(study.folder(seed, chain[kind]), "times.json")
        seconds = seconds_of(noted, FIELDS[clock])
        if seconds is None:
            raise ReflowError(f"{noted} does not tell how long {stage} took; run the study, or --seconds")
        found[stage] = seconds
    return found


def plain(settings: BaseFitSettings) -> bool:
    """Return whether the base is fitted as the peers fit theirs, label dropout aside."""
    return (settings.times, settings.distance, settings.weighting, settings.transport) == (
        "uniform",
        "squared",
        "uniform",
        None,
    )


def compete(
    name: str, study: Study, seed: int, seconds: dict[str, float], clock: str, *, share: bool
) -> None:
    """Run one peer with one seed and measure what it made, unless that is done.

    share: it starts from the study's base, if that was trained as its own would be.
    """
    folder = study.out / f"seed-{seed}" / f"peer-{name}"
    out = beside(folder, "evaluation.json")
    if out.exists():
        return
    print(f"{folder}: {seconds}", file=sys.stderr, flush=True)
    recipe = override(study.settings, parse_overrides([f"seed={seed}"]))
    labelled = recipe.data.labels and name not in UNLABELLED
    alike = labelled == recipe.data.labels and plain(recipe.train) and name not in OWN_BASE
    base = study.folder(seed, Chain().under(study.settings)["base"]) if share and alike else None
    problem = Problem(recipe, labelled, base)
    torch.manual_seed(seed)
    phases = Phases(seconds, CLOCKS[clock])
    folders = publish(folder, PEERS[name](problem, phases), problem)
    beside(folder, "times.json").write_text(json.dumps(phases.notes, indent=1) + "\n")
    words = ["evaluate", *map(str, folders), "--nfe", NFE, "--data", recipe.data.source, "--out", str(out)]
    subprocess.run([sys.executable, "-m", "reflow", *words], check=True, stdout=subprocess.DEVNULL)


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--only", nargs="+", choices=PEERS, default=list(PEERS), help="these peers only")
    add("--seconds", metavar="A,B,C,D", help="of train, couple, reflow, distill, instead of the study's")
    add("--share-base", action="store_true", help="start from the study's base where it is trained alike")
    add("--clock", choices=CLOCKS, default="cpu", help="cpu (default): processor time, for busy machines")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    study = study_of(options)
    for seed in options.seeds:
        if options.seconds:
            seconds = dict(zip(STAGES, map(float, options.seconds.split(",")), strict=True))
        else:
            seconds = seconds_spent(study, seed, options.clock)
        for name in options.only:
            compete(name, study, seed, seconds, options.clock, share=options.share_base)


if __name__ == "__main__":
    try:
        main()
    except ReflowError as error:
        sys.exit(f"pipelines: {error}")
