"""Networks from recipes, and models as users load them.

A model is a velocity field (x (B, *event), t (B,) or scalar, label (B,) or None) -> (B, *event) with
the averaged weights, and knows where it comes from.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reflow.artifacts import MODEL, Header, damaged, file_digest, read_artifact
from reflow.artifacts.facts import ModelFacts, model_facts
from reflow.errors import ReflowError
from reflow.flow import VelocityField, times_of
from reflow.models.dit import Dit
from reflow.models.mlp import Mlp
from reflow.models.preconditioning import Network, Preconditioned
from reflow.models.unet import Unet
from reflow.recipes.network import DitSettings, MlpSettings, UnetSettings
from reflow.recipes.read import parse_recipe
from reflow.recipes.recipe import ModelSettings, Recipe
from reflow.recipes.training import VelocityFitSettings


class Model(nn.Module):
    """A trained velocity field with its header, what that says as values, and the SHA-256 of its file."""

    def __init__(
        self, net: Preconditioned, header: Header, recipe: Recipe, facts: ModelFacts, digest: str
    ) -> None:
        super().__init__()
        self.net = net
        self.header, self.recipe, self.facts = header, recipe, facts
        self.digest = digest

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.facts.event

    @property
    def classes(self) -> int | None:
        """Number of classes the model is conditioned on, or None."""
        return self.facts.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called, where its training has noted it."""
        return self.facts.class_names

    @property
    def null_label(self) -> int | None:
        """The label that stands for no label, after those of the classes, or None without one."""
        return self.classes if self.facts.unconditional else None

    @property
    def label_dropout(self) -> float:
        """Share of labels that its last stage replaced by the null label."""
        stage = getattr(self.recipe, self.header.stage)
        return stage.label_dropout if isinstance(stage, VelocityFitSettings) else 0.0

    @property
    def student_steps(self) -> int | None:
        """Euler steps that a distilled model was made for, or None for a velocity field."""
        return self.facts.student_steps

    @property
    def spans(self) -> bool:
        """Whether it knows average velocities, and so draws in any number of Euler steps."""
        return self.facts.spans

    def in_steps(self, steps: int) -> VelocityField:
        """Return the field that a student of average velocities follows in just `steps` equal Euler steps.

        Raises ReflowError for models that know no average velocities.
        """
        if not self.spans:
            raise ReflowError(
                "in_steps is for students of distill.objective = meanflow; call this model itself"
            )

        def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            t = times_of(t, x)
            average: Tensor = self(x, t, label, t + 1 / steps)
            return average

        return field

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, end_time: Tensor | None = None
    ) -> Tensor:
        """Return the velocity v(x, t), shaped like x.

        Of a student of average velocities: the average from t to `end_time`, 1 if none is given.
        """
        if tuple(x.shape[1:]) != self.event:
            raise ReflowError(f"this model works on {self.event}, not on {tuple(x.shape[1:])}")
        if self.spans and end_time is None:
            end_time = torch.ones_like(times_of(t, x))
        if end_time is not None and not self.spans:
            raise ReflowError("only students of distill.objective = meanflow know average velocities")
        velocity: Tensor = self.net(x, t, label, end_time)
        return velocity


def build(
    settings: ModelSettings,
    event: tuple[int, ...],
    classes: int | None,
    *,
    unconditional: bool = False,
    spans: bool = False,
) -> Preconditioned:
    """Return the network of a recipe for samples of this shape, with random weights.

    With `unconditional` it knows one label more than there are classes: the null label. With `spans` it
    gives average velocities, too.
    """
    labels = None if classes is None else classes + unconditional
    network = BUILDERS[settings.kind](settings, event, labels, spans)
    return Preconditioned(network, settings.sigma_data)


def _mlp(settings: MlpSettings, event: tuple[int, ...], labels: int | None, spans: bool) -> Mlp:
    if len(event) != 1:
        raise ReflowError(f"model.kind = mlp is for vectors, not for images {event}; use unet or dit")
    return Mlp(
        event[0],
        width=settings.width,
        blocks=settings.blocks,
        dropout=settings.dropout,
        labels=labels,
        spans=spans,
    )


def _unet(settings: UnetSettings, event: tuple[int, ...], labels: int | None, spans: bool) -> Unet:
    if len(event) != 3:
        raise ReflowError(f"model.kind = unet is for images, not for vectors {event}; use mlp")
    halvings = len(settings.multipliers) - 1
    coarsest = settings.patch * 2**halvings
    if event[1] % coarsest or event[2] % coarsest:
        patches = f"cut into patches of {settings.patch} and " * (settings.patch > 1)
        raise ReflowError(
            f"images of {event[1]} x {event[2]} pixels cannot be {patches}halved {halvings} times; "
            "shorten model.multipliers or set data.size"
        )
    levels = [event[1] // settings.patch >> level for level in range(len(settings.multipliers))]
    strange = sorted(set(settings.attention) - set(levels))
    if strange:
        raise ReflowError(
            f"model.attention = {strange[0]}: the resolutions of this model are "
            f"{', '.join(map(str, levels))}; choose among them"
        )
    unet = Unet(
        (event[0], event[1], event[2]),
        channels=settings.channels,
        multipliers=settings.multipliers,
        blocks=settings.blocks,
        attention=settings.attention,
        patch=settings.patch,
        dropout=settings.dropout,
        labels=labels,
        spans=spans,
    )
    # nn.Module.to has no typed overload for a memory format alone.
    return unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _dit(settings: DitSettings, event: tuple[int, ...], labels: int | None, spans: bool) -> Dit:
    if len(event) != 3:
        raise ReflowError(f"model.kind = dit is for images, not for vectors {event}; use mlp")
    if event[1] % settings.patch or event[2] % settings.patch:
        raise ReflowError(
            f"images of {event[1]} x {event[2]} pixels cannot be cut into patches of {settings.patch} x "
            f"{settings.patch}; choose model.patch among the divisors of both, or set data.size"
        )
    shape = settings.shape
    return Dit(
        (event[0], event[1], event[2]),
        width=shape.width,
        depth=shape.depth,
        heads=shape.heads,
        patch=settings.patch,
        dropout=settings.dropout,
        labels=labels,
        spans=spans,
    )


BUILDERS: dict[str, Callable[[Any, tuple[int, ...], int | None, bool], Network]] = {
    "mlp": _mlp,
    "unet": _unet,
    "dit": _dit,
}


def load_model(path: str | Path) -> Model:
    """Return the model in a file or in a stage's directory, checked, on the CPU, for inference.

    Raises ReflowError when the file is missing, foreign, damaged or not a model.
    """
    path = model_file(Path(path))
    header, tensors = read_artifact(path, "model")
    recipe = parse_recipe(header.recipe, origin=f"the recipe in {path}")
    try:
        facts = model_facts(header.facts)
    except ValueError as error:
        raise damaged(path, "its facts are not a model's") from error
    net = build(
        recipe.model, facts.event, facts.classes, unconditional=facts.unconditional, spans=facts.spans
    )
    load_weights(net, tensors, path)
    return Model(net, header, recipe, facts, file_digest(path)).eval().requires_grad_(False)


def load_weights(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into the network; refuse other names or shapes."""
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:100]
        raise damaged(path, f"its weights do not fit its recipe ({reason} ...)") from error


def model_file(path: Path) -> Path:
    """Return the model's file for a file or a directory."""
    return path / MODEL if path.is_dir() else path
