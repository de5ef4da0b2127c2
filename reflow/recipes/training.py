"""The settings of training stages: optimiser, precision and memory, and the rhythm of the loop.

This module does not import torch.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reflow.recipes.choices import DistanceName, ObjectiveName
from reflow.recipes.fields import Count, Positive, Settings


class FitSettings(Settings):
    """What every training stage has: the optimiser and the rhythm of the loop."""

    steps: Count = Field(description="optimiser steps; may grow later, which continues a finished run")
    batch: Count = Field(description="examples per step, over all processes")
    lr: Positive = Field(description="Adam's learning rate after the warm-up")
    warmup: Annotated[int, Field(ge=0)] = Field(
        0, description="steps of linear growth of the learning rate"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="learning rate after the warm-up; linear and cosine end at zero"
    )
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.999, description="Adam's decay of the second moment"
    )
    clip: Positive = Field(1.0, description="largest gradient norm")
    ema_halflife: Positive = Field(description="half-life of the averaged weights, in steps")
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = Field(
        "float32",
        exclude_if=lambda precision: precision == "float32",  # headers without it keep their bytes
        description="of the network's inside; tf32 for NVIDIA GPUs, the 16-bit ones by autocast, float16 "
        "with loss scaling; weights, t and the loss stay float32",
    )
    micro_batch: Count | None = Field(
        None,
        exclude_if=lambda size: size is None,
        description="examples that a process takes through the network at once, where memory is short; "
        "gradients are added up over the batch",
    )
    recompute: bool = Field(
        False,
        exclude_if=lambda recompute: not recompute,
        description="compute activations again in the backward pass instead of keeping them: less memory, "
        "about a third more time",
    )
    sharded: bool = Field(
        False,
        exclude_if=lambda sharded: not sharded,
        description="under torchrun, each process keeps a share of weights, averages and moments instead "
        "of all (FSDP2), for models that do not fit into one GPU",
    )
    snapshots: Annotated[int, Field(ge=0)] = Field(
        8,
        exclude_if=lambda count: count == 8,
        description="snapshots to store, evenly over the training run, from which reflow average rebuilds "
        "other averages; each takes twice the disk space of the model; 0 stores none",
    )
    log_every: Count = Field(50, description="steps between lines of log.jsonl")
    save_every: Count = Field(1000, description="steps between saved states")
    save_minutes: Positive = Field(
        10.0,
        exclude_if=lambda minutes: minutes == 10,
        description="minutes after which a state is saved, whatever the steps",
    )
    preview_every: Count = Field(1000, description="steps between previews in samples.png")
    validate_every: Count = Field(
        500,
        exclude_if=lambda steps: steps == 500,
        description="steps between losses of the averaged model on held-out and on training examples",
    )


# What may change from one session to the next: when things are written, how the same step is computed, and
# what is asked of pairs that are there.
RHYTHM = frozenset(
    [
        *("log_every", "save_every", "save_minutes", "preview_every", "validate_every"),
        *("micro_batch", "recompute", "sharded"),
        *("least_recall", "least_spread"),
    ]
)


class VelocityFitSettings(FitSettings):
    """What fitting the velocity has beside."""

    times: Literal["uniform", "logit-normal", "u-shaped"] = Field(
        "uniform", description="distribution of t in training"
    )
    logit_mean: Annotated[float, Field(allow_inf_nan=False)] = Field(
        0.0, description="mean of logit(t) when times = logit-normal"
    )
    logit_std: Positive = Field(1.0, description="standard deviation of logit(t) when times = logit-normal")
    sharpness: Annotated[float, Field(gt=0, le=100)] = Field(
        4.0, description="parameter a of the distribution when times = u-shaped"
    )
    distance: DistanceName = Field(
        "squared",
        description="what compares velocities; on independent noise and data only squared leads to the "
        "data's distribution, as it is least at their mean",
    )
    label_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        exclude_if=lambda share: share == 0,  # headers without it keep the bytes they always had
        description="share of labels replaced by the null label, which guidance needs; a model has one if "
        "this is above 0 in [train]",
    )
    weighting: Literal["uniform", "uncertainty"] = Field(
        "uniform",
        exclude_if=lambda weighting: weighting == "uniform",
        description="of losses; uncertainty (experimental: no gain measured) divides each by the mean "
        "loss at its t that the steps before had, so that every t counts alike",
    )


class BaseFitSettings(VelocityFitSettings):
    """[train]: fitting the velocity on data."""

    transport: Annotated[int, Field(ge=2)] | None = Field(
        None,
        exclude_if=lambda group: group is None,
        description="experimental (students of such a base were worse): examples among which noise is "
        "assigned to data at the least sum of squared distances, "
        "exactly, and within a class where there are labels; divides the batch",
    )

    @model_validator(mode="after")
    def _divide_the_batch(self) -> "BaseFitSettings":
        if self.transport is not None and self.batch % self.transport:
            raise ValueError(
                f"transport = {self.transport} does not divide batch = {self.batch}; set it to a divisor"
            )
        return self


class PairFitSettings(FitSettings):
    """What training on pairs has beside."""

    held_out: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.02,
        exclude_if=lambda share: share == 0.02,
        description="share of the pairs kept from training, to see in the log what is memorised",
    )
    perceptual_size: Annotated[int, Field(ge=16)] | None = Field(
        None,
        exclude_if=lambda size: size is None,
        description="pixels to which smaller images are enlarged to be compared by --perceptual FILE; "
        "default: 224",
    )


class ReflowSettings(VelocityFitSettings, PairFitSettings):
    """[reflow]: fitting the velocity on pairs."""


# What a student learns well and stably with, by objective: measured on the digits (docs/results.md). A
# section that leaves these out has them; mean flow with squared errors diverges at 1e-3.
LEARNS_WITH: dict[str, dict[str, str | float]] = {
    "regress": {"distance": "squared", "lr": 1e-3},
    "consistency": {"distance": "pseudo-huber", "lr": 3e-4},
    "meanflow": {"distance": "pseudo-huber", "lr": 1e-3},
}
# What is chosen for one objective, and stays behind when another one is asked for.
OF_AN_OBJECTIVE = ("distance", "lr", "intervals", "instant")


class DistillSettings(PairFitSettings):
    """[distill]: fitting a student of few evaluations on pairs."""

    lr: Positive = Field(
        description="Adam's learning rate after the warm-up; default: the objective's, 3e-4 with "
        "consistency, else 1e-3"
    )

    objective: ObjectiveName = Field(
        "regress",
        exclude_if=lambda objective: objective == "regress",
        description="what a student is fitted to: regress, the ends of pairs after k steps; meanflow, "
        "average velocities over any span; consistency (experimental: behind both where measured), "
        "itself a little later on the teacher's trajectory",
    )
    student_steps: Count = Field(
        1, description="k: network evaluations per image of the student; 1 with meanflow, which takes any"
    )
    distance: DistanceName = Field(
        description="what compares images or velocities; default: the objective's, squared with regress, "
        "else pseudo-huber"
    )
    intervals: Count = Field(
        16,
        exclude_if=lambda count: count == 16,
        description="with consistency: intervals over which the teacher makes one step, in each of the k",
    )
    instant: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.25,
        exclude_if=lambda share: share == 0.25,
        description="with meanflow: share of examples without span, whose target is the velocity itself",
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_the_objective(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        objective = str(content.get("objective", "regress"))
        return LEARNS_WITH.get(objective, LEARNS_WITH["regress"]) | content

    @model_validator(mode="after")
    def _have_the_objective(self) -> "DistillSettings":
        for name, objective in (("intervals", "consistency"), ("instant", "meanflow")):
            if getattr(self, name) != type(self).model_fields[name].default and self.objective != objective:
                raise ValueError(f"{name} is for objective = {objective}; leave it out, or set that")
        if self.objective == "meanflow" and self.student_steps != 1:
            raise ValueError(
                "objective = meanflow draws in any number of steps; leave out student_steps (--steps), or "
                "set distill.objective=regress"
            )
        if self.objective == "meanflow" and self.sharded:
            raise ValueError(
                "sharded = true has no forward-mode derivative, which meanflow needs; use another objective"
            )
        return self
