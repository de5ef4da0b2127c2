"""Conditional and marginal velocities for data that are a set of points, exactly.

With independent noise a straight line from noise to the point x1 passes through x at time t with the
density N(x; t x1, (1 - t)^2), and then has the velocity (x1 - x) / (1 - t): the *conditional* velocity.
Flow matching fits their mean over all lines through x at t, the *marginal* velocity
E[x1 - x0 | xt = x] (Lipman et al. 2022, arXiv:2210.02747).

Shapes: x (B, D), data (K, D), shares (B, K); t is one number below 1.
"""

import torch
from torch import Tensor


def shares(x: Tensor, t: float, data: Tensor) -> Tensor:
    """Return how probable it is that a line through x at t ends in each point of the data."""
    squares = (x[:, None] - t * data).square().sum(-1)
    return torch.softmax(-squares / (2 * (1 - t) ** 2), 1)


def conditional_velocities(x: Tensor, t: float, data: Tensor) -> Tensor:
    """Return the velocity (B, K, D) of the line through x at t that ends in each point."""
    return (data - x[:, None]) / (1 - t)


def marginal_velocity(x: Tensor, t: float, data: Tensor) -> Tensor:
    """Return the mean (B, D) of the conditional velocities, each with its share."""
    return (shares(x, t, data) @ data - x) / (1 - t)


def beginnings(x: Tensor, t: float, ends: Tensor) -> Tensor:
    """Return the noise x0 (K, D) in which the lines through one point x (D,) at t began."""
    return (x - t * ends) / (1 - t)
