"""The preview of a model: a grid of images, or points in the plane, from noise that never changes."""

import torch

from reflow.models import Model
from reflow.pictures import grid, png
from reflow.pictures.points import scatter
from reflow.recipes.recipe import SolverSettings
from reflow.sampling.generate import generate
from reflow.sampling.methods import usual_method

IMAGES, POINTS = 64, 2000
QUICK = SolverSettings(solver="heun", steps=8, tolerance=None)


def preview(model: Model, *, seed: int, device: torch.device) -> bytes:
    """Return a PNG of quick samples: 16 evaluations each, or as many as a student was made for."""
    count = IMAGES if len(model.event) == 3 else POINTS
    method = QUICK if model.student_steps is None else usual_method(model)
    batches = generate(model, count, method=method, seed=seed, stream="preview", batch=count, device=device)
    samples = torch.cat([batch.pair.x1 for batch in batches])
    return png(grid(samples, columns=8)) if samples.ndim == 4 else scatter(samples)
