"""The loss of the averaged model on examples it has not been trained on, and on as many that it has.

Noise, times and examples never change, so that successive figures differ by the model alone; the
difference between the two sides is what the model has memorised.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from reflow.couplings import Coupling
from reflow.flow import Objective
from reflow.randomness import draws

EXAMPLES = 512  # on each side, at most

Side = tuple[Coupling, int]  # with its number of examples


def sides(training: Side, held_out: Side) -> dict[str, Side]:
    """Return the two sides by their names in the log; none where nothing is held out."""
    return {"held_out_loss": held_out, "training_loss": training} if held_out[1] else {}


@torch.no_grad()
def validate(
    model: nn.Module,
    sides: Mapping[str, Side],
    objective: Objective,
    *,
    batch: int,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Return the mean loss of each side, a coupling and its number of examples, by name."""
    losses = {}
    for name, (coupling, available) in sides.items():
        count = min(EXAMPLES, available)
        each = []
        for first in range(0, count, batch):
            rows = np.arange(first, min(first + batch, count))
            chosen = draws(device, count, rows, seed=seed, stream="validation")
            each.append(objective(model, coupling.draw(rows, chosen), chosen).each)
        losses[name] = float(torch.cat(each).mean())
    return losses
