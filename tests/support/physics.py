"""The physics section of models whose flows are known."""

import base64
import io
import json
import re
from functools import cache
from typing import Any

import torch
from networks import model_of
from PIL import Image

from reflow.artifacts.facts import ModelFacts
from reflow.models import Model, build
from reflow.recipes.recipe import MlpSettings
from reflow.report.plane.section import physics_section

MEAN, STD = torch.arange(2.0).sin() / 2, 0.6  # of the data of the fixture `exact`


def model(
    steps: int | None = None,
    classes: int | None = None,
    event: tuple[int, ...] = (2,),
    stage: str = "train",
) -> Model:
    net = build(MlpSettings(kind="mlp", width=8, blocks=1), (2,), classes)
    facts = ModelFacts(event, classes, steps)
    return model_of(net, facts, "distill" if steps else stage).eval().requires_grad_(False)


DATA = MEAN + STD * torch.randn(4000, 2, generator=torch.Generator().manual_seed(5))


@cache
def section() -> str:
    """Return the section of all kinds of models with the fixture `flows`, which must be in use."""
    models = {"base": model(), "reflow": model(stage="reflow"), "distill": model(steps=1)}
    return physics_section(models, DATA, 0)


def payload(page: str) -> dict[str, Any]:
    text = re.search(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert text
    return json.loads(text[1])  # type: ignore[no-any-return]


def opened_png(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
