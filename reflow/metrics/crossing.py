"""Crossing: what a model loses on the pairs that it makes itself.

The least loss over all fields on pairs is zero exactly if their paths do not cross; the model's own loss
is above it. For a model trained on pairs like its own, as a reflowed one, it tells what crossings are left.
"""

import torch
from torch import Tensor

from reflow.distances import squared
from reflow.flow import Pair, VelocityField, interpolate
from reflow.metrics.straightness import midpoints


@torch.no_grad()
def crossing(field: VelocityField, pair: Pair) -> Tensor:
    """Return the mean over t of |v(xt, t) - (x1 - x0)|^2 per dimension (B,).

    xt lies on the lines of the pairs, not on trajectories.
    """
    x0, x1, label = pair
    losses = [
        squared(field(interpolate(x0, x1, t), t, label), x1 - x0)
        for t in (time.expand(len(x0)) for time in midpoints(x0))
    ]
    return torch.stack(losses).mean(0)
