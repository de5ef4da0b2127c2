"""The figures of docs/math.md draw closed forms that are right, and are small."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fields import independent_end, mixture

DOCS = Path(__file__).parents[2] / "docs"
SPEC = importlib.util.spec_from_file_location("make_math_figures", DOCS / "make_math_figures.py")
assert SPEC and SPEC.loader
figures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(figures)

FIELD = mixture(
    torch.from_numpy(figures.SHARES),
    torch.from_numpy(figures.CENTRES)[:, None],
    torch.full((2,), figures.WIDTH, dtype=torch.float64),
)


def test_the_velocity_on_the_line_is_that_of_the_mixture() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for t in (0.0, 0.4, 0.75, 1.0):
        wanted = FIELD(x[:, None], torch.full((9,), t, dtype=torch.float64))[:, 0]
        assert figures.velocity(x.numpy(), t) == pytest.approx(wanted.numpy(), rel=1e-10)


def test_trajectories_on_the_line_follow_their_quantiles() -> None:
    x0 = np.array([-2.0, -0.5, 0.1, 0.24, 1.3])
    found = figures.trajectories(x0, np.array([0.5, 1.0]))
    for moment, t in enumerate((0.5, 1.0)):
        wanted = independent_end(FIELD, torch.from_numpy(x0)[:, None], t)[:, 0]
        assert found[moment] == pytest.approx(wanted.numpy(), abs=1e-6)  # what the solver leaves


def test_every_figure_is_in_the_text_and_small() -> None:
    shown = re.findall(r"\(images/([\w-]+)\.svg\)", (DOCS / "math.md").read_text("utf-8"))
    assert sorted(shown) == sorted(figures.FIGURES)
    for name in shown:
        assert (DOCS / "images" / f"{name}.svg").stat().st_size < 100_000
