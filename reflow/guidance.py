"""Classifier-free guidance: training without some labels, and following a label further than trained.

In training a share of the labels is replaced by the null label, so that one network learns the velocity
with and without a label. A solver may then follow

    v = v_null + scale (v_label - v_null)

at every t or within an interval of t only. Velocity is an affine function of the score at each x and t,
so this is guidance as of Ho & Salimans 2022 (arXiv:2207.12598), whose w is scale - 1; the interval is of
Kynkaanniemi et al. 2024 (arXiv:2404.07724).

Shapes: x, v (B, *event); t (B,); label (B,) int64. The null label is the number after the last class.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import Losses, Objective, Pair, VelocityField, per_sample, times_of
from reflow.randomness import Draws
from reflow.recipes.recipe import GuidanceSettings


class LabelledField(VelocityField, Protocol):
    """What guidance asks of a model."""

    @property
    def null_label(self) -> int | None:
        """The label that stands for no label, if the model has one."""
        ...

    @property
    def label_dropout(self) -> float:
        """Share of labels that its last stage of training replaced by the null label."""
        ...


@dataclass(frozen=True)
class Guided:
    """The guided velocity of a field, by one call of the field with the batch doubled.

    Samples whose t lies outside of `interval` (first, last) follow their label as trained; they cost
    as much, so that shapes stay constant.
    """

    field: VelocityField
    null_label: int
    scale: float
    interval: tuple[float, float] = (0.0, 1.0)
    evaluations_per_call: ClassVar[int] = 2  # of the network, per sample

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the guided v(x, t), shaped like x, for t (B,) or a scalar."""
        if label is None:
            raise ReflowError("guidance needs a label for every sample")
        t = times_of(t, x)
        labels = torch.cat([torch.full_like(label, self.null_label), label])
        both = self.field(torch.cat([x, x]), torch.cat([t, t]), labels)
        v_null, v_label = both.chunk(2)
        first, last = self.interval
        scale = v_null.new_ones(len(x)).masked_fill((first <= t) & (t <= last), self.scale)
        return torch.lerp(v_null, v_label, per_sample(scale, x))


def guided(model: LabelledField, settings: GuidanceSettings) -> VelocityField:
    """Return the velocity field that the settings ask for: the model itself where guidance is off.

    Raises ReflowError when the model has no null label, or a last stage of training without it (reflow
    with label_dropout = 0, distill) has spoilt it.
    """
    if settings.guidance is None or settings.guidance == 1:
        return model
    what = f"guidance = {settings.guidance:g}"
    null_label = require_null_label(model.null_label, what)
    if not model.label_dropout:
        raise ReflowError(
            f"{what} needs the null label, which this model's last stage did not train; guide the model "
            "that made its pairs, or reflow with --set reflow.label_dropout=0.1"
        )
    return Guided(model, null_label, settings.guidance, settings.guidance_interval)


def evaluations_per_call(field: VelocityField) -> int:
    """Return the network evaluations per sample that one call of a field costs."""
    return field.evaluations_per_call if isinstance(field, Guided) else 1


def require_null_label(null_label: int | None, setting: str) -> int:
    """Return a model's null label; refuse the setting that needs it to a model without one."""
    if null_label is None:
        raise ReflowError(
            f"{setting} needs a null label, and this model has none; train the base model with "
            "--set data.labels=true --set train.label_dropout=0.1"
        )
    return null_label


def drop_labels(objective: Objective, share: float, null_label: int) -> Objective:
    """Return the objective on pairs whose labels are replaced by the null label, each with odds `share`."""

    def on_dropped(field: VelocityField, pair: Pair, draws: Draws) -> Losses:
        assert pair.label is not None
        label = pair.label.masked_fill(draws.uniform() < share, null_label)
        return objective(field, pair._replace(label=label), draws)

    return on_dropped
