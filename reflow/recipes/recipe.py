"""The settings of all stages as strict, frozen pydantic models; together they are a recipe.

This module does not import torch.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from reflow.recipes.choices import (
    FIXED_SOLVERS,
    TOLERANT_SOLVERS,
    FixedSolver,
    GridName,
    PairPrecision,
    SolverName,
)
from reflow.recipes.fields import Count, NonNegative, Positive, Settings, Time
from reflow.recipes.network import DitSettings, MlpSettings, UnetSettings
from reflow.recipes.training import BaseFitSettings, DistillSettings, ReflowSettings

ModelSettings = MlpSettings | UnetSettings | DitSettings
MODEL_KINDS: tuple[str, ...] = tuple(
    get_args(settings.model_fields["kind"].annotation)[0] for settings in get_args(ModelSettings)
)


class DataSettings(Settings):
    """[data]: the real images or points, and how they are read."""

    source: str = Field(
        description="built-in set (digits, fashion-mnist, eight-gaussians, two-moons, checkerboard), "
        "hub:NAME[:SPLIT], or a path: folder of images or IDX files, .npz, .zip, IDX .gz, folder saved by "
        "Hugging Face's datasets; 'files' stands for a path or hub set that --data names"
    )
    labels: bool = Field(False, description="condition the model on the class labels")
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of the set kept from training, to evaluate against"
    )
    size: Count | None = Field(
        None, description="resize and centre-crop images to size x size pixels; default: as stored"
    )
    mode: Literal["auto", "grey", "rgb"] = Field(
        "auto", description="channels of images; auto: grey if every image is grey, else rgb"
    )
    skip_corrupt: bool = Field(
        False,
        exclude_if=lambda skip: not skip,  # as for label_dropout
        description="leave out images that cannot be decoded, and say which; else they are refused",
    )
    flip: bool = Field(False, description="mirror training images left-right at random")
    points: Count = Field(20_000, description="number of points drawn from a 2-D set")


TOLERANCE = 2e-3  # a quarter of the step between two grey levels of 8 bits


class SolverSettings(Settings):
    """A numerical method with either a number of steps or a tolerance."""

    solver: SolverName = Field(
        "adams",
        description="numerical method of the ODE; adams takes a tolerance and finds order, grid and "
        "number of steps with a pilot",
    )
    steps: Count | None = Field(None, description="steps of a fixed grid")
    tolerance: Positive | None = Field(
        None,
        description=f"wanted RMS error of the images, in data units; {TOLERANCE:g} without steps",
    )
    grid: GridName | None = Field(
        None,
        exclude_if=lambda grid: grid is None,  # as for label_dropout
        description="times of a fixed grid; calibrated: from a pilot; default: the solver's usual one",
    )

    @model_validator(mode="after")
    def _match(self) -> "SolverSettings":
        if self.steps is None and self.tolerance is None and self.solver in TOLERANT_SOLVERS:
            object.__setattr__(self, "tolerance", TOLERANCE)  # a default that depends on another setting
        if self.steps is not None and self.tolerance is not None:
            raise ValueError("give steps (a fixed grid) or a tolerance, not both; none takes one back")
        if self.steps is not None and self.solver not in FIXED_SOLVERS:
            raise ValueError(f"solver {self.solver} takes a tolerance and no steps")
        if self.steps is None and self.solver not in TOLERANT_SOLVERS:
            raise ValueError(f"solver {self.solver} takes steps and no tolerance")
        if self.grid is not None and self.steps is None:
            raise ValueError("grid is for a fixed number of steps; give steps, or leave it out")
        return self


class GuidanceSettings(Settings):
    """Classifier-free guidance, beside a solver."""

    guidance: NonNegative | None = Field(
        None,
        exclude_if=lambda scale: scale is None,  # as for label_dropout
        description="scale of classifier-free guidance: 1 (and none) follows the label as trained, more "
        "follows it further; needs a model trained with label_dropout, and evaluates it twice",
    )
    guidance_interval: tuple[Time, Time] = Field(
        (0.0, 1.0),
        exclude_if=lambda interval: interval == (0.0, 1.0),
        description="first and last time t at which guidance acts",
    )

    @model_validator(mode="after")
    def _act_somewhere(self) -> "GuidanceSettings":
        first, last = self.guidance_interval
        if not first < last:
            raise ValueError(f"guidance_interval begins at {first:g} and must end later than at {last:g}")
        if self.guidance is None and (first, last) != (0, 1):
            raise ValueError("guidance_interval does nothing without guidance; set guidance, too")
        return self


class CoupleSettings(SolverSettings, GuidanceSettings):
    """[couple]: making pairs."""

    count: Count = Field(description="number of pairs")
    batch: Count = Field(500, description="samples solved together")
    shard: Count = Field(2000, description="pairs per file")
    image_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="precision of the stored images; the noise is always float32"
    )
    labels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        min_length=1,
        exclude_if=lambda labels: labels is None,  # as for label_dropout
        description="classes of the pairs, cycled through; default: all classes",
    )
    precision: PairPrecision = Field(
        "float32",
        exclude_if=lambda precision: precision == "float32",
        description="of the network's inside (autocast); solver, t and noise stay float32",
    )
    noise_gate: tuple[Positive, Positive] = Field(
        (0.8, 1.2),
        exclude_if=lambda gate: gate == (0.8, 1.2),
        description="with --invert: bounds of the noise's mean square; pairs outside are dropped",
    )
    round_trip_gate: Positive = Field(
        0.05,
        exclude_if=lambda gate: gate == 0.05,
        description="with --invert: largest RMS error of an image taken to noise and back, in data units",
    )

    least_recall: Annotated[float, Field(ge=0, le=1)] = Field(
        0.7,
        exclude_if=lambda share: share == 0.7,
        description="with --against: share of the first round's recall of itself below which the images "
        "have collapsed",
    )
    least_spread: Annotated[float, Field(ge=0, le=1)] = Field(
        0.9,
        exclude_if=lambda share: share == 0.9,
        description="with --against: share of the first round's standard deviation, likewise",
    )

    @model_validator(mode="after")
    def _let_something_through(self) -> "CoupleSettings":
        low, high = self.noise_gate
        if not low < high:
            raise ValueError(f"noise_gate begins at {low:g} and must end higher than at {high:g}")
        return self


class EvaluateSettings(Settings):
    """[evaluate]: distances to the held-out data."""

    samples: Annotated[int, Field(ge=2)] = Field(1000, description="generated samples per figure")
    nfe: tuple[Count, ...] = Field(
        (1, 2, 4, 8, 16, 100), min_length=1, description="network evaluations per sample"
    )
    solver: FixedSolver = Field("euler", description="fixed-grid method for the figures per NFE")
    tolerances: tuple[Positive, ...] = Field(
        (),
        exclude_if=lambda tolerances: not tolerances,  # as for label_dropout
        description="wanted errors, in data units, of figures with a step size per sample; the recipe's "
        "[couple] solver always has one",
    )
    projections: Count = Field(500, description="directions of the sliced Wasserstein distance")
    kernel_subsets: Count = Field(
        100,
        exclude_if=lambda subsets: subsets == 100,
        description="random subsets that the kernel distance is the mean of",
    )
    kernel_size: Annotated[int, Field(ge=2)] = Field(
        1000,
        exclude_if=lambda size: size == 1000,
        description="samples of each of these, at most; half of the samples or of the held-out data where "
        "that is less",
    )
    straightness_samples: Annotated[int, Field(ge=2)] = Field(
        128, description="trajectories behind the straightness and the other figures of the flow"
    )
    straightness_tolerance: Positive = Field(
        1e-4, description="tolerance of these trajectories, in data units"
    )
    likelihood: bool = Field(
        False,
        exclude_if=lambda likelihood: not likelihood,
        description="measure the likelihood of held-out samples, too",
    )
    likelihood_samples: Annotated[int, Field(ge=2)] = Field(
        200,
        exclude_if=lambda samples: samples == 200,
        description="held-out samples whose likelihood is measured, at most",
    )
    likelihood_probes: Count = Field(
        4,
        exclude_if=lambda probes: probes == 4,
        description="directions per sample that estimate the divergence; exact in as many dimensions "
        "or fewer",
    )
    likelihood_tolerance: Positive = Field(
        1e-3,
        exclude_if=lambda tolerance: tolerance == 1e-3,
        description="wanted error of the log-likelihood, in nats per dimension",
    )
    classifier_steps: Count = Field(
        600, description="optimiser steps of the classifier whose features are compared"
    )
    batch: Count = Field(500, description="samples generated together")


class Recipe(Settings):
    """The settings of all stages."""

    name: str = Field(description="what the recipe is called")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="random seed")
    data: DataSettings
    model: Annotated[ModelSettings, Field(discriminator="kind")]
    train: BaseFitSettings
    couple: CoupleSettings
    reflow: ReflowSettings
    distill: DistillSettings
    evaluate: EvaluateSettings

    @model_validator(mode="after")
    def _have_labels_to_drop(self) -> "Recipe":
        for section, settings in (("train", self.train), ("reflow", self.reflow)):
            name = f"{section}.label_dropout = {settings.label_dropout:g}"
            if settings.label_dropout and not self.data.labels:
                raise ValueError(f"{name} needs labels; set data.labels = true, or leave it out")
            if settings.label_dropout and not self.train.label_dropout:
                raise ValueError(f"{name} needs a base model that was trained with train.label_dropout > 0")
        return self
