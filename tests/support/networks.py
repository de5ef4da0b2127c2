"""Small networks of every kind, for tests of what they have in common."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reflow.artifacts import Header
from reflow.artifacts.facts import ModelFacts
from reflow.models import Model, build
from reflow.models.preconditioning import Preconditioned
from reflow.recipes.read import read_recipe
from reflow.recipes.recipe import DitSettings, MlpSettings, ModelSettings, UnetSettings

NETWORKS: dict[str, tuple[type[ModelSettings], dict[str, Any], tuple[int, ...]]] = {
    "mlp": (MlpSettings, {"width": 16, "blocks": 2}, (3,)),
    "unet": (
        UnetSettings,
        {"channels": 8, "multipliers": (1, 2), "blocks": 2, "attention": (8, 4)},
        (3, 8, 8),
    ),
    "dit": (DitSettings, {"width": 24, "depth": 2, "heads": 3}, (3, 4, 6)),
}
KINDS = list(NETWORKS)
kinds = pytest.mark.parametrize("kind", KINDS)


def either(
    kind: str,
    classes: int | None = None,
    *,
    unconditional: bool = False,
    spans: bool = False,
    **changed: Any,
) -> tuple[Preconditioned, Tensor]:
    """Return a float64 network of this kind and four samples for it."""
    settings, chosen, event = NETWORKS[kind]
    torch.manual_seed(0)
    wanted = settings(kind=kind, **(chosen | changed))
    net = build(wanted, event, classes, unconditional=unconditional, spans=spans)
    return net.double(), torch.randn(4, *event, dtype=torch.float64)


def awake(net: Preconditioned) -> Preconditioned:
    """Give the layers that start at zero small weights, as a first training step does."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=rng))
    return net


def model_of(net: nn.Module, facts: ModelFacts, stage: str = "train") -> Model:
    """Return a model of these facts around any network; its recipe is that of points in the plane."""
    recipe = read_recipe("gaussians")
    header = Header("model", stage, 1, recipe.model_dump(mode="json"), {}, facts.to_json())
    return Model(net, header, recipe, facts, "0" * 64)  # type: ignore[arg-type]
