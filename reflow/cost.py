"""What a recipe costs, before anything runs: arithmetic, pairs on disk, hours at a rate.

The unit is the evaluation: one sample once through the network. An example of a training run is three of
them, as the way back takes the gradients of features and of weights, each as much as the way there;
`recompute` adds a fourth. Multiply-adds are those of convolutions and matrix products (attention
included), two FLOP each; norms, activations and the optimiser move memory and are left out, as are
pilots, previews, validation and `evaluate`. The network is built on torch's `meta` device: no values.
"""

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from reflow.data import SETS
from reflow.errors import ReflowError
from reflow.models import build
from reflow.recipes.recipe import CoupleSettings, DataSettings, ModelSettings, Recipe
from reflow.recipes.training import DistillSettings, FitSettings
from reflow.solvers.fixed_grid import METHODS
from reflow.solvers.grids import GRIDS

ASSUMED_NFE = 25  # of a pair at a tolerance; the digits take 23.2 at the usual one (README.md)
ASSUMED_CLASSES = 10
RGB = 3

# Evaluations without gradient in a training example of [distill], which make its target: two of the
# teacher and one of the student; one of the teacher and a derivative, which costs as much as two.
TARGET_EVALUATIONS = {"regress": 0, "consistency": 3, "meanflow": 3}


class Shape(NamedTuple):
    """The shape of a sample, how many classes there are, and what of this is assumed."""

    event: tuple[int, ...]
    classes: int | None
    assumed: tuple[str, ...]


class Size(NamedTuple):
    """Parameters, and multiply-adds of one evaluation."""

    parameters: int
    multiply_adds: int


class Stage(NamedTuple):
    """Examples or pairs of a stage, and the evaluations that all of them take."""

    name: str
    examples: int
    evaluations: int


class Cost(NamedTuple):
    """What the chain of a recipe costs, each stage once."""

    samples: Shape
    network: Size
    stages: tuple[Stage, ...]
    nfe: int
    nfe_assumed: bool
    pair_bytes: int

    @property
    def evaluations(self) -> int:
        """Evaluations of all stages."""
        return sum(stage.evaluations for stage in self.stages)

    def gflop(self, evaluations: int) -> float:
        """Return the arithmetic of so many evaluations, in 10^9 floating-point operations."""
        return 2 * self.network.multiply_adds * evaluations / 1e9

    def hours(self, evaluations: int, rate: float) -> float:
        """Return how long they take at a sustained rate in TFLOP/s."""
        return self.gflop(evaluations) / (1e3 * rate) / 3600


def cost_of(recipe: Recipe) -> Cost:
    """Return what the stages of a recipe cost; raises ReflowError where the data has to be seen first."""
    samples = samples_of(recipe.data, recipe.model)
    network = network_of(
        recipe.model, samples.event, samples.classes, unconditional=recipe.train.label_dropout > 0
    )
    nfe = nfe_of(recipe.couple)
    stages = (
        training_cost(recipe, "train"),
        Stage("couple", recipe.couple.count, recipe.couple.count * nfe),
        training_cost(recipe, "reflow"),
        training_cost(recipe, "distill"),
    )
    stored = recipe.couple.count * bytes_of(recipe.couple, samples)
    return Cost(samples, network, stages, nfe, recipe.couple.steps is None, stored)


def training_cost(recipe: Recipe, stage: str) -> Stage:
    """Return the examples and evaluations of a training stage."""
    if stage == "distill":
        return _distilled(recipe.distill)
    return _fitted(stage, {"train": recipe.train, "reflow": recipe.reflow}[stage])


def samples_of(data: DataSettings, model: ModelSettings) -> Shape:
    """Return what a recipe's samples are: known of a built-in set, else by data.size and data.mode."""
    known = SETS.get(data.source)
    classes = None if not data.labels else ASSUMED_CLASSES if known is None else known.classes
    if known is not None and len(known.event) == 1:
        return Shape(known.event, classes, ())
    if known is None and model.kind == "mlp":
        raise ReflowError("how long the vectors are is known once their file is read")
    size = data.size or (known.event[1] if known else None)
    if size is None:
        raise ReflowError("the size of the images is not known before they are read; set data.size")
    stored = RGB if known is None else known.event[0]
    channels = {"auto": stored, "grey": 1, "rgb": RGB}[data.mode]
    assumed = []
    if known is None and data.mode == "auto":
        assumed.append(f"{RGB} channels, as data.mode is auto")
    if known is None and data.labels:
        assumed.append(f"{ASSUMED_CLASSES} classes")
    return Shape((channels, size, size), classes, tuple(assumed))


def network_of(
    settings: ModelSettings, event: tuple[int, ...], classes: int | None, *, unconditional: bool = False
) -> Size:
    """Return the size of a network and what one more sample in a batch costs."""
    with torch.device("meta"), torch.no_grad():
        net = build(settings, event, classes, unconditional=unconditional)
        counts = []
        for batch in (1, 2):  # what is done once for a batch, whatever its size, is in both
            x, t = torch.empty(batch, *event), torch.empty(batch)
            label = None if classes is None else torch.empty(batch, dtype=torch.int64)
            with FlopCounterMode(display=False) as counter:
                net(x, t, label)
            counts.append(counter.get_total_flops())
    parameters = sum(weight.numel() for weight in net.parameters())
    return Size(parameters, (counts[1] - counts[0]) // 2)


def nfe_of(couple: CoupleSettings) -> int:
    """Return the evaluations of a pair: those of its steps, or what is assumed for a tolerance."""
    twice = 1 if couple.guidance in (None, 1) else 2
    if couple.steps is None:
        return twice * ASSUMED_NFE
    return twice * len(METHODS[couple.solver](GRIDS["uniform"](couple.steps)))


def bytes_of(couple: CoupleSettings, samples: Shape) -> int:
    """Return the size of a stored pair: noise in float32, the image, and a label of 64 bits."""
    values = torch.Size(samples.event).numel()
    image: torch.dtype = getattr(torch, couple.image_dtype)
    return values * (4 + image.itemsize) + (0 if samples.classes is None else 8)


def _fitted(name: str, settings: FitSettings) -> Stage:
    """Return a stage of which an example is one evaluation and its gradient."""
    examples = settings.steps * settings.batch
    return Stage(name, examples, examples * (3 + settings.recompute))


def _distilled(settings: DistillSettings) -> Stage:
    """Return the last stage; regression rolls a student of k steps out."""
    stage = _fitted("distill", settings)
    rolled = settings.student_steps if settings.objective == "regress" else 1
    target = stage.examples * TARGET_EVALUATIONS[settings.objective]
    return stage._replace(evaluations=rolled * stage.evaluations + target)
